"""Which configurations would a sampler have tried? Samplers over recorded trials.

`replay` moves what they propose to the nearest recorded configuration that is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_aelle import AeLLESampler
from optuna_aelle import RecordedTrials
from optuna_aelle.backtest.streams import Neighbors
from optuna_aelle.backtest.streams import propose
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import spectrum_payloads

FloatArray = npt.NDArray[np.float64]


def tpe_sampler(seed: int) -> TPESampler:
    """What proposes in the TPE stream, and what `aelle_sampler` draws its candidates from."""
    return TPESampler(multivariate=True, group=True, constant_liar=False, seed=seed)


def aelle_sampler(recorded: RecordedTrials, seed: int) -> AeLLESampler:
    """The sampler over recorded networks: its candidates are such as have not been tried yet.

    Every spectrum of a candidate is charged at its recorded seconds. Without a prior: the shipped
    one has seen these very tables.
    """
    neighbors = Neighbors(recorded.trials)
    payloads = [spectrum_payloads(trial)[UNTRAINED_STEP] for trial in recorded.trials]
    spectra = [decode_spectra(trial)[UNTRAINED_STEP] for trial in recorded.trials]

    def spectrum(params: dict[str, Any]) -> FloatArray:
        index = neighbors.find(params)
        assert index is not None
        sampler.overhead_seconds += payloads[index]["seconds"]
        return spectra[index]

    sampler = AeLLESampler(spectrum, UntriedSampler(neighbors, seed), prior=None)
    return sampler


class UntriedSampler(WrappingSampler):
    """TPE, whose every proposal is moved to the nearest recorded configuration not tried yet.

    Proposals for one trial are of different configurations.
    """

    def __init__(self, neighbors: Neighbors, seed: int) -> None:
        super().__init__(tpe_sampler(seed))
        self._neighbors = neighbors
        self._proposed: set[int] = set()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        tried = (self._neighbors.find(t.params) for t in study.get_trials(deepcopy=False))
        self._proposed = {index for index in tried if index is not None}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._neighbors.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params = propose(self._base, study, trial, self._neighbors)
        left = [i for i in range(len(self._neighbors.recorded)) if i not in self._proposed]
        everything = list(range(len(self._neighbors.recorded)))
        index = self._neighbors.nearest(params, left or everything)
        self._proposed.add(index)
        return dict(self._neighbors.recorded[index].params)
