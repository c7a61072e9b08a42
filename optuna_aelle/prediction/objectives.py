"""The trials of a study as one of its objectives sees them.

All that reads trials of one objective then works for each of several. Ended trials do not change
any more, so what was read of them once is kept.
"""

from __future__ import annotations

from collections.abc import Container
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.trials.objectives import decode_values
from optuna_aelle.trials.objectives import of_objective
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_identity


@dataclass(frozen=True, eq=False)
class Objectives:
    """A trial with several objectives.

    Attributes:
        trial: As it is stored.
        values: What it has reported, by step (`decode_values`).
        views: The trial as each objective alone sees it.
        constant: Of each objective whether all that is known of it is one and the same number, as
            of a count of parameters.
        feasible: Whether it keeps all constraints that are known of it.
    """

    trial: FrozenTrial
    values: dict[int, tuple[float, ...]]
    views: tuple[FrozenTrial, ...]
    constant: tuple[bool, ...]
    feasible: bool

    @classmethod
    def of(cls, trial: FrozenTrial, n_objectives: int) -> Objectives:
        """Read a trial, without what has another number of values than there are objectives."""
        values = {s: told for s, told in decode_values(trial).items() if len(told) == n_objectives}
        views = tuple(of_objective(trial, values, i) for i in range(n_objectives))
        constant = tuple(map(_is_constant, views))
        return cls(trial, values, views, constant, is_feasible(trial))

    @property
    def last_step(self) -> int | None:
        """The last one that it has reported."""
        return next(reversed(self.values), None)

    def until(self, step: int) -> tuple[float, ...] | None:
        """What it had reported last up to a step."""
        steps = [s for s in self.values if s <= step]
        return self.values[steps[-1]] if steps else None


_ended: WeakKeyDictionary[BaseStorage, dict[tuple[int, int], Objectives]] = WeakKeyDictionary()


def all_objectives(study: Study, states: Container[TrialState] | None = None) -> list[Objectives]:
    """All trials of a study with what each of its objectives sees, in order of number."""
    storage, study_id = study_identity(study)
    known = _ended.setdefault(storage, {})
    found = []
    for trial in every_trial(study, states):
        key = study_id, trial.number
        read = known.get(key)
        # A storage may give the number of a study that was deleted to a new one.
        if read is None or read.trial.datetime_complete != trial.datetime_complete:
            read = Objectives.of(trial, len(study.directions))
            if trial.state.is_finished():
                known[key] = read
        found.append(read)
    return found


def trials_of_objective(
    study: Study, objective: int, states: Container[TrialState] | None = None
) -> list[FrozenTrial]:
    """All trials of a study as one of its objectives sees them; as they are if it has but one."""
    if len(study.directions) == 1:
        return every_trial(study, states)
    return [read.views[objective] for read in all_objectives(study, states)]


def _is_constant(view: FrozenTrial) -> bool:
    known = {*view.intermediate_values.values(), *(view.values or ())}
    return len(known) == 1


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether an ended trial keeps all constraints of its sampler (``constraints_func``)."""
    # Public since Optuna 5; before, samplers stored them so. A trial without any breaks none.
    constraints: Any = getattr(trial, "constraints", None)
    if constraints is None:
        constraints = dict(enumerate(trial.system_attrs.get("constraints") or ()))
    return all(constraint <= 0.0 for constraint in constraints.values())


def known_objectives(
    study: Study, trials: Sequence[Objectives], own: Objectives | None = None
) -> list[bool]:
    """Of each objective whether it never changes in training: its first value is its last.

    Args:
        study: Of the trials.
        trials: Those that finished and reported more than once tell, if there are enough.
        own: A trial of which it must be true, too.
    """
    shown = [
        read.constant
        for read in trials
        if read.trial.state == TrialState.COMPLETE and len(read.values) > 1
    ]
    enough = len(shown) >= MIN_LESSONS
    shown += [] if own is None else [own.constant]
    return [enough and all(x[i] for x in shown) for i in range(len(study.directions))]
