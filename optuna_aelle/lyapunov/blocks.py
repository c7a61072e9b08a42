"""The inner loop: a few Jacobian products and one renormalisation.

On a GPU such a block takes the device less time than the host needs to launch its kernels, as long
as the network is small. The same block comes back along the whole sequence, so that it is recorded
once as a CUDA graph and replayed; where that fails (a library that synchronises inside), it runs
as it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from optuna_aelle.lyapunov.lapack import LUFactors
from optuna_aelle.lyapunov.maps.base import DenseJacobian
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.renormalization import METHODS
from optuna_aelle.lyapunov.renormalization import factor


def carry_block(
    layer: RecurrentMap, frame: Tensor, coefficients: Sequence[Tensor], method: str
) -> tuple[Tensor, Tensor]:
    """Carry a frame through a few steps and renormalise it.

    Args:
        layer: Whose Jacobians.
        frame: ``(S, k, N)``, not changed.
        coefficients: Of J, ``(n, S, ·)`` each, in the dtype of the frame.
        method: A name of `METHODS`.

    Returns:
        The new frame and ln|diag R| ``(S, k)``.

    Example:
        >>> from optuna_aelle.lyapunov.maps.step import StepMap
        >>> layer = StepMap(lambda x, h: 0.5 * h, 2, torch.float64, torch.device("cpu"))
        >>> halves = 0.5 * torch.eye(2).double().expand(3, 1, 2, 2)  # of three steps
        >>> carry_block(layer, torch.eye(2).double()[None], [halves], "qr")[1].exp()
        tensor([[0.1250, 0.1250]], dtype=torch.float64)
    """
    for of_step in zip(*(c.unbind(0) for c in coefficients), strict=True):
        frame = layer.tangent(of_step, frame)
    return METHODS[method](frame)


def carry_factors(
    layer: DenseJacobian, frame: Tensor | LUFactors, coefficients: Sequence[Tensor]
) -> tuple[LUFactors, Tensor]:
    """As `carry_block` by LU, with the frame left as its factors for the block that follows.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> slopes = torch.ones(1, 2, 4).double()  # of one step
        >>> factors, growth = carry_factors(layer, torch.eye(4).double().repeat(2, 1, 1), [slopes])
        >>> factors.packed_t.shape, growth.shape
        (torch.Size([2, 4, 4]), torch.Size([2, 4]))
    """
    for of_step in zip(*(c.unbind(0) for c in coefficients), strict=True):
        if isinstance(frame, LUFactors):
            frame = frame.carried_by(layer.jacobian_t(of_step))
        else:
            frame = layer.tangent(of_step, frame)
    # A block has at least one step, after which there are no factors left.
    assert isinstance(frame, Tensor)
    return factor(frame)


class GraphedBlocks:
    """`carry_block` for one layer on a CUDA device, recorded when it comes a second time.

    Example:
        >>> from optuna_aelle.lyapunov.maps.step import StepMap
        >>> layer = StepMap(lambda x, h: 0.5 * h, 2, torch.float64, torch.device("cpu"))
        >>> halves = 0.5 * torch.eye(2).double().expand(3, 1, 2, 2)  # of three steps
        >>> GraphedBlocks()(layer, torch.eye(2).double()[None], [halves], "qr")[1].exp()
        tensor([[0.1250, 0.1250]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], _Graph | None] = {}
        self._seen: set[tuple[object, ...]] = set()

    def __call__(
        self, layer: RecurrentMap, frame: Tensor, coefficients: Sequence[Tensor], method: str
    ) -> tuple[Tensor, Tensor]:
        key = (len(coefficients[0]), method, frame.dtype)
        if key not in self._seen:
            # The first time loads libraries, which a recording must not.
            self._seen.add(key)
            return carry_block(layer, frame, coefficients, method)
        # One recording at a time in a process; who finds another one at it runs eagerly.
        if key not in self._graphs and _recording.acquire(blocking=False):
            try:
                self._graphs[key] = _record(layer, frame, coefficients, method)
            finally:
                _recording.release()
        graph = self._graphs.get(key)
        if graph is None:
            return carry_block(layer, frame, coefficients, method)
        return graph.replay(frame, coefficients)


_recording = threading.Lock()


def _record(
    layer: RecurrentMap, frame: Tensor, coefficients: Sequence[Tensor], method: str
) -> _Graph | None:
    stream = torch.cuda.current_stream(frame.device) if frame.is_cuda else None
    try:
        with torch.cuda.device(frame.device) if frame.is_cuda else nullcontext():
            return _Graph(layer, frame, coefficients, method)
    except RuntimeError as error:
        # A recording that breaks off leaves its own stream behind as the current one.
        if stream is not None:
            torch.cuda.set_stream(stream)
        warnings.warn(f"No CUDA graph of this block, it runs eagerly: {error}", stacklevel=4)
        return None


class _Graph:
    """One recorded block with its fixed places for inputs and results."""

    def __init__(
        self, layer: RecurrentMap, frame: Tensor, coefficients: Sequence[Tensor], method: str
    ) -> None:
        self._frame = frame.clone()
        self._coefficients = [c.clone() for c in coefficients]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on training: only this one must not allocate meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = carry_block(layer, self._frame, self._coefficients, method)

    def replay(self, frame: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self._frame.copy_(frame)
        for place, values in zip(self._coefficients, coefficients, strict=True):
            place.copy_(values)
        self._graph.replay()
        carried, log_growth = self._result
        return carried.clone(), log_growth.clone()
