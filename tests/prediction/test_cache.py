"""One fit for all that ask of the same trials: pruner, sampler, brackets, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import PerformancePredictor
from optuna_aelle import report_spectrum
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.cache import lessons_of
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.conftest import made_trials
from tests.conftest import synthetic_spectrum


def spectrum_fn(params: dict[str, Any]) -> np.ndarray:
    return synthetic_spectrum(params["a"], np.random.default_rng(0))


def train(trial: optuna.Trial) -> float:
    a = trial.suggest_float("a", 0.0, 1.0)
    report_spectrum(trial, spectrum_fn({"a": a}), -1)
    if trial.should_prune():
        raise optuna.TrialPruned
    for step in range(9):
        trial.report(1.0 - a + 1.0 / (step + 1), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return 1.0 - a


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials each fit learned from."""
    sizes: list[int] = []
    fit = PerformancePredictor.fit

    def counted(self: PerformancePredictor, trials: Any) -> Any:
        sizes.append(len(trials))
        return fit(self, trials)

    monkeypatch.setattr(PerformancePredictor, "fit", counted)
    return sizes


def test_trials_share_their_fits(fits: list[int]) -> None:
    base = TPESampler(multivariate=True, constant_liar=False, seed=0)
    study = optuna.create_study(sampler=base, pruner=AeLLEPruner())
    study.optimize(train, n_trials=45)
    assert fits == sorted(set(fits))
    assert fits[0] == 12


def test_beside_our_sampler_nothing_is_fitted(fits: list[int]) -> None:
    """What is expected of all trials comes from one forecast then."""
    study = optuna.create_study(sampler=AeLLESampler(spectrum_fn, seed=0), pruner=AeLLEPruner())
    study.optimize(train, n_trials=30)
    assert fits == []


def test_studies_are_kept_apart() -> None:
    storage = optuna.storages.InMemoryStorage()
    found = []
    for seed in range(2):
        study = optuna.create_study(storage=storage)
        study.add_trials(made_trials(20, seed=seed))
        found.append(fitted_predictor(study, FEATURES, 12))
    assert found[0] is not found[1]
    assert found[0] is fitted_predictor(
        optuna.load_study(study_name=storage.get_study_name_from_id(0), storage=storage),
        FEATURES,
        12,
    )


def test_a_network_that_went_on_teaches_once() -> None:
    study = optuna.create_study()
    study.add_trials(made_trials(20))
    (stopped, *_) = [t for t in study.trials if t.state == TrialState.PRUNED]
    n = len(lessons_of(study))
    enqueue_continuation(study, stopped)
    trial = study.ask()
    # As long as it is under way, what was known before teaches.
    running = PerformancePredictor().fit(study.trials)
    assert stopped.number in [t.number for t in running.lessons]
    study.tell(trial, 0.1)
    lessons = lessons_of(study)
    assert len(lessons) == n
    assert stopped.number not in [t.number for t in lessons]
    fitted = PerformancePredictor().fit(study.trials)
    assert sorted(t.number for t in fitted.lessons) == sorted(t.number for t in lessons)
