"""A frame that compiled code carries: float64, renormalised by LU at every step.

At every step, since a frame that comes from a renormalisation is a triangle, which halves the
product; the LU costs less than what the full product would add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from optuna_aelle.lyapunov.carriers import Carrier
from optuna_aelle.lyapunov.compiled import functions
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StagedTangent
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.plan import Plan
from optuna_aelle.lyapunov.renormalization import log_volume
from optuna_aelle.lyapunov.spectrum import Computation

# At this one, eight digits of a volume are left.
_MAX_DEPENDENCE = 1e8
_KINDS = {"mixed": functions.MIXED, "lstm": functions.LSTM}
# Rows whose starts lie a multiple of this apart push each other out of the first cache.
_CROWDED = 256
# Up to which size one system to a lane is faster, if no lane is spare ...
_MAX_SMALL = 16
# ... and if some are: the size times the lanes that are taken up for each system.
_MAX_SMALL_WITH_SPARE = 20
# What a thread of its own costs, in multiplications.
_PARALLEL_FROM = 10_000_000
# Numbers of the Jacobians that are formed at once.
_DENSE_NUMBERS = 2**21


class CompiledCarrier(Carrier):
    """See `optuna_aelle.lyapunov.compiled.carrier_for`, which makes them.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> plan = Plan(0, (10, 10), frozenset({10}), "auto", None, None, sum_rule=False)
        >>> start = layer.initial_state(1, 2, None)
        >>> carrier = CompiledCarrier(layer, start, torch.eye(4).double().repeat(2, 1, 1), plan)
        >>> trajectory = layer.unroll(layer.drive(torch.randn(10, 1, 2, 3).double()), start)
        >>> carrier.carry(carrier.prepare(trajectory))
        >>> carrier.sums.shape
        torch.Size([2, 4])
    """

    def __init__(self, layer: RecurrentMap, state: State, frame: Tensor, plan: Plan) -> None:
        self._layer = layer
        layer.use_frame_dtype(torch.float64)
        n_systems, self._k, self._size = frame.shape
        self._n_models = n_systems // (state[0].shape[1])
        self._frames = self._padded(layer.to_working(state, frame.double()))
        self._orders = torch.arange(self._size).expand(n_systems, -1).contiguous()
        self._triangular = False
        self._kind = functions.DENSE
        self._gates_t = torch.zeros(self._n_models, 1, 1, 1, dtype=torch.float64)
        compact = layer.compact()
        if compact is not None:
            self._kind = _KINDS[compact[0]]
            self._gates_t = torch.stack(list(compact[1]), dim=1)
        self._form = self._kind
        self.sums = torch.zeros(n_systems, self._k, dtype=torch.float64)

    @property
    def computation(self) -> Computation:
        return Computation("lu", "float64", 1.0, 0, compiled=True)

    def prepare(self, trajectory: Trajectory) -> list[Tensor]:
        self._form = self._kind
        if self._kind == functions.LSTM and isinstance(self._layer, StagedTangent):
            delicate = self._layer.delicate(trajectory)
            if delicate is not None:
                self._form = functions.STAGED
                *parts, cell_lift, output_lift = delicate
                lifts = (cell_lift.chunk(2, dim=-1)[1], output_lift.chunk(2, dim=-1)[0])
                return [torch.stack([c.flatten(1, 2) for c in (*parts, *lifts)], dim=2)]
        linearized = [c.flatten(1, 2) for c in self._layer.linearize(trajectory)]
        return linearized if self._kind == functions.DENSE else [torch.stack(linearized, dim=2)]

    def carry(self, coefficients: Sequence[Tensor]) -> None:
        if self._kind == functions.DENSE:
            n_systems = len(self._frames)
            n_steps = max(1, _DENSE_NUMBERS // (n_systems * self._size**2))
            for start in range(0, len(coefficients[0]), n_steps):
                part = [c[start : start + n_steps] for c in coefficients]
                self._carry(self._layer.jacobians_t(part, self._n_models))
        else:
            self._carry(coefficients[0])
        _check_finite(self.sums)

    def _carry(self, coefficients: Tensor) -> None:
        given = coefficients.double().contiguous().numpy()
        gates_t, frames = self._gates_t.numpy(), self._frames.numpy()
        orders, sums = self._orders.numpy(), self.sums.numpy()

        small = self._form == functions.MIXED and _fits_lanes(self._size, len(frames))

        def of(first: int, last: int) -> None:
            systems, shape = (first, last), (self._k, self._size)
            if small:
                functions.carry_lanes(gates_t, given, systems, frames, *shape, sums)
            else:
                state = (frames, orders, self._triangular)
                functions.carry(self._form, gates_t, given, systems, *state, *shape, sums)

        cost = len(given) * self._k * self._size**2
        self._in_threads(of, cost, functions.LANES if small else 1)
        self._triangular = not small

    def log_volume(self, state: State) -> Tensor:
        frames = self._frames
        here = frames[:, : self._k, : self._size]
        there = self._layer.from_working(state, here)
        if there is not here:
            frames = self._padded(there)
        volumes = torch.zeros_like(self.sums)
        errors: list[float] = []

        def of(first: int, last: int) -> None:
            bounds = (first, last)
            errors.append(
                functions.add_log_volumes(
                    frames.numpy(), bounds, self._k, self._size, volumes.numpy()
                )
            )

        self._in_threads(of, self._k**2 * self._size)
        # Vectors that are nearly dependent have lost their digits in their products.
        if not all(error <= _MAX_DEPENDENCE for error in errors):
            volumes = log_volume(there)
            _check_finite(volumes)
        return volumes

    def _in_threads(self, run: Callable[[int, int], None], cost: int, at_once: int = 1) -> None:
        """All systems, spread over as many threads as PyTorch has if that pays.

        Args:
            run: Takes the systems from the first to before the second.
            cost: Multiplications for one system.
            at_once: How many are to stay together.
        """
        n_systems = len(self._frames)
        n_groups = -(-n_systems // at_once)
        n_threads = min(torch.get_num_threads(), n_groups)
        if n_threads == 1 or cost * n_systems < _PARALLEL_FROM:
            run(0, n_systems)
            return
        shares = [round(i * n_groups / n_threads) for i in range(n_threads + 1)]
        bounds = [min(share * at_once, n_systems) for share in shares]
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(run, bounds[:-1], bounds[1:]))

    def _padded(self, frame: Tensor) -> Tensor:
        n_systems, k, size = frame.shape
        rows = -(-k // functions.ROWS) * functions.ROWS
        width = -(-size // functions.LANES) * functions.LANES
        if width % _CROWDED == 0:
            width += functions.LANES
        padded = frame.new_zeros(n_systems, rows, width)
        padded[:, :k, :size] = frame
        return padded


def _fits_lanes(size: int, n_systems: int) -> bool:
    n_lanes = -(-n_systems // functions.LANES) * functions.LANES
    return n_systems > 1 and size <= min(_MAX_SMALL, _MAX_SMALL_WITH_SPARE * n_systems / n_lanes)


def _check_finite(logs: Tensor) -> None:
    # −inf is a dead direction.
    if math.isnan(np.add.reduce(logs.numpy(), axis=None)):
        raise FloatingPointError(
            "Expected tangent vectors that stay finite, but within one step they overflowed or "
            "became NaN. Check the derivative of the step function, or scale the weights down."
        )
