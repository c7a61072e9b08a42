"""A trial that one process has asked for, reported by another one: the storage alone joins them.

A Python process cannot hand its trial to a subprocess or to a job on another machine, but the
name of the storage, of the study and the number of the trial, from which `attach` makes it anew.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.trials.storage import live_trial
from optuna_aelle.trials.storage import study_identity


def attach(study: Study, number: int) -> optuna.Trial:
    """A live trial that another process has asked for, to report and to prune it from here.

    Whoever asked for the trial, or this process, tells its result (`optuna.study.Study.tell`).
    Parameters that were suggested already have their values; new ones are drawn, one by one, by
    the sampler of ``study``. The pruner is that of ``study``: give it the one that the study is
    run with.

    Args:
        study: As `optuna.load_study` returns it in this process.
        number: Of the trial, as ``trial.number`` where it was asked for.

    Raises:
        ValueError: There is no such trial, or it does not run.

    Example:
        >>> asked = study.ask()
        >>> live = attach(study, asked.number)  # elsewhere, of optuna.load_study(...)
        >>> live.report(0.5, step=0)
        >>> live.should_prune()
        False
        >>> study.tell(asked.number, 0.5).state.name
        'COMPLETE'
    """
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise ValueError(
            f"Expected the number of one of the {len(trials)} trials of '{study.study_name}', but "
            f"got {number}. Pass on trial.number, and the storage that the trial was asked from."
        )
    stored = trials[number]
    if stored.state != TrialState.RUNNING:
        raise ValueError(
            f"Expected trial {number} of '{study.study_name}' to run, but it is "
            f"{stored.state.name}: ask for another one."
        )
    storage, _ = study_identity(study)
    own = Study(study.study_name, storage, _Settled(study.sampler), study.pruner)
    return live_trial(own, stored)


class TrialHandle:
    """A trial that may be carried into another process: forked, spawned, or sent.

    Args:
        trial: The trial.

    Raises:
        ValueError: On the way to another process, if the trials are kept in memory.

    Example:
        >>> TrialHandle(trial).trial is trial
        True
    """

    def __init__(self, trial: optuna.trial.BaseTrial) -> None:
        self._trial: optuna.trial.BaseTrial | None = trial
        self._sent: dict[str, Any] | None = None
        self._process = os.getpid()

    @property
    def trial(self) -> optuna.trial.BaseTrial:
        """The trial, as this process may use it."""
        if self._process != os.getpid():
            # Forked: connections to a database are not to be shared with the parent.
            self.__setstate__(copy.deepcopy(self.__getstate__()))
        if self._trial is None:
            assert self._sent is not None
            self._trial = _attached(**self._sent)
        return self._trial

    def __getstate__(self) -> dict[str, Any]:
        if self._sent is not None:
            return self._sent
        if not isinstance(self._trial, optuna.Trial):
            return {"trial": self._trial}
        study = self._trial.study
        storage, _ = study_identity(study)
        if isinstance(storage, InMemoryStorage):
            raise ValueError(
                "Expected a study that other processes can reach, but its trials are kept in "
                "memory. Give it a storage, such as "
                "optuna.create_study(storage='sqlite:///study.db')."
            )
        return {
            "storage": storage,
            "study_name": study.study_name,
            "pruner": study.pruner,
            "number": self._trial.number,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._process = os.getpid()
        # Connected to only where the trial is asked for.
        self._trial = state.get("trial")
        self._sent = None if "trial" in state else state


def _attached(
    storage: BaseStorage, study_name: str, pruner: BasePruner, number: int
) -> optuna.Trial:
    return attach(Study(study_name, storage, RandomSampler(), pruner), number)


class _Settled(WrappingSampler):
    """Draws parameters that nobody has suggested yet, and leaves the trial as it was begun."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """It has begun."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}
