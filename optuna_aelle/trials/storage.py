"""The one place that reaches past Optuna's public interface, with the reason beside each function.

Optuna has no public way to write a trial's attributes from outside of its own process, to see the
trials of a study through the bracket that Hyperband shows, or to keep a sampler's writes back.
"""

from __future__ import annotations

from collections.abc import Container
from collections.abc import Mapping
from typing import Any
from typing import cast

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState


def study_identity(study: Study) -> tuple[BaseStorage, int]:
    """What tells a study from all others, whoever loaded it: its storage, and its number there."""
    return study._storage, study._study_id


def every_trial(study: Study, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
    """All trials of a study; of all brackets where Hyperband shows the sampler one. Not copied."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False, states=states)


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


def live_trial(study: Study, trial: FrozenTrial) -> optuna.Trial:
    """A running trial as its objective has it, in whatever process this is."""
    return optuna.Trial(study, trial._trial_id)


def write_system_attributes(
    study: Study, trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]
) -> None:
    """Write what programs read; the dashboard does not show it, data frames do not hold it."""
    for key, value in attributes.items():
        study._storage.set_trial_system_attr(trial._trial_id, key, value)


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


def add_as_it_is(study: Study, trial: FrozenTrial) -> None:
    """As ``study.add_trial``, without its checks: Optuna lets values pass that it would refuse.

    An enqueued value may lie out of the range that the trial then suggested.
    """
    study._storage.create_new_trial(study._study_id, template_trial=trial)


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


class DeferredWrites:
    """A study that reads as it is, and keeps to itself what is written on its trials.

    Attributes:
        study: What to hand to a sampler; what Hyperband hands to samplers cannot be copied.
        written: The system attributes that came, by key.
    """

    def __init__(self, study: Study) -> None:
        storage = _KeepingStorage(study._storage)
        self.written = storage.written
        self.study = cast(Study, _StudyOf(study, storage))


class _StudyOf:
    def __init__(self, study: Study, storage: _KeepingStorage) -> None:
        self._inner = study
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _KeepingStorage:
    def __init__(self, storage: BaseStorage) -> None:
        self._inner = storage
        self.written: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.written[key] = value
