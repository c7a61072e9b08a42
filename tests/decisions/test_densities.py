"""TPE draws what Optuna's own draws, though its densities are computed otherwise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimatorParameters
from scipy.stats import norm

from optuna_aelle.decisions.densities import VectorParzenEstimator
from optuna_aelle.decisions.densities import _log_mass
from optuna_aelle.decisions.drawing import ExcerptTPESampler

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "gain": FloatDistribution(-3.0, 3.0),
    "dropout": FloatDistribution(0.0, 0.5, step=0.05),
    "size": IntDistribution(16, 256, log=True),
    "layers": IntDistribution(1, 4),
    "steps": IntDistribution(0, 1000, step=10),
    "cell": CategoricalDistribution(["lstm", "gru", "rnn"]),
}


def suggest(trial: optuna.Trial) -> float:
    x = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
    loss = abs(math.log(x["rate"]) + 7.0) + abs(x["gain"] - 1.0) + x["dropout"] + x["layers"]
    loss += (x["cell"] == "rnn") + abs(x["size"] - 100) / 50 + x["steps"] / 500
    if x["layers"] > 2:
        loss += trial.suggest_float("skip", 0.0, 1.0)
    if trial.number % 4 == 1:
        trial.report(loss, 1)
        raise optuna.TrialPruned
    return loss


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("seed", range(3))
def test_the_same_draws(seed: int) -> None:
    searched = []
    for sampler in (TPESampler, ExcerptTPESampler):
        options: dict[str, Any] = {"multivariate": True, "group": True, "seed": seed}
        study = optuna.create_study(sampler=sampler(**options))
        study.optimize(suggest, n_trials=60)
        searched.append([trial.params for trial in study.trials])
    assert searched[0] == searched[1]


def parameters() -> _ParzenEstimatorParameters:
    """As TPE has them, in every version of Optuna."""
    given: _ParzenEstimatorParameters = TPESampler(multivariate=True)._parzen_estimator_parameters
    return given


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@given(st.integers(0, 2**31), st.integers(0, 40), st.sampled_from([*SPACE]))
@settings(max_examples=60, deadline=None)
def test_densities_are_those_of_optuna(seed: int, n_seen: int, name: str) -> None:
    rng = np.random.RandomState(seed)
    space = {name: SPACE[name]}
    nothing = {name: np.zeros(0)}
    seen = _ParzenEstimator(nothing, space, parameters()).sample(rng, n_seen)
    theirs = _ParzenEstimator(seen if n_seen else nothing, space, parameters())
    ours = VectorParzenEstimator(seen if n_seen else nothing, space, parameters())
    samples = theirs.sample(rng, 24)
    np.testing.assert_allclose(ours.log_pdf(samples), theirs.log_pdf(samples), rtol=1e-9)


@pytest.mark.parametrize("size", [16, 57, 256])
def test_the_mass_of_a_grid_is_one(size: int) -> None:
    grid = IntDistribution(1, size, log=True)
    seen = {"size": np.array([1.0, size / 2, size])}
    mixture = VectorParzenEstimator(seen, {"size": grid}, parameters())
    density = mixture.log_pdf({"size": np.arange(1.0, size + 1)})
    assert np.exp(density).sum() == pytest.approx(1.0)


def test_masses_far_out_are_not_lost() -> None:
    # ln P(−41 < z < −40) ≈ ln φ(40) − ln 40, where probabilities are 0 in doubles.
    expected = norm.logsf(40.0)
    both = _log_mass(np.array([-41.0, 40.0]), np.array([-40.0, 41.0]))
    np.testing.assert_allclose(both, expected, rtol=1e-12)
    assert _log_mass(np.array([-50.0]), np.array([50.0])) == 0.0
