"""A running trial goes on unless something that could start is expected to end better."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from scipy.stats import norm

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle.decisions.reservoir import EXPLORATION
from optuna_aelle.decisions.reservoir import index_of
from optuna_aelle.decisions.rivalry import _forecast
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.prediction.process import Field
from optuna_aelle.prediction.values import expected_value


def train(trial: optuna.Trial, *, n_steps: int = 27, worst: float = math.nan) -> float:
    """Losses fall the faster the nearer the rate is to 1e-3; ``width`` counts, too."""
    rate = math.log10(trial.suggest_float("lr", 1e-5, 1e-1, log=True))
    badness = abs(rate + 3.0) / 4.0 + abs(trial.suggest_float("width", 0.0, 1.0) - 0.7)
    value = 1.0
    for step in range(n_steps):
        value = badness + (1.5 - badness) * math.exp(-step / 4.0)
        trial.report(worst if badness > 1.0 and step > 2 else value, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def search(
    sampler: Any = None, pruner: Any = None, n: int = 30, objective: Any = train, **options: Any
) -> optuna.Study:
    study = optuna.create_study(
        sampler=sampler or AeLLESampler(None, RandomSampler(seed=0)),
        pruner=pruner or AeLLEPruner(),
        **options,
    )
    study.optimize(objective, n_trials=n)
    return study


def test_it_finds_a_good_one_for_less() -> None:
    ours = search()
    epochs = sum(len(t.intermediate_values) for t in ours.trials)
    pruned = [t for t in ours.trials if t.state == TrialState.PRUNED]
    assert len(pruned) > 5
    assert epochs < 0.8 * 27 * len(ours.trials)
    random = search(RandomSampler(seed=0), optuna.pruners.NopPruner())
    n = epochs // 27
    assert ours.best_value <= min(t.value for t in random.trials[:n])


def test_every_stop_says_what_is_to_start_instead() -> None:
    study = search()
    for trial in study.trials:
        if trial.state != TrialState.PRUNED:
            continue
        verdict = decode_verdict(trial)
        assert verdict is not None
        assert verdict.by == AELLE
        assert verdict.rival is not None
        forecast = decode_forecasts(trial)[verdict.step]
        assert verdict.rival_std is not None
        assert verdict.rival + EXPLORATION * verdict.rival_std >= forecast.standing
        sentence = trial.user_attrs[DECISION_KEY]
        assert "expects it to end ahead of" in sentence
        assert "and another network, which may end further ahead, of" in sentence
        assert math.isfinite(trial.user_attrs["aelle:predicted_final"])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_both_directions_stop_the_same(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0

    def objective(trial: optuna.Trial) -> float:
        badness = abs(trial.suggest_float("width", 0.0, 1.0) - 0.7)
        for step in range(9):
            trial.report(sign * (badness + 1.0 / (step + 1)), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * badness

    study = search(objective=objective, direction=direction)
    lengths = [len(t.intermediate_values) for t in study.trials]
    other = search(objective=objective, direction=direction)
    assert lengths == [len(t.intermediate_values) for t in other.trials]
    assert abs(study.best_trial.params["width"] - 0.7) < 0.2


def test_values_that_are_not_finite_are_no_reason_to_raise() -> None:
    for worst in (math.nan, math.inf):
        study = search(objective=lambda t, worst=worst: train(t, worst=worst), n=20)
        assert len(study.trials) == 20


def test_who_has_wrapped_a_pruner_is_obeyed() -> None:
    study = search(pruner=AeLLEPruner(optuna.pruners.NopPruner()), n=8)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_a_failure_costs_one_warning_and_halving_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no field")

    monkeypatch.setattr("optuna_aelle.decisions.pruner.judge", fail)
    with pytest.warns(AeLLEWarning, match="no field.*SuccessiveHalvingPruner decides") as caught:
        study = search(n=15)
    assert len([w for w in caught if "no field" in str(w.message)]) == 1
    assert any(t.state == TrialState.PRUNED for t in study.trials)


def test_parallel_trials() -> None:
    study = optuna.create_study(sampler=AeLLESampler(None, seed=0), pruner=AeLLEPruner())
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study.optimize(train, n_trials=24, n_jobs=4)
    assert len(study.trials) == 24


def a_trial(state: TrialState) -> optuna.trial.FrozenTrial:
    value = 0.5 if state == TrialState.COMPLETE else None
    return optuna.trial.create_trial(state=state, value=value, intermediate_values={0: 0.5})


def test_once_one_has_ended_what_may_beat_it_promises_most() -> None:
    mean = np.array([1.5, 1.3, 1.0, 0.0, -40.0])
    std = np.array([0.1, 0.05, 0.8, 1.0, 0.3])
    started = [a_trial(TrialState.COMPLETE), *[a_trial(TrialState.RUNNING)] * 4]
    index = index_of(Field(mean, std), started)
    assert np.isfinite(index).all()
    # Surely good, but surely behind the best: nothing is to be gained. Others may be better.
    assert index[2] > index[3] > index[1] > index[4]
    z = (mean - 1.5) / std
    improvement = std * (norm.pdf(z) + z * norm.cdf(z))
    assert index[:4] == pytest.approx(np.log(improvement[:4]), abs=1e-6)
    # Before one has ended, the mean counts, and a little what is not known.
    before = index_of(Field(mean, std), [a_trial(TrialState.RUNNING)] * 5)
    assert before == pytest.approx(mean + EXPLORATION * std)


def test_what_it_has_reached_counts_in_what_it_is_promised() -> None:
    """One has ended and others were stopped early; it is far above those and nearly as good."""
    step_values = [(39, 0.935), (0, 0.26), (0, 0.48), (1, 0.49), (0, 0.2), (0, 0.28), (15, 0.9)]
    standings = np.array([1.5, 0.2, 0.9, 0.8, -0.4, 0.5, 0.85])
    study = optuna.create_study(direction="maximize")
    for number, (last, value) in enumerate(step_values):
        curve = {step: value * (1.0 - 0.7 ** (step + 1)) for step in range(last)} | {last: value}
        state = TrialState.COMPLETE if number == 0 else TrialState.PRUNED
        if number == len(step_values) - 1:
            state = TrialState.RUNNING
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=None if state == TrialState.RUNNING else value,
                intermediate_values=curve,
            )
        )
    field = Field(standings, np.full(len(standings), 0.4))
    forecast = _forecast(study, study.trials, list(range(6)), 6, field, 1.0)
    assert 0.88 < forecast.value < 0.94
    assert 0.005 < forecast.value_std < 0.1
    # Without a finished one to compare with, a flat stretch is no promise of nothing more.
    unended = _forecast(study, study.trials, list(range(1, 6)), 6, field, 1.0)
    assert unended.value_std > forecast.value_std
    assert unended.value < 0.6


def test_after_a_single_end_the_curve_says_how_certain_a_value_is() -> None:
    # The standings of one that has ended are all mapped to its value: that is no knowledge.
    lesson = optuna.trial.create_trial(value=0.4, intermediate_values={0: 1.0, 1: 0.6, 2: 0.4})
    running = optuna.trial.create_trial(
        state=TrialState.RUNNING, intermediate_values={0: 1.2, 1: 0.9}
    )
    _, value, std = expected_value([lesson], np.zeros(1), -1.0, running, (-0.5, 0.5))
    assert 0.4 < value < 0.9
    assert std > 0.05
