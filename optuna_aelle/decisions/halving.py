"""Successive halving by what trials have reported, without a mark of its own on any of them.

As Optuna's `SuccessiveHalvingPruner` (asynchronous: Li et al. 2020, A System for Massively
Parallel Hyperparameter Tuning), with η = 2 and a first rung after one report: of those that came
to a rung the better half goes on. What a trial had there is read from its curve, where Optuna
writes an attribute at each rung: nothing has to be stored, and trials from elsewhere count, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import numbered

# η: of those that halve from the first report on, this one has the least regret.
REDUCTION_FACTOR = 2


@dataclass(frozen=True)
class Rung:
    """Where a trial has come to, and beside whom.

    Attributes:
        number: Counted from 0.
        step: Of the report that came to it.
        value: What the trial reported there.
        bar: The last value that goes on; NaN for one that is NaN itself.
        rank: The place of the trial, 1 is the best.
        n_compared: How many came there, itself included.
    """

    number: int
    step: int
    value: float
    bar: float
    rank: int
    n_compared: int

    @property
    def goes_on(self) -> bool:
        """Whether the trial stands in the better half."""
        at_most = max(self.n_compared // REDUCTION_FACTOR, 1)
        return not math.isnan(self.value) and self.rank <= at_most

    def verdict(self) -> Verdict:
        """Why a trial is stopped here; people know it by Optuna's name."""
        by = SuccessiveHalvingPruner.__name__
        if not math.isfinite(self.value):
            return Verdict(by, self.step)
        return Verdict(
            by,
            self.step,
            value=self.value,
            bar=self.bar,
            rank=self.rank,
            n_compared=self.n_compared,
            rung=self.number,
        )


def report_spacing(trials: Sequence[FrozenTrial]) -> int:
    """Steps from one report to the next, as the first trial with two reports has them; 1 at least.

    Before there is one: the first step that was reported.
    """
    for trial in trials:
        if len(trial.intermediate_values) > 1:
            first, second = sorted(trial.intermediate_values)[:2]
            return second - first
    return max([1, *(min(t.intermediate_values) for t in trials if t.intermediate_values)])


def rung_of(study: Study, trial: FrozenTrial) -> Rung | None:
    """Where the last report came to a rung: the first at which it is too low, or the highest.

    None between two rungs. A NaN comes to a rung, and is too low at it.

    Args:
        study: With one objective.
        trial: With what it has reported so far, which the study need not show yet.
    """
    step = trial.last_step
    if step is None:
        return None
    told, trials = trial.intermediate_values, every_trial(study)
    own, value = numbered(trials, trial.number), told[step]
    found, number, least = None, 0, report_spacing([*trials, trial])
    while least <= step:
        if not _came_before(told, least, step):
            if math.isnan(value):
                return Rung(number, step, value, math.nan, 1, 1)
            others = [other.intermediate_values for other in trials if other is not own]
            found = _among(number, step, [value, *_values_from(others, least)], study.direction)
            if not found.goes_on:
                return found
        number, least = number + 1, least * REDUCTION_FACTOR
    return found


def _came_before(told: dict[int, float], least: int, step: int) -> bool:
    """Whether a number was reported from step ``least`` on, before this step."""
    # From the end: as a rule the report before this one was such, however many there are.
    return any(least <= s < step and not math.isnan(x) for s, x in reversed(told.items()))


def _among(number: int, step: int, peers: list[float], direction: StudyDirection) -> Rung:
    """The rung, for the first of those that came to it."""
    best_first = sorted(peers, reverse=direction == StudyDirection.MAXIMIZE)
    last_to_go_on = max(len(peers) // REDUCTION_FACTOR, 1)
    rank = 1 + best_first.index(peers[0])
    return Rung(number, step, peers[0], best_first[last_to_go_on - 1], rank, len(peers))


def _values_from(curves: Sequence[Mapping[int, float]], least: int) -> list[float]:
    """The first number that each of them reported from step ``least`` on, where there is one."""
    found = []
    for told in curves:
        # Studies are long: as a rule it is this very step, or the trial was stopped before it.
        value = told.get(least, math.nan)
        if math.isnan(value) and max(told, default=-1) > least:
            later = (step for step, x in told.items() if step > least and not math.isnan(x))
            value = told.get(min(later, default=-1), math.nan)
        if not math.isnan(value):
            found.append(value)
    return found
