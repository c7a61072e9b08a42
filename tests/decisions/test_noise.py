"""Differences within a metric's noise are ties, and a tie stops nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle.decisions.noise import is_a_tie
from optuna_aelle.decisions.noise import noise_of


def trial_of(values: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED, intermediate_values=dict(enumerate(map(float, values)))
    )


@pytest.mark.parametrize("trend", [0.0, 0.05])
def test_noise_is_told_from_trends(trend: float) -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(20)
    curves = [trial_of(-trend * steps + 0.02 * rng.standard_normal(20)) for _ in range(20)]
    assert noise_of(curves) == pytest.approx(0.02, rel=0.15)
    # Some that leap or diverge change little.
    wild = [trial_of(10.0 * rng.standard_normal(20)) for _ in range(3)]
    wild.append(trial_of([np.nan, np.inf, *steps[2:]]))
    assert noise_of([*curves, *wild]) == pytest.approx(0.02, rel=0.4)


def test_nothing_is_noise_where_nobody_can_tell() -> None:
    assert noise_of([]) == 0.0
    assert noise_of([trial_of([1.0, 0.5]), trial_of([1.0])]) == 0.0
    smooth = [trial_of(0.9 ** np.arange(10) * scale) for scale in (1.0, 2.0)]
    assert noise_of(smooth) < 0.01


def at_chance(direction: str, seed: int) -> optuna.Study:
    """Errors sit at one half for five steps; then those of good parameters fall."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0

    def objective(trial: optuna.Trial) -> float:
        good = trial.suggest_float("x", 0.0, 1.0)
        value = 0.5
        for step in range(10):
            value = 0.5 - max(step - 4, 0) * 0.08 * good + 0.02 * rng.standard_normal()
            trial.report(sign * value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * value

    study = optuna.create_study(
        direction=direction, sampler=RandomSampler(seed=seed), pruner=AeLLEPruner()
    )
    study.optimize(objective, n_trials=40)
    return study


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_on_a_plateau_values_decide_nothing(direction: str) -> None:
    early = 0
    for seed in range(3):
        study = at_chance(direction, seed)
        sign = 1.0 if direction == "minimize" else -1.0
        by_curves = [
            t
            for t in study.trials
            if t.state == TrialState.PRUNED
            and "SuccessiveHalving" in t.user_attrs.get("aelle:decision", "")
        ]
        early += sum(len(t.intermediate_values) <= 4 for t in by_curves)
        # Once they differ, halving saves what it can.
        assert any(len(t.intermediate_values) >= 6 for t in by_curves)
        assert sign * study.best_value < 0.16
    # Of 120 trials; halving would stop most, noise beyond its 2 standard deviations stops some.
    assert early <= 20


def test_ties_are_seen_among_those_that_came_as_far() -> None:
    study = optuna.create_study()
    rng = np.random.default_rng(1)
    for _ in range(10):
        study.add_trial(trial_of(0.5 + 0.02 * rng.standard_normal(8)))
    assert is_a_tie(study, trial_of([0.5, 0.5, 0.52]))
    assert not is_a_tie(study, trial_of([0.5, 0.5, 0.65]))
    assert is_a_tie(study, trial_of([0.5, 0.5, 0.3]))
    assert not is_a_tie(study, trial_of([0.5, np.nan]))
    assert not is_a_tie(study, create_trial(state=TrialState.RUNNING))
