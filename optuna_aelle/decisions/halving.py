"""Successive halving by what trials have reported, without a mark of its own on any of them.

As Optuna's `SuccessiveHalvingPruner` (asynchronous: Li et al. 2020, A System for Massively
Parallel Hyperparameter Tuning), with η = 2 and a first rung after one report: of those that came
to a rung the better half goes on. What a trial had there is read from its curve, where Optuna
writes an attribute at each rung: nothing has to be stored, and trials from elsewhere count, too.

As there, a trial is judged once at each rung, when it is first asked about after coming there. At
which it was judged this process remembers; to another one it is as if at each report but the last.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.continuation import inherited_step
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import numbered
from optuna_aelle.trials.storage import study_identity


@dataclass(eq=False)
class _Memory:
    """What this process knows of a study.

    Attributes:
        spacing: Of its reports, where that cannot change any more.
        judged: Of trials by number, at how many rungs they were judged, and at which step last.
    """

    spacing: int | None
    judged: dict[int, tuple[int, int]]


_memories: WeakKeyDictionary[BaseStorage, dict[int, _Memory]] = WeakKeyDictionary()
_lock = threading.Lock()
# Trials of a study that may be in training at once in this process, generously.
_MOST_KNOWN = 1000

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
            bar=self.bar if math.isfinite(self.bar) else None,
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


def next_rung(study: Study, trial: FrozenTrial) -> Rung | None:
    """The rung to which a trial has come since it was last asked about.

    Of several the first at which it is too low, or the highest; None where there is none. A NaN
    comes to a rung, and is too low at it.

    Args:
        study: With one objective.
        trial: With what it has reported so far, which the study need not show yet.
    """
    step = trial.last_step
    if step is None:
        return None
    told, trials = trial.intermediate_values, every_trial(study)
    own, value = numbered(trials, trial.number), told[step]
    spacing, memory = report_spacing([*trials, trial]), _memory_of(study)
    number, _ = memory.judged.get(trial.number, (None, 0))
    # Of a study that was deleted, another one may have the number.
    if number is None or _begin(max(number - 1, 0), spacing) > step:
        number = _judged_elsewhere(trial, trials, spacing)
    found = None
    while _begin(number, spacing) <= step:
        if math.isnan(value):
            found = Rung(number, step, value, math.nan, 1, 1)
            break
        others = [other.intermediate_values for other in trials if other is not own]
        peers = [value, *_values_at(others, _begin(number, spacing), step)]
        found = _among(number, step, peers, study.direction)
        number += 1
        if not found.goes_on:
            break
    with _lock:
        memory.spacing = _fixed_spacing(trials)
        memory.judged.pop(trial.number, None)
        memory.judged[trial.number] = number, step
        if len(memory.judged) > _MOST_KNOWN:
            del memory.judged[next(iter(memory.judged))]
    return found


def is_between_rungs(study: Study, trial: FrozenTrial) -> bool:
    """Whether the last report surely comes to no rung: by what is known here, nothing is read."""
    step, memory = trial.last_step, _memory_of(study)
    # The first trial always looks: what is known may be of a deleted study that had the number.
    if step is None or memory.spacing is None or trial.number == 0:
        return False
    number, judged_at = memory.judged.get(trial.number, (0, -1))
    return judged_at < step < _begin(number, memory.spacing)


def _memory_of(study: Study) -> _Memory:
    storage, study_id = study_identity(study)
    with _lock:
        return _memories.setdefault(storage, {}).setdefault(study_id, _Memory(None, {}))


def _fixed_spacing(trials: Sequence[FrozenTrial]) -> int | None:
    """As `report_spacing`, once nothing that is still to come can change it."""
    for i, trial in enumerate(trials):
        if not trial.state.is_finished():
            return None
        if len(trial.intermediate_values) > 1:
            return report_spacing(trials[i : i + 1])
    return None


def _begin(rung: int, spacing: int) -> int:
    step: int = spacing * REDUCTION_FACTOR**rung
    return step


def _judged_elsewhere(trial: FrozenTrial, trials: Sequence[FrozenTrial], spacing: int) -> int:
    """At how many rungs the trial was judged, as far as its curve tells."""
    told = trial.intermediate_values
    # What it has from others, these were asked about.
    attempts = [numbered(trials, number) for number in failed_attempts(trial)]
    steps = [inherited_step(trial), *(t.last_step for t in attempts if t is not None)]
    asked = max((s for s in steps if s in told), default=(trial.last_step or 0) - 1)
    number = 0
    while _begin(number, spacing) <= asked and _came_by(told, _begin(number, spacing), asked):
        number += 1
    return number


def _came_by(told: dict[int, float], least: int, step: int) -> bool:
    """Whether a number was reported from step ``least`` on, up to ``step``."""
    # From the end: as a rule the last reports are such, however many there are.
    return any(least <= s <= step and not math.isnan(x) for s, x in reversed(told.items()))


def _among(number: int, step: int, peers: list[float], direction: StudyDirection) -> Rung:
    """The rung, for the first of those that came to it."""
    best_first = sorted(peers, reverse=direction == StudyDirection.MAXIMIZE)
    last_to_go_on = max(len(peers) // REDUCTION_FACTOR, 1)
    rank = 1 + best_first.index(peers[0])
    return Rung(number, step, peers[0], best_first[last_to_go_on - 1], rank, len(peers))


def _values_at(curves: Sequence[Mapping[int, float]], least: int, step: int) -> list[float]:
    """The first number that each of them reported at a rung, where there is one.

    Whoever reports more seldom is not compared by what came long after: up to the next rung, or to
    the step that is held against it.
    """
    end = max(step + 1, REDUCTION_FACTOR * least)
    found = []
    for told in curves:
        # Studies are long: as a rule it is this very step, or the trial was stopped before it.
        value = told.get(least, math.nan)
        if math.isnan(value) and max(told, default=-1) > least:
            later = (s for s, x in told.items() if least < s < end and not math.isnan(x))
            value = told.get(min(later, default=-1), math.nan)
        if not math.isnan(value):
            found.append(value)
    return found
