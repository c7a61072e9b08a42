"""Which recorded configuration a replay tries next, as an Optuna sampler.

A fixed stream is an order of the recorded trials. An adaptive one lets any sampler propose and
takes the recorded configuration next to the proposal that has not been tried yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_aelle.prediction.encoding import ParameterEncoder


class RecordedStream(BaseSampler):
    """Give each new trial the parameters of a recorded one; `take` says of which.

    Args:
        recorded: The trials to choose from.
        order: Indices in the order to try; for an adaptive stream, those that may be tried.
        proposer: Proposes parameters where the stream is adaptive.
    """

    def __init__(
        self,
        recorded: Sequence[FrozenTrial],
        order: Iterable[int],
        proposer: BaseSampler | None = None,
    ) -> None:
        self._recorded = recorded
        self._left = list(order)
        self._proposer = proposer
        self._current = -1
        self._neighbors = None if proposer is None else Neighbors(recorded)

    def take(self, study: Study) -> tuple[Trial, int]:
        """Ask for a trial: itself, with its parameters set, and the index of the recorded one."""
        trial = study.ask()
        source = self._recorded[self._current]
        for name, distribution in source.distributions.items():
            suggest(trial, name, distribution)
        return trial, self._current

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._recorded[self._current].params[param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # Here, since Optuna draws parameters no sooner than one is suggested.
        if self._proposer is None or self._neighbors is None:
            self._current = self._left.pop(0)
            return
        self._proposer.before_trial(study, trial)
        params = propose(self._proposer, study, trial, self._neighbors)
        self._current = self._neighbors.nearest(params, self._left)
        self._left.remove(self._current)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if self._proposer is not None:
            self._proposer.after_trial(study, trial, state, values)


class Neighbors:
    """Recorded trials by how close their parameters are to others.

    Attributes:
        recorded: They.
        space: The last distribution of each parameter.
    """

    def __init__(self, recorded: Sequence[FrozenTrial]) -> None:
        self.recorded = recorded
        self.space: dict[str, BaseDistribution] = {}
        for trial in recorded:
            self.space |= trial.distributions
        self._encoder = ParameterEncoder(recorded)
        self._positions = self._encoder.encode(recorded)
        self._indices = {key_of(trial.params): i for i, trial in enumerate(recorded)}

    def find(self, params: dict[str, Any]) -> int | None:
        """The index of the trial with exactly these parameters, None if there is none."""
        return self._indices.get(key_of(params))

    def nearest(self, params: dict[str, Any], among: Sequence[int] | None = None) -> int:
        """The index of the closest of all, or of those ``among``."""
        exactly = self.find(params)
        if exactly is not None and (among is None or exactly in among):
            return exactly
        # Ranges may differ from trial to trial, so nothing is checked here.
        there = FrozenTrial(
            number=0,
            trial_id=0,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=None,
            datetime_complete=None,
            params=params,
            distributions={name: self.space[name] for name in params},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        indices = list(range(len(self.recorded)) if among is None else among)
        away = self._positions[indices] - self._encoder.encode([there])
        return indices[int(np.argmin((away**2).sum(axis=1)))]


def key_of(params: dict[str, Any]) -> str:
    """What tells configurations apart."""
    return repr(sorted(params.items()))


def propose(
    proposer: BaseSampler, study: Study, trial: FrozenTrial, neighbors: Neighbors
) -> dict[str, Any]:
    """What a sampler would suggest to a trial that asks for every parameter of the space."""
    relative = proposer.infer_relative_search_space(study, trial)
    params = proposer.sample_relative(study, trial, relative)
    if neighbors.find(params) is not None:
        return params
    for name, distribution in neighbors.space.items():
        if name not in params:
            params[name] = proposer.sample_independent(study, trial, name, distribution)
    return params


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """Let a trial ask for a parameter, as its recorded objective did."""
    if isinstance(distribution, FloatDistribution):
        d = distribution
        trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    else:
        trial.suggest_categorical(name, distribution.choices)  # type: ignore[attr-defined]
