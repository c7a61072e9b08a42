"""The one place that reaches past the public interface of Optuna's studies, with the reasons.

Optuna has no public way to write a trial's attributes from outside of its own process, to see the
trials of a study through the bracket that Hyperband shows, or to keep a sampler's writes back.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Container
from collections.abc import Mapping
from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from typing import cast

import numpy as np
import numpy.typing as npt
import optuna
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

FloatArray = npt.NDArray[np.float64]


def study_identity(study: Study) -> tuple[BaseStorage, int]:
    """What tells a study from all others, whoever loaded it: its storage, and its number there."""
    storage: Any = study._storage
    while isinstance(storage, _Around):
        storage = storage._inner
    return storage, study._study_id


def trial_identity(trial: FrozenTrial) -> int:
    """What tells a trial from all others of its storage: the dashboard keeps notes under it."""
    return trial._trial_id


def every_trial(study: Study, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
    """All trials of a study; of all brackets where Hyperband shows the sampler one. Not copied."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False, states=states)


def with_attribute(trials: Sequence[FrozenTrial], key: str) -> list[FrozenTrial]:
    """Those that have a system attribute; of thousands, asking one by one would take long."""
    attributes = map(attrgetter("system_attrs"), trials)
    return [trial for trial, of in zip(trials, attributes, strict=True) if key in of]


def values_of(trials: Sequence[FrozenTrial], objective: int) -> FloatArray:
    """What finished trials have returned for an objective ``(n,)``."""
    return np.array([values[objective] for values in map(attrgetter("values"), trials)])


def numbered(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial | None:
    """The trial of a number, among trials in order of number."""
    position = bisect_left(trials, number, key=lambda trial: trial.number)
    found = trials[position] if position < len(trials) else None
    return found if found is not None and found.number == number else None


def stored_trial(study: Study, trial: FrozenTrial) -> FrozenTrial:
    """The trial as it is in the storage: what a pruner is given is a copy from before."""
    return study._storage.get_trial(trial._trial_id)


def latest(trial: FrozenTrial | optuna.trial.BaseTrial) -> FrozenTrial | None:
    """A trial with what the storage has of it; None for one that no study has (`FixedTrial`)."""
    if isinstance(trial, FrozenTrial):
        return trial
    if isinstance(trial, optuna.Trial):
        return trial.study._storage.get_trial(trial._trial_id)
    return None


def known_here(trial: FrozenTrial | optuna.trial.BaseTrial) -> FrozenTrial | None:
    """As `latest`, of a live trial as its own object has it: no storage is asked.

    What was written on it by that object is there; of other writers it knows nothing.
    """
    return trial._cached_frozen_trial if isinstance(trial, optuna.Trial) else latest(trial)


def live_trial(study: Study, trial: FrozenTrial) -> optuna.Trial:
    """A running trial as its objective has it, in whatever process this is."""
    return optuna.Trial(study, trial._trial_id)


def write_system_attributes(
    study: Study, trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]
) -> None:
    """Write what programs read; the dashboard does not show it, data frames do not hold it."""
    for key, value in attributes.items():
        study._storage.set_trial_system_attr(trial._trial_id, key, value)
        if isinstance(trial, optuna.Trial):
            trial._cached_frozen_trial.system_attrs[key] = value


def write_user_attributes(
    study: Study, trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]
) -> None:
    """Write what people read."""
    for key, value in attributes.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)


def write_study_attribute(study: Study, key: str, value: Any) -> None:
    """As ``study.set_user_attr``, also from within a bracket of Hyperband."""
    study._storage.set_study_user_attr(study._study_id, key, value)


def study_system_attributes(study: Study) -> dict[str, Any]:
    """What programs read of a study, by key."""
    return study._storage.get_study_system_attrs(study._study_id)


