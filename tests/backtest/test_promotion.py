"""Halving with promotion, and the top few after a few steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optuna_aelle import race
from optuna_aelle.backtest.pool import BudgetSpent
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.promotion import TopK
from optuna_aelle.backtest.promotion import rungs
from tests.backtest.tables import N_STEPS
from tests.backtest.tables import a_pool
from tests.backtest.tables import made_table


def test_rungs_end_with_the_whole_training() -> None:
    assert rungs(27, 3, 1) == [1, 3, 9, 27]
    assert rungs(20, 3, 1) == [1, 3, 9, 20]
    assert rungs(12, 2, 3) == [3, 6, 12]
    assert rungs(1, 2, 1) == [1]


def test_promotion_goes_on_with_the_best_third() -> None:
    pool = a_pool(made_table(120, step_seconds=1e6), budget=200)
    with pytest.raises(BudgetSpent):
        Promotion(3)(pool, 0)
    course = pool.course
    # Three starts, then the best of them goes on to the second rung.
    assert course.positions[:3].tolist() == [0, 1, 2]
    best = int(np.argmin(course.values[:3]))
    assert course.positions[3:5].tolist() == [best, best]
    assert course.positions[5] == 3
    lengths = np.unique(course.positions, return_counts=True)[1]
    # The last one was broken off by the budget.
    assert sum(n not in (1, 3, 9) for n in lengths.tolist()) <= 1
    # One in three of a rung has gone on, and some more that were the best when they came.
    share = (lengths >= 3).sum() / len(lengths)
    assert 0.3 <= share <= 0.5


def test_promotion_survives_trainings_that_diverge() -> None:
    table = made_table(120)
    for trial in table.trials[::3]:
        trial.intermediate_values = dict.fromkeys(trial.intermediate_values, math.nan)
    pool = a_pool(table, budget=200)
    with pytest.raises(BudgetSpent):
        Promotion(3)(pool, 0)
    course = pool.course
    lengths = np.unique(course.positions, return_counts=True)[1]
    assert (lengths[::3] == 1).all()


def test_top_k_spends_its_budget() -> None:
    pool = a_pool(made_table(step_seconds=1e6), budget=5 * N_STEPS)
    TopK(2, 2)(pool, 0)
    positions, lengths = np.unique(pool.course.positions, return_counts=True)
    # (45 - 2 * 7) / 2 starts, of which two go on.
    assert len(positions) == 15
    assert sorted(lengths)[-2:] == [N_STEPS, N_STEPS]
    assert len(pool.course.steps) == 2 * 15 + 2 * 7
    first = [pool.values(i)[1] for i in positions]
    assert set(positions[lengths == N_STEPS]) == set(np.argsort(first)[:2])


def test_top_k_counts_a_budget_in_steps() -> None:
    table = made_table(step_seconds=1e6)
    for trial in table.trials:
        values = list(trial.intermediate_values.values())
        trial.intermediate_values = {5 * i: value for i, value in enumerate(values, start=1)}
    frame = race(table, {"top": lambda: TopK(1, 1)}, budget=4 * 45, n_repeats=2)
    assert (frame.groupby("repeat")["n_finished"].last() == 1).all()
