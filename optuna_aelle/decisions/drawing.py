"""Configurations that a base sampler draws, as if nobody had asked it."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary

from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.decisions.excerpts import lessons
from optuna_aelle.trials.objectives import signs_of
from optuna_aelle.trials.storage import DeferredWrites
from optuna_aelle.trials.storage import ended_trials
from optuna_aelle.trials.storage import study_identity
from optuna_aelle.trials.storage import with_trials


class ExcerptTPESampler(TPESampler):
    """TPE whose draws take no longer in a long study of one objective; else it draws as TPE does.

    Of more than `LONG` ended trials it learns from some (`excerpts.lessons`), of several
    objectives from all: TPE ranks them by fronts. The search space it learns from those that are
    new.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        try:
            from optuna_aelle.decisions.densities import VectorParzenEstimator
        except ImportError:  # another version of Optuna may keep its own elsewhere
            pass
        else:
            self._parzen_estimator_cls = VectorParzenEstimator
        self._forget_read()

    def _forget_read(self) -> None:
        # By study the trials of which it has read the space, which it keeps.
        self._read: WeakKeyDictionary[BaseStorage, dict[int, list[FrozenTrial]]]
        self._read = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if name != "_read"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_read()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        storage, study_id = study_identity(study)
        read = self._read.setdefault(storage, {})
        ended = ended_trials(study)
        # The very same trials, if the storage keeps them, are found without a look at each.
        known = set(map(id, read.get(study_id, ())))
        new = [t for t in ended if id(t) not in known]
        read[study_id] = ended
        return super().infer_relative_search_space(with_trials(study, new), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_taught(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return super().sample_independent(_taught(study), trial, param_name, param_distribution)


def _taught(study: Study) -> Study:
    ended = ended_trials(study)
    if len(study.directions) > 1 or len(ended) <= LONG:
        return study
    return with_trials(study, lessons(ended, *signs_of(study)))


def default_sampler(seed: int | None) -> BaseSampler:
    """TPE that draws the parameters of each branch together."""
    # Nobody is to be warned of experimental arguments that they have not given.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Without constant_liar, drawing leaves nothing in the storage.
        return ExcerptTPESampler(multivariate=True, group=True, constant_liar=False, seed=seed)


class Draw:
    """One candidate, and what drawing it would have written on the trial.

    Args:
        base: The sampler.
        study: Of the trial.
        trial: That is to begin.
        space: To draw from.
        seen: What the base sampler has seen of it; that it draws together.

    Attributes:
        params: By name.
        written: System attributes by key.
    """

    def __init__(
        self,
        base: BaseSampler,
        study: Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
        seen: dict[str, BaseDistribution],
    ) -> None:
        watched = DeferredWrites(study)
        self.params = base.sample_relative(watched.study, trial, seen)
        # A sampler without relative sampling draws nothing.
        unlike = {name for name in space if seen.get(name) != space[name]}
        unlike -= seen.keys() - self.params.keys()
        for name in sorted(unlike if self.params else space):
            if space[name].single():
                # TPE has no density for it.
                self.params[name] = _only_value(space[name])
                continue
            value = base.sample_independent(watched.study, trial, name, space[name])
            self.params[name] = value
        self.written = watched.written


def _only_value(distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low
