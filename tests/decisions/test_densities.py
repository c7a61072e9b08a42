"""TPE draws what Optuna's own draws, though its densities are computed otherwise."""

from __future__ import annotations

import math
import sys
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
@given(
    st.integers(0, 2**31),
    st.integers(0, 40),
    st.sampled_from([[name] for name in SPACE] + [[*SPACE]]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_densities_are_those_of_optuna(
    seed: int, n_seen: int, names: list[str], weighted: bool
) -> None:
    rng = np.random.RandomState(seed)
    space = {name: SPACE[name] for name in names}
    seen = dict.fromkeys(names, np.zeros(0))
    if n_seen:
        seen = _ParzenEstimator(seen, space, parameters()).sample(rng, n_seen)
    # As TPE gives them with several objectives.
    weights = rng.uniform(0.1, 1.0, n_seen) if weighted else None
    theirs = _ParzenEstimator(seen, space, parameters(), weights)
    ours = VectorParzenEstimator(seen, space, parameters(), weights)
    samples = theirs.sample(rng, 24)
    np.testing.assert_allclose(ours._log_pdf(samples), theirs.log_pdf(samples), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_of_categories_that_tie_the_same_one_is_drawn() -> None:
    cells = CategoricalDistribution(["lstm", "gru", "rnn"])
    for n in range(1, 6):
        seen = {"cell": np.repeat([0.0, 1.0, 2.0], n)}
        pair = [_ParzenEstimator, VectorParzenEstimator]
        theirs, ours = (made(seen, {"cell": cells}, parameters()) for made in pair)
        samples = {"cell": np.array([0.0, 1.0, 2.0])}
        assert ours.log_pdf(samples).tolist() == theirs.log_pdf(samples).tolist()


def test_outside_of_its_range_a_value_has_no_density() -> None:
    seen = {"gain": np.array([-1.0, 2.0])}
    mixture = VectorParzenEstimator(seen, {"gain": SPACE["gain"]}, parameters())
    density = mixture._log_pdf({"gain": np.array([-3.1, -3.0, 3.0, 3.1])})
    assert np.isneginf(density).tolist() == [True, False, False, True]


@pytest.mark.parametrize("size", [16, 57, 256])
def test_the_mass_of_a_grid_is_one(size: int) -> None:
    grid = IntDistribution(1, size, log=True)
    seen = {"size": np.array([1.0, size / 2, size])}
    mixture = VectorParzenEstimator(seen, {"size": grid}, parameters())
    density = mixture._log_pdf({"size": np.arange(1.0, size + 1)})
    assert np.exp(density).sum() == pytest.approx(1.0)


def test_masses_far_out_are_not_lost() -> None:
    # ln P(−41 < z < −40) ≈ ln φ(40) − ln 40, where probabilities are 0 in doubles.
    expected = norm.logsf(40.0)
    both = _log_mass(np.array([-41.0, 40.0]), np.array([-40.0, 41.0]))
    np.testing.assert_allclose(both, expected, rtol=1e-12)
    assert _log_mass(np.array([-50.0]), np.array([50.0])) == 0.0


def test_another_version_of_optuna_draws_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"size": np.array([3.0, 20.0])}
    mixture = VectorParzenEstimator(seen, {"size": IntDistribution(1, 30)}, parameters())
    samples = mixture.sample(np.random.RandomState(0), 24)
    expected = mixture._log_pdf(samples)
    monkeypatch.setattr(VectorParzenEstimator, "_log_pdf", _raise)
    np.testing.assert_allclose(mixture.log_pdf(samples), expected, rtol=1e-9)
    assert ExcerptTPESampler()._parzen_estimator_cls is VectorParzenEstimator
    monkeypatch.setitem(sys.modules, "optuna_aelle.decisions.densities", None)
    sampler = ExcerptTPESampler()
    study = optuna.create_study(sampler=sampler)
    study.optimize(suggest, n_trials=15)
    assert sampler._parzen_estimator_cls is _ParzenEstimator


def _raise(self: VectorParzenEstimator, samples: Any) -> None:
    raise AttributeError("'_Mixture' object has no attribute 'distributions'")
