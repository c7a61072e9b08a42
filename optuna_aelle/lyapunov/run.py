"""Many systems of one layer on their way along their inputs.

Notation as in `maps.base`. A *chunk* is a stretch of the inputs that is projected and linearised
at once; a *product* is a part of it along which the frame is carried without the host looking at
it. How often the frame is renormalised follows from what is observed: the longest interval in
which directions are not expected to come apart by more than the digits of the frame allow. A
product in which they did is done again with a shorter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
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
from optuna_aelle.lyapunov.renormalization import fastest_method
from optuna_aelle.lyapunov.renormalization import log_volume

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


@dataclass(frozen=True)
class Plan:
    """How a run goes: the same for all layers of a stack.

    Attributes:
        warmup: Steps before the sums start.
        ends: ``(S,)`` where each system's sequence ends.
        checkpoints: Steps at which sums are recorded; the ends are among them.
        method: ``"auto"`` or a name of `renormalization.METHODS`.
        interval: Steps between renormalisations; None to adapt.
        frame_dtype: None to choose.
        sum_rule: Whether to add up ln|det J|.

    Example:
        >>> plan = Plan(
        ...     warmup=20,
        ...     ends=(100, 100),
        ...     checkpoints=frozenset({60, 100}),
        ...     method="lu",
        ...     interval=None,
        ...     frame_dtype=None,
        ...     sum_rule=False,
        ... )
    """

    warmup: int
    ends: tuple[int, ...]
    checkpoints: frozenset[int]
    method: str
    interval: int | None
    frame_dtype: torch.dtype | None
    sum_rule: bool


@dataclass
class LayerRun:
    """State, frame and sums of logarithms of one layer.

    Attributes:
        layer: Whose Jacobians.
        state: Where it is.
        frame: ``(S, k, N)``.
        plan: How the run goes.
        record: For each checkpoint ``(S, k)`` sums of ln|diag R| since the warm-up.
        log_det: ``(S,)`` sum of ln|det J| since the warm-up; None if unknown.
        interval: Steps to the next renormalisation.
        method: A name of `renormalization.METHODS`.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> plan = Plan(0, (10, 10), frozenset({10}), "lu", None, None, sum_rule=False)
        >>> frame = torch.eye(4).double().repeat(2, 1, 1)
        >>> run = LayerRun(layer, layer.initial_state(1, 2, None), frame, plan)
        >>> run.advance(torch.randn(10, 1, 2, 3).double()).shape, run.record[10].shape
        (torch.Size([10, 1, 2, 4]), torch.Size([2, 4]))
    """

    layer: RecurrentMap
    state: State
    frame: Tensor
    plan: Plan
    record: dict[int, Tensor] = field(default_factory=dict)
    log_det: Tensor | None = None
    interval: int = 1
    method: str = "lu"

    def __post_init__(self) -> None:
        _, k, size = self.frame.shape
        narrow = size >= _NARROW_FROM_SIZE and k <= self.layer.narrow_share * size
        # TF32 keeps ten bits, which is unfit for the tail of a spectrum.
        narrow &= not (self.frame.is_cuda and torch.backends.cuda.matmul.allow_tf32)
        adaptive = self.plan.interval is None and self.plan.frame_dtype is None
        small = not self.frame.is_cuda and size < _NARROW_ALWAYS_SIZE
        self._may_narrow = narrow and adaptive and small
        first_dtype = torch.float32 if narrow and not self._may_narrow else torch.float64
        self._set_dtype(self.plan.frame_dtype or first_dtype)
        self.frame = self.layer.to_working(self.state, self.frame)
        self.method = self.plan.method
        if self.method == "auto":
            self.method = fastest_method(self.frame)
        # Leading directions part slowly: worth trying two steps at once from the start.
        self.interval = self.plan.interval or (2 if 2 * k <= size else 1)
        self._sums = self.frame.new_zeros(self.frame.shape[:2], dtype=torch.float64)
        self._ends = torch.tensor(self.plan.ends, device=self.frame.device)
        self._unequal = min(self.plan.ends) < max(self.plan.ends)
        if self.plan.sum_rule:
            self.log_det = self._sums.new_zeros(len(self.frame))
        self._ceiling = _MAX_INTERVAL
        self._rows_vanish = False
        self._carry_block = GraphedBlocks() if self.frame.is_cuda else carry_block
        self._factored = (
            self.method == "lu"
            and isinstance(self.layer, DenseJacobian)
            and can_be_carried_as_factors(self.frame)
        )
        self._step = 0
        if self.plan.warmup == 0:
            self._offset = self._volume(self.state)

    def advance(self, signal: Tensor) -> Tensor:
        """Run over ``signal (T, M, B, D)`` and return what the next layer reads."""
        trajectory = self.layer.unroll(self.layer.drive(signal), self.state)
        if self._unequal:
            trajectory = self._until_the_ends(trajectory)
        visible = self.layer.visible(trajectory.after)
        if not bool(torch.isfinite(visible).all()):
            raise FloatingPointError(
                "Expected a state that stays finite along the inputs, but it overflowed (a ReLU "
                "network with a growing direction, say). Shorten the sequence or scale the "
                "weights down."
            )
        self._add_log_det(trajectory)
        delicate = None
        in_stages = self.method != "qr" and self.plan.frame_dtype != torch.float32
        if in_stages and isinstance(self.layer, StagedTangent):
            delicate = self.layer.delicate(trajectory)
        linearized = self.layer.linearize(trajectory) if delicate is None else delicate
        coefficients = [c.flatten(1, 2) for c in linearized]
        if self._may_narrow or self._may_widen():
            too_small = delicate is not None
            if not too_small:
                rows = torch.stack([c.abs() for c in coefficients]).amax(dim=0)
                self._rows_vanish = bool((rows == 0.0).any())
                too_small = bool(((rows > 0.0) & (rows < _NARROWEST_ROW)).any())
            if too_small:
                self._may_narrow = False
                self._set_dtype(torch.float64)
        start, n_steps = 0, len(visible)
        while start < n_steps:
            stop = start + self._product_length(n_steps - start)
            product = [c[start:stop] for c in coefficients]
            if delicate is not None and isinstance(self.layer, StagedTangent):
                self._carry_delicately(self.layer, product)
            else:
                self._carry(product)
            self._step += stop - start
            start = stop
            if self._step == self.plan.warmup or self._step in self.plan.checkpoints:
                self._check_in(tuple(part[stop - 1] for part in trajectory.after))
        self.state = tuple(part[-1] for part in trajectory.after)
        return visible

    def _until_the_ends(self, trajectory: Trajectory) -> Trajectory:
        """Zeros for what comes after the end of a sequence: it is no part of the computation."""
        n_steps, *systems = trajectory.after[0].shape[:3]
        steps = self._step + torch.arange(n_steps, device=self._ends.device)[:, None]
        inside = (steps < self._ends).view(n_steps, *systems, 1)

        def cut(parts: State) -> State:
            return tuple(torch.where(inside, part, 0.0) for part in parts)

        return Trajectory(*(cut(parts) for parts in trajectory))

    def _product_length(self, n_left: int) -> int:
        """Steps of the next product: to a checkpoint, the chunk's end or a look at what it did."""
        due = [at - self._step for at in (self.plan.warmup, *self.plan.checkpoints)]
        # As far again as what has been seen.
        reach = min(max(self._step, _MIN_PRODUCT), _MAX_PRODUCT)
        reach = self.interval * max(1, reach // self.interval)
        return min(n_left, reach, *(steps for steps in due if steps > 0))

    def _carry(self, coefficients: Sequence[Tensor]) -> None:
        """Carry the frame through a product, in the cheapest way that keeps enough digits."""
        while True:
            frame, logs = self._product([c.to(self.frame.dtype) for c in coefficients])
            steps = min(self.interval, len(coefficients[0]))
            # The host waits for the device here, and once a chunk.
            seen = _observe(logs, steps)
            if not self._takes_more_care(seen, steps):
                break
        self.frame = frame
        self._sums += logs.sum(dim=0)
        if self.plan.interval is None:
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
        if self.plan.interval is None and steps > 1:
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
            self._sums += growth
        self.interval = self.plan.interval or 1

    def _product(self, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The frame after T steps, renormalised, and ln|diag R| ``(T / interval, S, k)``."""
        frame, logs = self.frame, []
        blocks = zip(*(torch.split(c, self.interval) for c in coefficients), strict=True)
        if self._factored and isinstance(self.layer, DenseJacobian):
            factors: Tensor | LUFactors = self.frame
            for block in blocks:
                factors, log_growth = carry_factors(self.layer, factors, block)
                logs.append(log_growth)
            assert isinstance(factors, LUFactors)
            return factors.frame(), torch.stack(logs)
        for block in blocks:
            frame, log_growth = self._carry_block(self.layer, frame, block, self.method)
            logs.append(log_growth)
        return frame, torch.stack(logs)

    def _check_in(self, state: State) -> None:
        """Note the sums as Benettin's method would have them: of an orthonormal frame."""
        if self._step == self.plan.warmup:
            self._sums.zero_()
            self._offset = self._volume(state)
        else:
            self.record[self._step] = self._sums + (self._volume(state) - self._offset)

    def _volume(self, state: State) -> Tensor:
        return log_volume(self.layer.from_working(state, self.frame.double()))

    def _add_log_det(self, trajectory: Trajectory) -> None:
        """Add ln|det J| of the measured steps of the next chunk."""
        if self.log_det is None:
            return
        log_det = self.layer.log_abs_det(trajectory)
        if log_det is None:
            self.log_det = None
            return
        of_step = log_det.flatten(1, 2)
        steps = self._step + torch.arange(len(of_step), device=of_step.device)[:, None]
        measured = (steps >= self.plan.warmup) & (steps < self._ends)
        self.log_det = self.log_det + torch.where(measured, of_step, 0.0).sum(dim=0)

    def _may_widen(self) -> bool:
        return self.plan.frame_dtype is None and self.frame.dtype == torch.float32

    def _set_dtype(self, dtype: torch.dtype) -> None:
        self.frame = self.frame.to(dtype)
        self.layer.use_frame_dtype(dtype)


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
