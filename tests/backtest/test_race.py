"""Race: an honest judge of searches. Nobody beats the oracle, and the coin loses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from optuna.pruners import NopPruner
from optuna.samplers import GPSampler
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from optuna_aelle import AeLLEWarning
from optuna_aelle import RecordedTrials
from optuna_aelle import race
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import search_arms
from optuna_aelle.backtest.judges import Oracle
from optuna_aelle.backtest.judges import coin
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.promotion import TopK
from tests.backtest.tables import N_STEPS
from tests.backtest.tables import UNIT
from tests.backtest.tables import Knowing
from tests.backtest.tables import halving
from tests.backtest.tables import made_table
from tests.backtest.tables import none


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_nobody_beats_the_oracle_and_the_coin_loses(direction: str) -> None:
    table = made_table(direction=direction)
    arms = {
        "oracle": lambda: Oracle(table),
        "coin": lambda: coin,
        **search_arms(Steps.of(table)),
        "top": lambda: TopK(1, 1),
    }
    frame = race(table, arms, budget=12 * N_STEPS, n_repeats=3, n_configs=40)
    assert not frame.isna().any().any()
    means = frame.groupby(["arm", "epochs"])[["regret_final", "regret_seen"]].mean()
    assert set(frame["arm"]) == set(arms)
    oracle = means.loc["oracle"]
    # Nothing before the first training has ended, everything after.
    assert (oracle["regret_final"].to_numpy() == [1.0] * 8 + [0.0] * (108 - 8)).all()
    # Its curves have the order of their ends: nobody sees more than it does once one has ended.
    assert (oracle["regret_seen"].to_numpy()[8:] == 0.0).all()
    for name in arms:
        # What has been found is not lost.
        assert (np.diff(means.loc[name], axis=0) <= 1e-12).all()
        assert (means.loc[name, "regret_final"].to_numpy()[:8] == 1.0).all()
    last = means.xs(12.0 * N_STEPS, level="epochs")["regret_final"]
    assert last.idxmax() == "coin"
    assert last["coin"] > last.drop("coin").max()


def test_doing_nothing_trains_one_after_the_other_in_the_order_of_the_pool() -> None:
    table = made_table(step_seconds=1e6)
    frame = race(table, {"none": none}, budget=3 * N_STEPS, n_repeats=4, n_configs=50, seed=5)
    for repeat in range(4):
        order = np.random.default_rng([5, repeat]).permutation(60)[:50]
        finals = table.finals[order]
        best, median = finals.min(), np.median(finals)
        part = frame[frame["repeat"] == repeat].set_index("epochs")
        for n in (1, 2, 3):
            row = part.loc[float(n * N_STEPS)]
            expected = min((finals[:n].min() - best) / (median - best), 1.0)
            assert row["regret_final"] == pytest.approx(expected)
            # A curve that only falls has seen its best at its end.
            assert row["regret_seen"] == pytest.approx(expected)
            assert (row["n_started"], row["n_finished"]) == (n, n)


def test_pools_and_orders_are_the_same_for_all_arms() -> None:
    seen: dict[str, list[list[float]]] = {"a": [], "b": []}

    def watcher(name: str) -> Any:
        def arm(pool: Pool, seed: int) -> None:
            seen[name].append([seed, *(t.params["x"] for t in pool.configurations)])
            while True:
                pool.train(0) if not pool.is_over(0) else pool.train(1)

        return lambda: arm

    race(made_table(), {n: watcher(n) for n in seen}, budget=12, n_repeats=3, n_configs=20)
    assert seen["a"] == seen["b"]
    assert len({row[0] for row in seen["a"]}) == 3
    assert len({tuple(row) for row in seen["a"]}) == 3


def test_a_factory_that_takes_a_seed_is_given_that_of_the_repeat() -> None:
    given: list[int] = []

    def factory(seed: int) -> Any:
        given.append(seed)
        return TPESampler(seed=seed), NopPruner()

    race(made_table(), {"a": factory, "b": factory}, budget=20, n_repeats=2, n_configs=20)
    assert given[0] == given[1] != given[2] == given[3]


def test_an_arm_that_raises_is_named_and_the_others_go_on() -> None:
    def broken(pool: Pool, seed: int) -> None:
        pool.train(0)
        raise KeyError("no such thing")

    table = made_table()
    with pytest.warns(AeLLEWarning, match=r"Arm 'broken' raised in repeat 1, KeyError: 'no such"):
        frame = race(
            table, {"broken": lambda: broken, "none": none}, budget=2 * N_STEPS, n_repeats=2
        )
    by_arm = dict(list(frame.groupby("arm")))
    assert by_arm["broken"][["regret_final", "regret_seen", "n_started"]].isna().all().all()
    assert not by_arm["none"].isna().any().any()
    assert len(by_arm["broken"]) == len(by_arm["none"])


def test_all_arms_raise() -> None:
    def factory() -> Any:
        raise TypeError("needs an argument")

    with (
        pytest.warns(AeLLEWarning),
        pytest.raises(RuntimeError, match="Every arm has raised. Arm 'a'.*needs an argument"),
    ):
        race(made_table(), {"a": factory}, budget=2 * N_STEPS, n_repeats=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_configs": 61}, "between 2 and the 60 recorded trials, but got 61"),
        ({"n_configs": 1}, "between 2 and the 60 recorded trials, but got 1"),
        ({"budget": 8}, "a budget of at least one training, 9 steps, but got 8"),
        ({"budget": math.nan}, "a budget of at least one training"),
        ({"budget": 541}, "all of 60 configurations, 540 steps, but got 541"),
        ({"budget": 91, "n_configs": 10}, "all of 10 configurations, 90 steps, but got 91"),
        ({"n_repeats": 0}, "n_repeats must be at least 1, but got 0"),
        ({"arms": {}}, "at least one arm, got none"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments = {"arms": {"none": none}, "budget": 20, "n_repeats": 1} | settings
    with pytest.raises(ValueError, match=message):
        race(made_table(), **arguments)


def test_a_prior_that_has_seen_the_task_is_told_of() -> None:
    arms = {"none": none}
    with pytest.warns(AeLLEWarning, match="has learned from 'making', the task of the table"):
        race(made_table(), arms, budget=20, n_repeats=1, prior=Knowing("making", "sorting"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        race(made_table(), arms, budget=20, n_repeats=1, prior=Knowing("sorting"))


def test_one_random_state_decides_everything() -> None:
    table = made_table(step_seconds=1e6)
    arms = {
        "tpe": lambda seed: (TPESampler(seed=seed), halving()),
        "gp": lambda seed: (GPSampler(seed=seed, n_startup_trials=4), halving()),
        "coin": lambda: coin,
    }
    columns = ["arm", "repeat", "epochs", "regret_final", "regret_seen", "n_started"]
    first, second = (
        race(table, arms, budget=6 * N_STEPS, n_repeats=2, seed=3)[columns] for _ in range(2)
    )
    assert first.equals(second)
    other = race(table, arms, budget=6 * N_STEPS, n_repeats=2, seed=4)[columns]
    assert not first.equals(other)


def test_an_oracle_over_unequal_lengths_by_hand() -> None:
    """Ends of 1 to 5 after as many epochs as that: what it has, epoch by epoch."""
    trials = []
    for number, length in enumerate([3, 1, 5, 2, 4]):
        curve = {step: float(length) + (length - step) for step in range(1, length + 1)}
        trial = create_trial(
            value=float(length),
            params={"x": length / 10.0},
            distributions={"x": UNIT},
            intermediate_values=curve,
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("unequal", "maximize", tuple(trials), np.full(5, 1e6))
    frame = race(table, {"oracle": lambda: Oracle(table)}, budget=10, n_repeats=2)
    by_epochs = frame[frame["repeat"] == 1].set_index("epochs")
    # The best, 5, takes five epochs; its first report is the best that anybody ever reports.
    nine = np.arange(1, 19) * 5 / 9
    np.testing.assert_allclose(by_epochs.index, nine, atol=1e-5)
    assert (by_epochs["regret_final"].to_numpy() == np.where(nine > 4.0 + 1e-6, 0.0, 1.0)).all()
    assert (by_epochs["regret_seen"] == 0.0).all()
    assert by_epochs["n_finished"].iloc[-1] == 2


def test_a_table_without_spectra_needs_no_advice() -> None:
    table = made_table(80, step_seconds=1e6)
    for trial in table.trials:
        trial.system_attrs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        frame = race(table, {OURS: search_arms(Steps.of(table))[OURS]}, budget=180, n_repeats=1)
    assert frame["n_started"].iloc[-1] >= 20


def test_the_caller_s_threads_stay() -> None:
    import torch

    before = torch.get_num_threads()
    seen: list[int] = []

    def arm(pool: Pool, seed: int) -> None:
        seen.append(torch.get_num_threads())
        pool.train(0)

    try:
        torch.set_num_threads(2)
        race(made_table(), {"arm": lambda: arm}, budget=20, n_repeats=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


@pytest.mark.parametrize("arm", [coin, none()], ids=["an arm itself", "a pair itself"])
def test_an_arm_that_is_no_factory_is_refused(arm: Any) -> None:
    with pytest.raises(ValueError, match="arm 'mine' a function without arguments"):
        race(made_table(), {"mine": arm}, budget=3 * N_STEPS)


def test_a_factory_that_makes_something_else_is_told_of() -> None:
    table = made_table()
    with (
        pytest.warns(AeLLEWarning, match="expected a sampler and a pruner"),
        pytest.raises(RuntimeError, match="Every arm"),
    ):
        race(table, {"mine": halving}, budget=3 * N_STEPS, n_repeats=1)  # type: ignore[dict-item]
