"""Many systems of one layer on their way along their inputs.

Notation as in `maps.base`. A *chunk* is a stretch of the inputs that is projected and linearised
at once; a *product* is a chunk's share between two checkpoints, along which the frame is carried
without the host looking at it. How often the frame is renormalised follows from what is observed:
the longest interval in which directions are not expected to come apart by more than the digits of
the frame allow. A product in which they did is done again with a shorter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

import torch
from torch import Tensor

from optuna_aelle.lyapunov.blocks import GraphedBlocks
from optuna_aelle.lyapunov.blocks import carry_block
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.renormalization import fastest_method
from optuna_aelle.lyapunov.renormalization import log_volume

_MAX_INTERVAL = 8
# How far directions may come apart between two renormalisations, in nats: the digits that are left
# keep a growth to 1e-4 in float32 and to 1e-11 in float64.
_MAX_SPREAD = {torch.float32: 8.0, torch.float64: 12.0}
# Below this size a float64 frame costs next to nothing.
_NARROW_FROM_SIZE = 64
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
        narrow = self.layer.narrow and self.layer.state_size >= _NARROW_FROM_SIZE
        self._set_dtype(self.plan.frame_dtype or (torch.float32 if narrow else torch.float64))
        self.frame = self.layer.to_working(self.state, self.frame)
        self.method = self.plan.method
        if self.method == "auto":
            self.method = fastest_method(self.frame)
        self.interval = self.plan.interval or 1
        self._sums = self.frame.new_zeros(self.frame.shape[:2], dtype=torch.float64)
        self._ends = torch.tensor(self.plan.ends, device=self.frame.device)
        if self.plan.sum_rule:
            self.log_det = self._sums.new_zeros(len(self.frame))
        self._carry_block = GraphedBlocks() if self.frame.is_cuda else carry_block
        self._step = 0
        if self.plan.warmup == 0:
            self._offset = self._volume(self.state)

    def advance(self, signal: Tensor) -> Tensor:
        """Run over ``signal (T, M, B, D)`` and return what the next layer reads."""
        trajectory = self.layer.unroll(self.layer.drive(signal), self.state)
        visible = self.layer.visible(trajectory.after)
        if not bool(torch.isfinite(visible).all()):
            raise FloatingPointError(
                "Expected a state that stays finite along the inputs, but it overflowed (a ReLU "
                "network with a growing direction, say). Shorten the sequence or scale the "
                "weights down."
            )
        self._add_log_det(trajectory)
        delicate = None if self.method == "qr" else self.layer.delicate(trajectory)
        linearized = self.layer.linearize(trajectory) if delicate is None else delicate
        coefficients = [c.flatten(1, 2) for c in linearized]
        if self._may_widen() and _too_small_for_float32(coefficients):
            self._set_dtype(torch.float64)
        start = 0
        for stop in self._stops(len(visible)):
            product = [c[start:stop] for c in coefficients]
            if delicate is None:
                self._carry(product)
            else:
                self._carry_delicately(product)
            self._step += stop - start
            start = stop
            if self._step == self.plan.warmup or self._step in self.plan.checkpoints:
                self._check_in(tuple(part[stop - 1] for part in trajectory.after))
        self.state = tuple(part[-1] for part in trajectory.after)
        return visible

    def _stops(self, n_steps: int) -> list[int]:
        """Where the products of a chunk end: at checkpoints, and with the chunk."""
        inner = {
            step - self._step
            for step in (self.plan.warmup, *self.plan.checkpoints)
            if 0 < step - self._step < n_steps
        }
        return [*sorted(inner), n_steps]

    def _carry(self, coefficients: Sequence[Tensor]) -> None:
        """Carry the frame through a product, in the cheapest way that keeps enough digits."""
        adaptive = self.plan.interval is None
        while True:
            narrowed = [c.to(self.frame.dtype) for c in coefficients]
            frame, logs = self._product(narrowed)
            # The one moment at which the host waits for the device.
            spread, rate = _spread(logs)
            steps = min(self.interval, len(coefficients[0]))
            if self.method == "cholesky" and not spread <= _MAX_CHOLESKY_SPREAD:
                self.method = "lu"
            elif adaptive and steps > 1 and not spread <= _MAX_SPREAD[self.frame.dtype]:
                self.interval = max(1, self.interval // 2)
            elif not math.isfinite(spread) and self._may_widen():
                self._set_dtype(torch.float64)
            else:
                break
        if adaptive:
            # Each further step adds the average rate to what was seen.
            room = (_MAX_SPREAD[self.frame.dtype] - spread) / max(rate / steps, 1e-9)
            self.interval = int(max(1.0, min(steps + room, _MAX_INTERVAL)))
        self.frame = frame
        self._sums += logs.sum(dim=0)

    def _carry_delicately(self, coefficients: Sequence[Tensor]) -> None:
        narrowed = [c.to(self.frame.dtype) for c in coefficients]
        for of_step in zip(*(c.unbind(0) for c in narrowed), strict=True):
            self.frame, growth = self.layer.delicate_tangent(of_step, self.frame)
            self._sums += growth
        self.interval = self.plan.interval or 1

    def _product(self, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The frame after T steps, renormalised, and ln|diag R| ``(T / interval, S, k)``."""
        frame, logs = self.frame, []
        blocks = zip(*(torch.split(c, self.interval) for c in coefficients), strict=True)
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


def _too_small_for_float32(coefficients: Sequence[Tensor]) -> bool:
    """Whether rows of J, all of whose coefficients are ``(T, S, H)``, would underflow."""
    rows = torch.stack([c.abs() for c in coefficients]).amax(dim=0)
    return bool(((rows > 0.0) & (rows < _NARROWEST_ROW)).any())


def _spread(logs: Tensor) -> tuple[float, float]:
    """How far the living directions of a system came apart between two renormalisations.

    Args:
        logs: ``(n, S, k)`` growths.

    Returns:
        The most that was seen, NaN if a frame was lost; and the most on average over the product,
        which is what a longer interval would add: without bound if a direction died, for which
        exact zeros must not be mixed.
    """
    dead = torch.isneginf(logs)
    seen = _range(logs, dead).max()
    counts = (~dead).sum(dim=0)
    averages = logs.masked_fill(dead, 0.0).sum(dim=0) / counts.clamp_min(1)
    rate = _range(averages, counts == 0).max().masked_fill(dead.any(), torch.inf)
    largest, average = torch.stack([seen, rate]).tolist()
    return largest, average


def _range(logs: Tensor, dead: Tensor) -> Tensor:
    highest = logs.masked_fill(dead, -torch.inf).amax(dim=-1)
    lowest = logs.masked_fill(dead, torch.inf).amin(dim=-1)
    # A system without a living direction has nothing to keep apart.
    return (highest - lowest).clamp_min(0.0)
