"""Carrying a frame along the Jacobians of a layer, in the way that is cheapest for them.

Notation as in `maps.base`. A *product* is a stretch of steps along which the frame is carried
without the host looking at it. How often the frame is renormalised follows from what is observed:
the longest interval in which directions are not expected to come apart by more than the digits of
the frame allow. A product in which they did is done again with a shorter one.
"""

from __future__ import annotations

import math
from abc import ABC
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_aelle.lyapunov.blocks import GraphedBlocks
from optuna_aelle.lyapunov.blocks import carry_block
from optuna_aelle.lyapunov.blocks import carry_factors
from optuna_aelle.lyapunov.lapack import LUFactors
from optuna_aelle.lyapunov.lapack import can_be_carried_as_factors
from optuna_aelle.lyapunov.maps.base import DenseJacobian
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StagedTangent
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.plan import Plan
from optuna_aelle.lyapunov.renormalization import fastest_method
from optuna_aelle.lyapunov.renormalization import log_volume
from optuna_aelle.lyapunov.spectrum import Computation

# Each further step between two renormalisations saves less, and costs more where it was too many.
_MAX_INTERVAL = 8
# Steps of a product: the first ones show how fast directions part; later the host looks rarely,
# but a product that has to be done again is still a short one.
_MIN_PRODUCT = 4
_MAX_PRODUCT = 32
# How far directions may come apart between two renormalisations, in nats: the digits that are left
# keep the growth of the last one to 1e-4 in float32 and to 1e-7 in float64.
_MAX_SPREAD = {torch.float32: 8.0, torch.float64: 20.0}
# What a direction may grow or shrink by in that time: products and pivots must not underflow.
_MAX_GROWTH = {torch.float32: 30.0, torch.float64: 250.0}
# Below this size a float64 frame costs next to nothing.
_NARROW_FROM_SIZE = 64
# Up to this one, the rarer renormalisations of float64 outweigh the cheaper products of float32 on
# a CPU, unless float32 allows as many steps as this between two of them.
_NARROW_ALWAYS_SIZE = 192
_NARROW_INTERVAL = 4
# A Gram matrix squares what directions differ by: at this spread five digits of float64 are left.
_MAX_CHOLESKY_SPREAD = 12.0
# Rows of J below this leave float32 too little room: products of two of them underflow.
_NARROWEST_ROW = 1e-15


class Carrier(ABC):
    """A frame on its way along the Jacobians of one layer.

    Attributes:
        sums: ``(S, k)`` float64, of ln|diag R|; whoever reads them may set them to zero.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> plan = Plan(0, (10, 10), frozenset({10}), "lu", None, None, sum_rule=False)
        >>> start = layer.initial_state(1, 2, None)
        >>> frame = torch.eye(4).double().repeat(2, 1, 1)
        >>> carrier = AdaptiveCarrier(layer, start, frame, plan)
        >>> trajectory = layer.unroll(layer.drive(torch.randn(10, 1, 2, 3).double()), start)
        >>> carrier.carry(carrier.prepare(trajectory))
        >>> carrier.sums.shape, carrier.computation.method
        (torch.Size([2, 4]), 'lu')
    """

    sums: Tensor

    @abstractmethod
    def prepare(self, trajectory: Trajectory) -> list[Tensor]:
        """What `carry` needs of J at each step of the trajectory, ``(T, S, ·)`` each."""

    @abstractmethod
    def carry(self, coefficients: Sequence[Tensor]) -> None:
        """Go on along all steps of these coefficients, or of a stretch of them."""

    @abstractmethod
    def log_volume(self, state: State) -> Tensor:
        """ln|diag R| ``(S, k)`` of the frame itself, in the coordinates of ``state``."""

    @property
    @abstractmethod
    def computation(self) -> Computation:
        """How it has gone so far."""


