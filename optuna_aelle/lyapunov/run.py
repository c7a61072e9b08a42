"""Many systems of one layer on their way along their inputs.

Notation as in `maps.base`. A *chunk* is a stretch of the inputs that is projected and linearised
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field

import torch
from torch import Tensor

from optuna_aelle.lyapunov import compiled
from optuna_aelle.lyapunov.carriers import AdaptiveCarrier
from optuna_aelle.lyapunov.carriers import Carrier
from optuna_aelle.lyapunov.inputs import all_finite
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.maps.diagonal import DiagonalCarrier
from optuna_aelle.lyapunov.maps.diagonal import DiagonalMap
from optuna_aelle.lyapunov.plan import Plan


@dataclass
class LayerRun:
    """State, frame and sums of logarithms of one layer.

    Attributes:
        layer: Whose Jacobians.
        state: Where it is.
        carrier: The frame.
        plan: How the run goes.
        record: For each checkpoint ``(S, k)`` sums of ln|diag R| since the warm-up.
        log_det: ``(S,)`` sum of ln|det J| since the warm-up; None if unknown.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> plan = Plan(0, (10, 10), frozenset({10}), "lu", None, None, sum_rule=False)
        >>> unit = lambda size, k: torch.eye(size).double().repeat(2, 1, 1)
        >>> run = start_run(layer, layer.initial_state(1, 2, None), plan, 4, unit)
        >>> run.advance(torch.randn(10, 1, 2, 3).double()).shape, run.record[10].shape
        (torch.Size([10, 1, 2, 4]), torch.Size([2, 4]))
    """

    layer: RecurrentMap
    state: State
    carrier: Carrier
    plan: Plan
    record: dict[int, Tensor] = field(default_factory=dict)
    log_det: Tensor | None = None

    def __post_init__(self) -> None:
        sums = self.carrier.sums
        self._ends = torch.tensor(self.plan.ends, device=sums.device)
        self._unequal = min(self.plan.ends) < max(self.plan.ends)
        if self.plan.sum_rule:
            self.log_det = sums.new_zeros(len(sums))
        self._step = 0
        if self.plan.warmup == 0:
            self._offset = self.carrier.log_volume(self.state)

    def advance(self, signal: Tensor) -> Tensor:
        """Run over ``signal (T, M, B, D)`` and return what the next layer reads."""
        trajectory = self.layer.unroll(self.layer.drive(signal), self.state)
        if self._unequal:
            trajectory = self._until_the_ends(trajectory)
        visible = self.layer.visible(trajectory.after)
        if not all_finite(visible):
            raise FloatingPointError(
                "Expected a state that stays finite along the inputs, but it overflowed (a ReLU "
                "network with a growing direction, say). Shorten the sequence or scale the "
                "weights down."
            )
        self._add_log_det(trajectory)
        coefficients = self.carrier.prepare(trajectory)
        start, n_steps = 0, len(visible)
        while start < n_steps:
            stop = min(n_steps, start + self._steps_to_checkpoint())
            self.carrier.carry([c[start:stop] for c in coefficients])
            self._step += stop - start
            start = stop
            if self._step == self.plan.warmup or self._step in self.plan.checkpoints:
                self._check_in(tuple(part[stop - 1] for part in trajectory.after))
        self.state = tuple(part[-1] for part in trajectory.after)
        return visible

    def _steps_to_checkpoint(self) -> int:
        due = [at - self._step for at in (self.plan.warmup, *self.plan.checkpoints)]
        return min(steps for steps in due if steps > 0)

    def _until_the_ends(self, trajectory: Trajectory) -> Trajectory:
        """Zeros for what comes after the end of a sequence: it is no part of the computation."""
        n_steps, *systems = trajectory.after[0].shape[:3]
        steps = self._step + torch.arange(n_steps, device=self._ends.device)[:, None]
        inside = (steps < self._ends).view(n_steps, *systems, 1)

        def cut(parts: State) -> State:
            return tuple(torch.where(inside, part, 0.0) for part in parts)

        return Trajectory(*(cut(parts) for parts in trajectory[:3]))

    def _check_in(self, state: State) -> None:
        """Note the sums as Benettin's method would have them: of an orthonormal frame."""
        if self._step == self.plan.warmup:
            self.carrier.sums.zero_()
            self._offset = self.carrier.log_volume(state)
        else:
            self.record[self._step] = self.carrier.sums + (
                self.carrier.log_volume(state) - self._offset
            )

    def _add_log_det(self, trajectory: Trajectory) -> None:
        """Add ln|det J| of the measured steps of the next chunk."""
        if self.log_det is None:
            return
        log_det = self.layer.log_abs_det(trajectory)
        if log_det is None:
            self.log_det = None
            return
        of_step = log_det.flatten(1, 2)
        if not self._unequal:
            first = max(0, self.plan.warmup - self._step)
            self.log_det = self.log_det + of_step[first:].sum(dim=0)
            return
        steps = self._step + torch.arange(len(of_step), device=of_step.device)[:, None]
        measured = (steps >= self.plan.warmup) & (steps < self._ends)
        self.log_det = self.log_det + torch.where(measured, of_step, 0.0).sum(dim=0)


def start_run(
    layer: RecurrentMap,
    state: State,
    plan: Plan,
    k: int,
    frame: Callable[[int, int], Tensor],
) -> LayerRun:
    """A run from ``state``, in compiled code where that is faster.

    Args:
        layer: Whose Jacobians.
        state: Of all its systems.
        plan: How it goes.
        k: Exponents that are wanted of all layers together.
        frame: From N and the vectors that are wanted of this layer, its frame ``(S, ·, N)``.

    Example:
        See `LayerRun`.
    """
    if isinstance(layer, DiagonalMap):
        return LayerRun(layer, state, DiagonalCarrier(layer, len(plan.ends)), plan)
    size = layer.state_size
    first = frame(size, min(k, size)).to(layer.device)
    carrier: Carrier | None = compiled.carrier_for(layer, state, first, plan)
    return LayerRun(layer, state, carrier or AdaptiveCarrier(layer, state, first, plan), plan)
