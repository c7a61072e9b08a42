"""What training costs, in steps: the one count that replays, plots and summaries share.

A *step* is the user's unit, as in ``trial.report(value, step)``: an epoch, as a rule, or a
thousand batches. A trial has trained as many steps as the last one that it reported says, however
few reports it made on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence

from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.continuation import inherited_step


def first_step(trials: Iterable[FrozenTrial]) -> int:
    """0 where trials count their steps from 0, else 1.

    Whoever counts from 0 has done one step when reporting step 0.
    """
    return int(not any(0 in trial.intermediate_values for trial in trials))


def steps_until(step: int | None, first: int) -> int:
    """Steps trained once ``step`` is reported, counted from ``first``; none before any report."""
    return 0 if step is None or step < first else step - first + 1


def trained_steps(trials: Sequence[FrozenTrial]) -> list[int]:
    """The steps that each ended or running trial has trained.

    One that finished without a report has trained as long as the longest; one that goes on where
    another was stopped, what it has trained itself.
    """
    first = first_step(trials)
    steps = [steps_until(trial.last_step, first) for trial in trials]
    longest = max(steps, default=0)
    return [
        longest
        if trial.state == TrialState.COMPLETE and trial.last_step is None
        else n - steps_until(inherited_step(trial), first)
        for trial, n in zip(trials, steps, strict=True)
    ]


def trained_seconds(trial: FrozenTrial) -> float:
    """How long a trial that has ended was trained, its spectra aside; 0 for one that failed."""
    if trial.state == TrialState.FAIL or trial.duration is None:
        return 0.0
    return trial.duration.total_seconds() - spectrum_seconds(trial)
