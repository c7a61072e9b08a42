"""The arms of the comparison: Optuna's pruners as they come and tuned, other peers, and ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import PercentilePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.preprocessing import StandardScaler

from benchmarks.decisions.peers import CurveRegressionPruner
from benchmarks.decisions.peers import LossSumHalvingPruner
from benchmarks.decisions.peers import LossSumPruner
from benchmarks.decisions.peers import TopK
from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import RecordedTrials
from optuna_aelle.backtest.streams import Neighbors
from optuna_aelle.backtest.streams import propose
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import spectrum_payloads

FloatArray = npt.NDArray[np.float64]
PrunerFactory = Callable[[], BasePruner]

OURS = "AeLLE"
SHUFFLED = "AeLLE, shuffled spectra"
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def optuna_arms(n_epochs: int) -> dict[str, PrunerFactory]:
    """No pruner, and Optuna's."""
    arms: dict[str, PrunerFactory] = {
        "none": NopPruner,
        "Median": MedianPruner,
        # Steps count from 1, and one at n_warmup_steps is judged.
        "Median, warm-up 1": partial(MedianPruner, n_warmup_steps=2),
        "Median, warm-up 5": partial(MedianPruner, n_warmup_steps=6),
        "Percentile 25": partial(PercentilePruner, 25.0),
    }
    for eta in (2, 3, 4):
        for least in (1, 3):
            arms[f"SHA η={eta}, min {least}"] = partial(
                SuccessiveHalvingPruner, min_resource=least, reduction_factor=eta
            )
    for least in (1, 3):
        arms[f"Hyperband, min {least}"] = partial(
            HyperbandPruner, min_resource=least, max_resource=n_epochs, reduction_factor=3
        )
    return arms


def peer_arms() -> dict[str, PrunerFactory]:
    """Other peers that decide as trials run."""
    arms: dict[str, PrunerFactory] = {
        f"loss sum {percentile}": partial(LossSumPruner, float(percentile))
        for percentile in (25, 50)
    }
    for eta in (2, 4):
        arms[f"loss sum, SHA η={eta}"] = partial(LossSumHalvingPruner, eta)
    for risk in (0.05, 0.2):
        for warmup in (0, 2):
            arms[f"regression {risk:g}, warm-up {warmup}"] = partial(
                CurveRegressionPruner, risk, n_warmup_steps=warmup
            )
    return arms


def resuming_arms() -> dict[str, TopK]:
    """Those that stop everybody and take a few up again."""
    return {f"top {k} after {i}": TopK(i, k) for i in (1, 2, 3, 5, 10) for k in (1, 3, 5)}


def our_arms() -> dict[str, PrunerFactory]:
    """The pruner and its ablations; the shuffled spectra are those of other trials."""
    return {
        OURS: AeLLEPruner,
        "AeLLE over SHA η=4": partial(
            AeLLEPruner, SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
        ),
        "AeLLE, params": partial(AeLLEPruner, features=("params",)),
        "AeLLE, curve": partial(AeLLEPruner, features=("curve",)),
        "AeLLE, curve + params": partial(AeLLEPruner, features=("curve", "params")),
        "AeLLE, spectrum": partial(AeLLEPruner, features=("spectrum",)),
        "AeLLE, PCA": partial(AeLLEPruner, spectrum_regressor=partial(LinearRegressor, 8)),
        "AeLLE, raw spectrum": partial(
            AeLLEPruner, spectrum_regressor=partial(LinearRegressor, None)
        ),
        SHUFFLED: AeLLEPruner,
    }


def tpe_sampler(seed: int) -> TPESampler:
    """What proposes in the TPE stream, and what `aelle_sampler` draws its candidates from."""
    return TPESampler(multivariate=True, group=True, constant_liar=False, seed=seed)


def sampler_arms() -> dict[str, PrunerFactory]:
    """Pruners under `aelle_sampler`."""
    halving = partial(SuccessiveHalvingPruner, min_resource=1, reduction_factor=2)
    return {"AeLLE sampler + SHA η=2, min 1": halving, "AeLLE sampler + AeLLE": AeLLEPruner}


def aelle_sampler(recorded: RecordedTrials, seed: int) -> AeLLESampler:
    """The sampler over recorded networks: its candidates are such as have not been tried yet.

    Every spectrum of a candidate is charged at its recorded seconds.
    """
    neighbors = Neighbors(recorded.trials)
    payloads = [spectrum_payloads(trial)[UNTRAINED_STEP] for trial in recorded.trials]
    spectra = [decode_spectra(trial)[UNTRAINED_STEP] for trial in recorded.trials]

    def spectrum(params: dict[str, Any]) -> FloatArray:
        index = neighbors.find(params)
        assert index is not None
        sampler.overhead_seconds += payloads[index]["seconds"]
        return spectra[index]

    sampler = AeLLESampler(spectrum, _UntriedSampler(neighbors, seed))
    return sampler


class _UntriedSampler(WrappingSampler):
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
        index = self._neighbors.nearest(params, left)
        self._proposed.add(index)
        return dict(self._neighbors.recorded[index].params)


class LinearRegressor:
    """What AeLLE is compared with: ridge on the spectrum, or on its principal components.

    Args:
        n_components: How many; None for the whole spectrum.
        random_state: Not used: nothing is drawn.
    """

    out_of_fold_prediction_: FloatArray

    def __init__(self, n_components: int | None, random_state: int) -> None:
        self._n_components = n_components

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike,
        score_weights: npt.ArrayLike,
    ) -> LinearRegressor:
        rows, targets = np.asarray(X), np.asarray(y)
        known = ~np.isnan(targets)
        weights, labels = np.asarray(score_weights)[known], np.asarray(groups)[known]
        folds = list(GroupKFold(min(5, len(np.unique(labels)))).split(rows[known], groups=labels))
        # The penalty, too, is chosen across networks, not across epochs of one.
        best = np.inf
        for penalty in _PENALTIES:
            # A fold leaves out up to half of the networks.
            model = self._pipeline(penalty, int(known.sum()) // 2)
            held_out = cross_val_predict(
                model,
                rows[known],
                targets[known],
                cv=folds,
                params={"ridge__sample_weight": weights},
            )
            error = float(np.average((held_out - targets[known]) ** 2, weights=weights))
            if error < best:
                best, self._model, chosen = error, model, held_out
        self._model.fit(rows[known], targets[known], ridge__sample_weight=weights)
        self.out_of_fold_prediction_ = self.predict(rows)
        self.out_of_fold_prediction_[known] = chosen
        return self

    def _pipeline(self, penalty: float, most: int) -> Pipeline:
        steps = [FunctionTransformer(_squash), StandardScaler()]
        if self._n_components is not None:
            steps.append(PCA(min(self._n_components, most)))
        return make_pipeline(*steps, Ridge(penalty))

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        return np.asarray(self._model.predict(X))


def _squash(exponents: FloatArray) -> FloatArray:
    """As AeLLE sees them."""
    return np.asarray(np.arcsinh(np.maximum(exponents, -50.0) / 0.1))