def write_study_system_attribute(study: Study, key: str, value: Any) -> None:
    """Write what programs read of a study."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def keeps_order_of_reports(study: Study) -> bool:
    """Whether values come back as they were reported; databases have an order of their own."""
    return isinstance(study._storage, InMemoryStorage | JournalStorage)


def add_as_it_is(study: Study, trial: FrozenTrial) -> None:
    """As ``study.add_trial``, without its checks: Optuna lets values pass that it would refuse.

    An enqueued value may lie out of the range that the trial then suggested.
    """
    study._storage.create_new_trial(study._study_id, template_trial=trial)


def is_storage_error(error: Exception) -> bool:
    """Whether a storage has failed, rather than what was asked of it.

    Each has its own errors; the packages that they come from need not be there.
    """
    if isinstance(error, optuna.exceptions.StorageInternalError | OSError):
        return True
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return bool(packages & {"sqlalchemy", "redis", "grpc"})


def seconds_since_heartbeat(study: Study) -> tuple[dict[int, float], float | None]:
    """Of the running trials that have one, by number, and after how many they count as lost.

    Only databases keep heartbeats; how long is too long only those know that were opened with a
    ``heartbeat_interval``.
    """
    from optuna.storages import RDBStorage

    backend = getattr(study._storage, "_backend", study._storage)
    if not isinstance(backend, RDBStorage):
        return {}, None
    from optuna.storages._rdb import models
    from sqlalchemy import func

    with backend.scoped_session() as session:
        now = session.execute(func.now()).scalar_one()
        rows = (
            session.query(models.TrialModel.number, models.TrialHeartbeatModel.heartbeat)
            .join(models.TrialHeartbeatModel)
            .filter(models.TrialModel.study_id == study._study_id)
            .filter(models.TrialModel.state == TrialState.RUNNING)
            .all()
        )
    # As Optuna has it: PostgreSQL says its time with a zone, and keeps heartbeats without.
    age = {number: (now.replace(tzinfo=None) - beat).total_seconds() for number, beat in rows}
    interval = backend.heartbeat_interval
    grace = backend.grace_period or (None if interval is None else 2 * interval)
    return age, None if interval is None else grace


def at_one_moment(study: Study, *, asked: bool = False) -> Study:
    """A study as it is now, read once: whoever decides asks for its trials again and again.

    On a database server each time costs round trips, and in between other workers write. What is
    written goes through, and is seen.

    Args:
        study: Any.
        asked: Whether it has just been asked for a trial, for which it reads all trials, too.
    """
    # What Hyperband shows of a study is its own affair, and so is a study that is read already.
    if type(study) is not Study:
        return study
    storage = _AtOneMoment(study._storage, study._study_id)
    if asked:
        storage.trials = [*study._get_trials(deepcopy=False, use_cache=True)]
    return cast(Study, _StudyOf(study, storage))


def ended_trials(study: Study) -> list[FrozenTrial]:
    """What samplers learn from, read once for each trial that is asked for; not copied."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return study._get_trials(deepcopy=False, states=ended, use_cache=True)


def with_trials(study: Study, trials: Sequence[FrozenTrial]) -> Study:
    """A study that shows these trials, and no others, to samplers."""
    return cast(Study, _Excerpt(study, trials))


class DeferredWrites:
    """A study that reads as it is, and keeps to itself what is written on its trials.

    Attributes:
        study: What to hand to a sampler; what Hyperband hands to samplers cannot be copied.
        written: The system attributes that came, by key.
    """

    def __init__(self, study: Study) -> None:
        storage = _Keeping(study._storage)
        self.written = storage.written
        self.study = cast(Study, _StudyOf(study, storage))


class _StudyOf:
    """A study with another storage in front of its own."""

    def __init__(self, study: Study, storage: Any) -> None:
        self._inner = study
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if isinstance(self._storage, _AtOneMoment):
            return self._storage.get_all_trials(self._inner._study_id, deepcopy, states)
        return self._inner.get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # Optuna's samplers ask in this way; what they would cache is known here as it is.
        return self.get_trials(deepcopy, states)


class _Excerpt(_StudyOf):
    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study, study._storage)
        self._shown = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = [t for t in self._shown if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found


class _Around:
    """A storage in front of another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Keeping(_Around):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.written: dict[str, Any] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.written[key] = value


class _AtOneMoment(_Around):
    """Asks for the trials of a study, and for what programs have written on it, once."""

    def __init__(self, inner: Any, study_id: int) -> None:
        super().__init__(inner)
        self._study_id = study_id
        self._of_study: dict[str, Any] | None = None
        self._read: list[FrozenTrial] | None = None
        # Long studies are not gone through for the same states twice.
        self._in_states: dict[frozenset[TrialState], list[FrozenTrial]] = {}

    @property
    def trials(self) -> list[FrozenTrial]:
        if self._read is None:
            self._read = [*self._inner.get_all_trials(self._study_id, deepcopy=False)]
        return self._read

    @trials.setter
    def trials(self, trials: list[FrozenTrial]) -> None:
        self._read = trials
        self._in_states.clear()

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        key = frozenset(s for s in TrialState if states is None or s in states)
        if key not in self._in_states:
            every = len(key) == len(TrialState)
            self._in_states[key] = [t for t in self.trials if every or t.state in key]
        found = self._in_states[key]
        return copy.deepcopy(found) if deepcopy else [*found]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        position = self._position(trial_id)
        return self._inner.get_trial(trial_id) if position is None else self.trials[position]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        if self._of_study is None:
            self._of_study = self._inner.get_study_system_attrs(study_id)
        return self._of_study

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._inner.set_study_system_attr(study_id, key, value)
        self._of_study = None

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._inner.set_trial_system_attr(trial_id, key, value)
        self._note(trial_id, "system_attrs", key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._inner.set_trial_user_attr(trial_id, key, value)
        self._note(trial_id, "user_attrs", key, value)

    def _position(self, trial_id: int) -> int | None:
        # Whoever decides is among the latest.
        positions = reversed(range(len(self.trials)))
        return next((i for i in positions if self.trials[i]._trial_id == trial_id), None)

    def _note(self, trial_id: int, kind: str, key: str, value: Any) -> None:
        position = self._position(trial_id)
        if position is not None:
            # The object may be the storage's own.
            trial = copy.copy(self.trials[position])
            setattr(trial, kind, {**getattr(trial, kind), key: value})
            self.trials[position] = trial
            self._in_states.clear()
