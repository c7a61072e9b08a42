"""Batched LU with partial pivoting, from the fastest LAPACK at hand, and products with its L.

On the CPU, the getrf that PyTorch calls (MKL's) takes up to twice the time of the one that SciPy
brings (OpenBLAS'), on the processors that were measured and for matrices of 64 to 512 rows. So
SciPy's is used where it is installed and the computation has one thread; with more, PyTorch's
shares the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence
from functools import cache
from typing import Any
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_aelle._threads import one_thread

# From here on it pays to multiply by a triangle, system by system, instead of by a whole frame.
_MIN_TRIANGLE = 64


class LUFactors(NamedTuple):
    """Z = P L U of a frame's transposes.

    Attributes:
        packed_t: L and U in one, transposed as the frame is, ``(S, k, N)``.
        rows: ``(S, N)`` which row of P L each row of L is.
        spare: Memory of the frame's shape that is free to be written to, if there is some.

    Example:
        >>> lu_factors(torch.tensor([[[2.0, 4.0], [1.0, 0.0]]])).frame()
        tensor([[[0.5000, 1.0000],
                 [1.0000, 0.0000]]])
    """

    packed_t: Tensor
    rows: Tensor
    spare: Tensor | None = None

    def frame(self) -> Tensor:
        """P L as a frame ``(S, k, N)``; overwrites the factors."""
        lower_t = self.packed_t.triu_(diagonal=1)
        torch.diagonal(lower_t, dim1=-2, dim2=-1).fill_(1.0)
        spare = torch.empty_like(lower_t) if self.spare is None else self.spare
        return spare.scatter_(-1, self.rows[:, None, :].expand_as(lower_t), lower_t)

    def carried_by(self, jacobian_t: Tensor) -> Tensor:
        """J P L as a frame, from Jᵀ ``(S, N, N)``: half the work that ``frame()`` would make.

        For frames that `can_be_carried_as_factors`.
        """
        size = jacobian_t.shape[-1]
        first_rows = torch.arange(0, jacobian_t.shape[0] * size, size)
        rows = (self.rows + first_rows[:, None]).flatten()
        carried_t = jacobian_t.reshape(-1, size).index_select(0, rows).view_as(jacobian_t)
        trmm = getattr(_scipy().blas, "strmm" if jacobian_t.dtype == torch.float32 else "dtrmm")
        for packed_t, system_t in zip(self.packed_t.numpy(), carried_t.numpy(), strict=True):
            # Row-major is LAPACK's transpose, which is overwritten where it lies.
            trmm(1.0, packed_t.T, system_t.T, side=1, lower=1, diag=1, overwrite_b=1)
        return carried_t


def can_be_carried_as_factors(frame: Tensor) -> bool:
    """Whether `LUFactors.carried_by` is there for frames like this one, and pays.

    Example:
        >>> can_be_carried_as_factors(torch.zeros(4, 8, 16))  # too few tangent vectors
        False
    """
    _, k, size = frame.shape
    on_cpu = frame.device.type == "cpu"
    return on_cpu and k == size >= _MIN_TRIANGLE and _scipy_getrf(frame.dtype) is not None


def lu_factors(frame: Tensor) -> LUFactors:
    """Factor the transposes of ``frame (S, k, N)``, whose memory may be used for the result.

    Example:
        >>> lu_factors(torch.tensor([[[2.0, 4.0], [1.0, 0.0]]])).rows
        tensor([[1, 0]])
    """
    if frame.device.type != "cpu":
        factors, pivots, _ = torch.linalg.lu_factor_ex(frame.mT, check_errors=False)
        permutation, _, _ = torch.lu_unpack(factors, pivots, unpack_data=False)
        return LUFactors(factors.mT, permutation.argmax(dim=-2), spare=frame)
    getrf = _scipy_getrf(frame.dtype)
    if getrf is None:
        factors, pivots, _ = torch.linalg.lu_factor_ex(frame.mT, check_errors=False)
        rows = _row_order(pivots.numpy() - 1, frame.shape[-1])
        return LUFactors(factors.mT, rows, spare=frame)
    # A row-major (k, N) is LAPACK's (N, k), which is factored where it lies.
    packed_t = frame.contiguous()
    swaps = [getrf(system.T, overwrite_a=1)[1] for system in packed_t.numpy()]
    rows = _row_order(swaps, frame.shape[-1])
    return LUFactors(packed_t, rows)


class _SingleThreaded:
    """Keep SciPy's LAPACK to the thread that calls it: its own pool would fight PyTorch's.

    Only where SciPy's LAPACK is used: where PyTorch has one thread.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __enter__(self) -> None:
        counted: list[bool] = self._of_thread.__dict__.setdefault("counted", [])
        counted.append(_scipy() is not None and torch.get_num_threads() == 1)
        if counted[-1]:
            one_thread.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._of_thread.counted.pop():
            one_thread.__exit__()


single_threaded = _SingleThreaded()


@cache
def _scipy() -> Any:
    """SciPy's linear algebra; None where it is not installed."""
    try:
        import scipy.linalg
    except ImportError:
        return None
    return scipy.linalg


def _scipy_getrf(dtype: torch.dtype) -> Callable[..., Any] | None:
    if _scipy() is None or torch.get_num_threads() > 1:
        return None
    getrf: Callable[..., Any] = getattr(
        _scipy().lapack, "sgetrf" if dtype == torch.float32 else "dgetrf"
    )
    return getrf


def _row_order(swaps: Sequence[Any], size: int) -> Tensor:
    """LAPACK's ``swaps (S, k)``, row i with row ``swaps[i]`` in turn, as a permutation."""
    if _scipy() is not None:
        rows = np.arange(size, dtype=np.float64)[:, None]
        columns = [_scipy().lapack.dlaswp(rows, of_system) for of_system in swaps]
        return torch.from_numpy(np.concatenate(columns, axis=1).T.astype(np.int64))
    orders = []
    for of_system in swaps:
        order = list(range(size))
        for i, j in enumerate(of_system.tolist()):
            order[i], order[j] = order[j], order[i]
        orders.append(order)
    return torch.tensor(orders)
