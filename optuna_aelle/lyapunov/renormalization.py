"""Keeping k tangent vectors apart without changing the flag that they span.

A step turns the frame F into Z = J F. Any factorisation Z = F' R with R upper triangular leaves
the nested subspaces spanned by the first 1, 2, ... columns as they are, so ln|diag R| may be
summed and F' carried on (`log_volume` makes the sums those of an orthonormal frame). QR makes F'
orthonormal (Benettin et al. 1980). LU with row pivoting, Z = (P L) U, costs a quarter of it and is
the more accurate one where J = diag(d) U has rows of very different size, since elimination never
mixes a large row into a small one. Cholesky of the Gram matrix squares the condition number but
consists of large products, which is what a GPU is fast at.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from optuna_aelle.lyapunov.lapack import LUFactors
from optuna_aelle.lyapunov.lapack import lu_factors

Renormalization = Callable[[Tensor], tuple[Tensor, Tensor]]


def renormalize_qr(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalise ``frame (S, k, N)``; returns it with ln|diag R| ``(S, k)`` float64.

    A zero on the diagonal gives −inf, and the frame still comes back orthonormal.

    Example:
        >>> frame, growth = renormalize_qr(torch.tensor([[[2.0, 0.0], [5.0, 0.5]]]))
        >>> growth.exp()
        tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    q, r = torch.linalg.qr(frame.mT)
    return q.mT.contiguous(), _log_diagonal(r)


def renormalize_lu(frame: Tensor, lift: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Turn ``frame (S, k, N)`` into P L; returns it with ln|diag U| ``(S, k)`` float64.

    A dead direction gives a pivot of exactly 0, hence −inf, and a unit column in its place.

    Args:
        frame: Tangent vectors; overwritten.
        lift: ``(S, N)`` what is to be added to the logarithm of a pivot for the row it is found
            in: the part of the row's scale that the numbers have no room for.

    Example:
        >>> frame, growth = renormalize_lu(torch.tensor([[[2.0, 0.0], [5.0, 0.5]]]))
        >>> growth.exp()
        tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    factors, log_diagonal = factor(frame)
    if lift is not None:
        log_diagonal += lift.gather(1, factors.rows[:, : frame.shape[1]])
    return factors.frame(), log_diagonal


def factor(frame: Tensor) -> tuple[LUFactors, Tensor]:
    """As `renormalize_lu`, with P and L as they come out of it.

    Example:
        >>> factors, growth = factor(torch.tensor([[[2.0, 0.0], [5.0, 0.5]]]))
        >>> factors.frame()
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    factors = lu_factors(frame)
    return factors, _log_diagonal(factors.packed_t)


def renormalize_cholesky(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalise ``frame (S, k, N)`` by its float64 Gram matrix.

    Returns it with ln diag R ``(S, k)``, all NaN for a system whose Gram matrix is not positive
    definite: its frame is lost, and the step has to be done in another way.

    Example:
        >>> frame, growth = renormalize_cholesky(torch.tensor([[[2.0, 0.0], [5.0, 0.5]]]))
        >>> growth.exp()
        tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    wide = frame.double()
    lower, info = torch.linalg.cholesky_ex(wide @ wide.mT, check_errors=False)
    orthonormal = torch.linalg.solve_triangular(lower, wide, upper=False)
    log_diagonal = _log_diagonal(lower).masked_fill(info[:, None] != 0, torch.nan)
    return orthonormal.to(frame.dtype), log_diagonal


METHODS: dict[str, Renormalization] = {
    "lu": renormalize_lu,
    "qr": renormalize_qr,
    "cholesky": renormalize_cholesky,
}


def log_volume(frame: Tensor) -> Tensor:
    """ln|diag R| of ``frame (S, k, N)``, ``(S, k)`` float64: what it is from being orthonormal.

    Example:
        >>> log_volume(torch.tensor([[[2.0, 0.0], [5.0, 0.5]]])).exp()
        tensor([[2.0000, 0.5000]], dtype=torch.float64)
    """
    wide = frame.double()
    if wide.device.type != "cpu":
        # QR of a batch goes matrix by matrix on a GPU. A renormalised frame is well-conditioned
        # as a rule, and then its Gram matrix tells the same.
        lower, info = torch.linalg.cholesky_ex(wide @ wide.mT, check_errors=False)
        if not bool(info.any()):
            return _log_diagonal(lower)
    return _log_diagonal(torch.linalg.qr(wide.mT, mode="r").R)


_fastest: dict[tuple[object, ...], str] = {}


def fastest_method(frame: Tensor) -> str:
    """LU on the CPU; elsewhere LU or Cholesky, whichever is faster for this shape of frame.

    Example:
        >>> fastest_method(torch.zeros(4, 8, 16))
        'lu'
    """
    if frame.device.type == "cpu":
        return "lu"
    key = (frame.device, frame.shape, frame.dtype)
    if key not in _fastest:
        seconds = {name: _seconds(METHODS[name], frame) for name in ("lu", "cholesky")}
        _fastest[key] = min(seconds, key=seconds.__getitem__)
    return _fastest[key]


def _seconds(renormalize: Renormalization, frame: Tensor, repeats: int = 5) -> float:
    # The first call loads libraries and chooses algorithms.
    renormalize(frame.clone())
    torch.cuda.synchronize(frame.device)
    started = time.perf_counter()
    for _ in range(repeats):
        renormalize(frame.clone())
    torch.cuda.synchronize(frame.device)
    return time.perf_counter() - started


def _log_diagonal(triangular: Tensor) -> Tensor:
    return torch.diagonal(triangular, dim1=-2, dim2=-1).double().abs().log()