class AdaptiveCarrier(Carrier):
    """Any layer on any device, by operations of PyTorch.

    Example:
        See `Carrier`.
    """

    def __init__(self, layer: RecurrentMap, state: State, frame: Tensor, plan: Plan) -> None:
        self._layer, self._plan = layer, plan
        self.frame = frame
        _, k, size = frame.shape
        narrow = size >= _NARROW_FROM_SIZE and k <= layer.narrow_share * size
        # TF32 keeps ten bits, which is unfit for the tail of a spectrum.
        narrow &= not (frame.is_cuda and torch.backends.cuda.matmul.allow_tf32)
        adaptive = plan.interval is None and plan.frame_dtype is None
        small = not frame.is_cuda and size < _NARROW_ALWAYS_SIZE
        self._may_narrow = narrow and adaptive and small
        first_dtype = torch.float32 if narrow and not self._may_narrow else torch.float64
        self._set_dtype(plan.frame_dtype or first_dtype)
        self.frame = layer.to_working(state, self.frame)
        self.method = plan.method if plan.method != "auto" else fastest_method(self.frame)
        # Leading directions part slowly: worth trying two steps at once from the start.
        self.interval = plan.interval or (2 if 2 * k <= size else 1)
        self.sums = frame.new_zeros(frame.shape[:2], dtype=torch.float64)
        self._ceiling = _MAX_INTERVAL
        self._rows_vanish = False
        self._delicate = False
        self._carry_block = GraphedBlocks() if frame.is_cuda else carry_block
        self._factored = (
            self.method == "lu"
            and isinstance(layer, DenseJacobian)
            and can_be_carried_as_factors(self.frame)
        )
        self._n_steps = self._n_renormalized = self._n_repeated = 0

    @property
    def computation(self) -> Computation:
        return Computation(
            method=self.method,
            dtype=str(self.frame.dtype).removeprefix("torch."),
            interval=self._n_steps / max(self._n_renormalized, 1),
            n_repeated=self._n_repeated,
            compiled=False,
        )

    def prepare(self, trajectory: Trajectory) -> list[Tensor]:
        delicate = None
        in_stages = self.method != "qr" and self._plan.frame_dtype != torch.float32
        if in_stages and isinstance(self._layer, StagedTangent):
            delicate = self._layer.delicate(trajectory)
        self._delicate = delicate is not None
        linearized = self._layer.linearize(trajectory) if delicate is None else delicate
        coefficients = [c.flatten(1, 2) for c in linearized]
        if self._may_narrow or self._may_widen():
            too_small = self._delicate
            if not too_small:
                rows = torch.stack([c.abs() for c in coefficients]).amax(dim=0)
                self._rows_vanish = bool((rows == 0.0).any())
                too_small = bool(((rows > 0.0) & (rows < _NARROWEST_ROW)).any())
            if too_small:
                self._may_narrow = False
                self._set_dtype(torch.float64)
        return coefficients

    def carry(self, coefficients: Sequence[Tensor]) -> None:
        start, n_steps = 0, len(coefficients[0])
        while start < n_steps:
            stop = min(n_steps, start + self._product_length())
            product = [c[start:stop] for c in coefficients]
            if self._delicate and isinstance(self._layer, StagedTangent):
                self._carry_delicately(self._layer, product)
            else:
                self._carry_product(product)
            self._n_steps += stop - start
            start = stop

    def log_volume(self, state: State) -> Tensor:
        return log_volume(self._layer.from_working(state, self.frame.double()))

    def _product_length(self) -> int:
        """Steps until the host looks at what they did."""
        # As far again as what has been seen.
        reach = min(max(self._n_steps, _MIN_PRODUCT), _MAX_PRODUCT)
        return self.interval * max(1, reach // self.interval)

    def _carry_product(self, coefficients: Sequence[Tensor]) -> None:
        """Carry the frame through a product, in the cheapest way that keeps enough digits."""
        while True:
            frame, logs = self._product([c.to(self.frame.dtype) for c in coefficients])
            steps = min(self.interval, len(coefficients[0]))
            # The host waits for the device here, and once a chunk.
            seen = _observe(logs, steps)
            if not self._takes_more_care(seen, steps):
                break
            self._n_repeated += 1
        self.frame = frame
        self.sums += logs.sum(dim=0)
        self._n_renormalized += len(logs)
        if self._plan.interval is None:
            if self._may_narrow and _longest(seen, steps, torch.float32) >= _NARROW_INTERVAL:
                self._set_dtype(torch.float32)
            self._may_narrow = False
            self.interval = min(self._ceiling, _longest(seen, steps, self.frame.dtype))

    def _takes_more_care(self, seen: _Seen, steps: int) -> bool:
        """Whether a product lost too much and is to be done again, in the way that is now set."""
        # Not <=, and not >: what was lost altogether is NaN.
        if self.method == "cholesky" and not seen.spread <= _MAX_CHOLESKY_SPREAD:
            self.method = "lu"
            return True
        if self._plan.interval is None and steps > 1:
            if seen.died:
                # Exact zeros of one step are mixed by the next, and small ones underflow.
                self.interval = 1
                return True
            excess = max(
                seen.spread / _MAX_SPREAD[self.frame.dtype],
                seen.growth / _MAX_GROWTH[self.frame.dtype],
            )
            if not excess <= 1.0:
                # It was too long once, and is not tried a second time.
                self._ceiling = steps - 1
                shorter = int(steps / excess) if math.isfinite(excess) else steps // 2
                self.interval = min(self._ceiling, max(1, shorter))
                return True
        lost = not (math.isfinite(seen.spread) and math.isfinite(seen.growth))
        # Where no row of J is zero, a direction dies of too few digits only.
        if (lost or (seen.died and not self._rows_vanish)) and self._may_widen():
            self._set_dtype(torch.float64)
            return True
        if lost and self.frame.dtype == torch.float32:
            # Asked for or not: some LAPACKs divide by subnormal pivots and leave NaN.
            self._set_dtype(torch.float64)
            return True
        if lost:
            raise FloatingPointError(
                f"Expected tangent vectors that stay finite, but within {steps} step(s) they "
                "overflowed or became NaN. Renormalise more often (interval='auto'), use "
                "dtype=torch.float64, or check the derivative of the step function."
            )
        return False

    def _carry_delicately(self, layer: StagedTangent, coefficients: Sequence[Tensor]) -> None:
        narrowed = [c.to(self.frame.dtype) for c in coefficients]
        for of_step in zip(*(c.unbind(0) for c in narrowed), strict=True):
            self.frame, growth = layer.delicate_tangent(of_step, self.frame)
            self.sums += growth
            self._n_renormalized += 1
        self.interval = self._plan.interval or 1

    def _product(self, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The frame after T steps, renormalised, and ln|diag R| ``(T / interval, S, k)``."""
        frame, logs = self.frame, []
        blocks = zip(*(torch.split(c, self.interval) for c in coefficients), strict=True)
        if self._factored and isinstance(self._layer, DenseJacobian):
            factors: Tensor | LUFactors = self.frame
            for block in blocks:
                factors, log_growth = carry_factors(self._layer, factors, block)
                logs.append(log_growth)
            assert isinstance(factors, LUFactors)
            return factors.frame(), torch.stack(logs)
        for block in blocks:
            frame, log_growth = self._carry_block(self._layer, frame, block, self.method)
            logs.append(log_growth)
        return frame, torch.stack(logs)

    def _may_widen(self) -> bool:
        return self._plan.frame_dtype is None and self.frame.dtype == torch.float32

    def _set_dtype(self, dtype: torch.dtype) -> None:
        self.frame = self.frame.to(dtype)
        self._layer.use_frame_dtype(dtype)


class _Seen(NamedTuple):
    """What a product did to directions between two renormalisations, in nats, at most.

    Attributes:
        spread: How far the living directions of a system came apart; NaN if a frame was lost.
        rate: What each further step adds to that on average.
        growth: By how much any one of them grew or shrank.
        died: Whether there was one that vanished.
    """

    spread: float
    rate: float
    growth: float
    died: bool


def _longest(seen: _Seen, steps: int, dtype: torch.dtype) -> int:
    """The interval that a frame of this dtype bears after what was seen in ``steps`` steps."""
    allowed = min(
        steps + (_MAX_SPREAD[dtype] - seen.spread) / max(seen.rate, 1e-9),
        steps * _MAX_GROWTH[dtype] / max(seen.growth, 1e-9),
        1.0 if seen.died else _MAX_INTERVAL,
    )
    return max(1, int(allowed))


def _observe(logs: Tensor, steps: int) -> _Seen:
    """What ``logs (n, S, k)``, the growths in ``steps`` steps each, say about a product."""
    dead = torch.isneginf(logs)
    living = logs.masked_fill(dead, 0.0)
    counts = (~dead).sum(dim=0)
    averages = living.sum(dim=0) / counts.clamp_min(1)
    spread, rate, growth, died = torch.stack(
        [
            _range(logs, dead).max(),
            _range(averages, counts == 0).max() / steps,
            living.abs().max(),
            dead.any().double(),
        ]
    ).tolist()
    return _Seen(spread, rate, growth, bool(died))


def _range(logs: Tensor, dead: Tensor) -> Tensor:
    highest = logs.masked_fill(dead, -torch.inf).amax(dim=-1)
    lowest = logs.masked_fill(dead, torch.inf).amin(dim=-1)
    # A system without a living direction has nothing to keep apart.
    return (highest - lowest).clamp_min(0.0)
