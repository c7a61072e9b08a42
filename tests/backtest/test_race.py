"""Race: an honest judge of searches. Nobody beats the oracle, the coin loses, money is counted."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.samplers import GPSampler
from optuna.samplers import QMCSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import encode_spectrum
from optuna_aelle import race
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import search_arms
from optuna_aelle.backtest.judges import Oracle
from optuna_aelle.backtest.judges import coin
from optuna_aelle.backtest.pool import BudgetSpent
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import PriorRanking
from optuna_aelle.backtest.pool import in_order
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.promotion import TopK
from optuna_aelle.backtest.promotion import rungs
from optuna_aelle.backtest.searches import Search
from tests.conftest import synthetic_spectrum

N_STEPS = 9
UNIT = FloatDistribution(0.0, 1.0)


def made_table(
    n: int = 60,
    *,
    direction: str = "minimize",
    step_seconds: float = 1.0,
    spectrum_seconds: float = 0.5,
    seed: int = 0,
) -> RecordedTrials:
    """One parameter decides where a curve ends; the order of the curves is that of their ends."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0
    trials = []
    for number in range(n):
        x, other = rng.uniform(size=2)
        curve = 1.0 - (1.0 - abs(x - 0.3)) * np.linspace(0.2, 1.0, N_STEPS)
        attributes: dict[str, Any] = {}
        for step in (-1, 1, 3):
            spectrum = synthetic_spectrum(1.0 - abs(x - 0.3), rng)
            attributes |= encode_spectrum(spectrum, step, seconds=spectrum_seconds)
        trial = create_trial(
            value=sign * float(curve[-1]),
            params={"x": float(x), "other": float(other)},
            distributions={"x": UNIT, "other": UNIT},
            intermediate_values={s: sign * float(v) for s, v in enumerate(curve, start=1)},
            system_attrs=attributes,
        )
        trial.number = number
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials(
        "made",
        direction,  # type: ignore[arg-type]
        tuple(trials),
        np.full(n, step_seconds),
        metadata={"task": "making"},
    )


def a_pool(table: RecordedTrials, budget: float = 1e9, **settings: Any) -> Pool:
    return Pool(table, range(len(table)), budget=budget, **settings)


def halving() -> SuccessiveHalvingPruner:
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def none() -> tuple[RandomSampler, NopPruner]:
    return RandomSampler(), NopPruner()


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


def test_what_an_arm_computes_is_charged_and_less_where_epochs_are_long() -> None:
    def slow(pool: Pool, seed: int) -> None:
        for position in range(len(pool)):
            while not pool.is_over(position):
                until = time.process_time() + 0.02
                while time.process_time() < until:
                    pass
                pool.train(position)

    # An epoch takes 20 ms: every epoch costs two. A fingerprint of 2 ms makes a long one of .2 s.
    table = made_table(step_seconds=0.02, spectrum_seconds=0.002)
    frame = race(table, {"slow": lambda: slow}, budget=2 * N_STEPS, n_repeats=1)
    row = frame.set_index("epochs").loc[2.0 * N_STEPS]
    assert row["n_finished"] == 1
    assert row["overhead"] == pytest.approx(N_STEPS, abs=2.5)
    fair = race(made_table(step_seconds=1e6), {"none": none}, budget=2 * N_STEPS, n_repeats=1)
    two = fair.set_index("epochs").loc[2.0 * N_STEPS, "regret_final"]
    assert row["regret_final"] >= two
    first = fair.set_index("epochs").loc[1.0 * N_STEPS, "regret_final"]
    assert row["regret_final_long"] == pytest.approx(first)


def test_spectra_are_charged_once_at_their_recorded_seconds() -> None:
    table = made_table(step_seconds=1.0, spectrum_seconds=0.5)
    pool = a_pool(table)
    before = pool.spent
    assert pool.spectrum(0) is not None
    once = pool.spent
    assert once - before == pytest.approx(0.5, abs=0.05)
    pool.spectrum(0)
    assert pool.spent == pytest.approx(once, abs=0.05)
    assert pool.trial(0).system_attrs
    with pytest.raises(ValueError, match="Expected a step that configuration 0 has reached"):
        pool.spectrum(0, 3)
    for _ in range(3):
        pool.train(0)
    assert pool.spectrum(0, 3) is not None
    assert a_pool(table, spectrum_steps=(3,)).spectrum(0) is None


def test_the_budget_ends_an_arm_that_catches_everything() -> None:
    reached: list[int] = []

    def greedy(pool: Pool, seed: int) -> None:
        for position in range(len(pool)):
            while not pool.is_over(position):
                try:
                    pool.train(position)
                except Exception:
                    reached.append(-1)
                reached.append(position)

    race(made_table(step_seconds=1e6), {"greedy": lambda: greedy}, budget=10, n_repeats=1)
    assert len(reached) == 10
    assert -1 not in reached


def test_what_was_begun_within_the_budget_is_finished() -> None:
    # Half an epoch has gone on a spectrum before the first training: it still ends in time.
    def arm(pool: Pool, seed: int) -> None:
        pool.spectrum(0)
        while not pool.is_over(0):
            pool.train(0)

    frame = race(made_table(), {"arm": lambda: arm}, budget=N_STEPS, n_repeats=1)
    assert frame.iloc[-1]["n_finished"] == 1
    assert 0.5 <= frame.iloc[-1]["overhead"] < 0.7


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
    ("position", "message"),
    [(60, "one of the 60 configurations of the pool, 0 to 59, got 60"), (-1, "got -1")],
)
def test_what_is_not_in_the_table_cannot_be_trained(position: int, message: str) -> None:
    def stranger(pool: Pool, seed: int) -> None:
        pool.train(position)

    arms = {"stranger": lambda: stranger, "none": none}
    with pytest.warns(AeLLEWarning, match=message):
        race(made_table(), arms, budget=2 * N_STEPS, n_repeats=1)


def test_nothing_is_trained_beyond_its_end() -> None:
    pool = a_pool(made_table())
    for _ in range(N_STEPS):
        pool.train(3)
    assert pool.is_over(3)
    assert pool.trial(3).state == TrialState.COMPLETE
    with pytest.raises(ValueError, match="Configuration 3 has been trained to its end already"):
        pool.train(3)


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


class Knowing:
    """A prior that knows the parameter, and which tasks it has seen."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = frozenset(tasks)

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[Any, Any]:
        means = np.array([1.0 - abs(t.params["x"] - 0.3) for t in trials])
        return means, np.zeros(len(trials))


def test_a_prior_that_has_seen_the_task_is_told_of() -> None:
    arms = {"none": none}
    with pytest.warns(AeLLEWarning, match="has learned from 'making', the task of the table"):
        race(made_table(), arms, budget=20, n_repeats=1, prior=Knowing("making", "sorting"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        race(made_table(), arms, budget=20, n_repeats=1, prior=Knowing("sorting"))


def test_the_order_of_a_prior_is_that_of_what_it_says() -> None:
    table = made_table(spectrum_seconds=0.1)
    frame = race(
        table,
        {
            "halving": lambda: Search(*none(), PriorRanking(spectra=False)),
            "promotion": lambda: Promotion(3, ranking=PriorRanking()),
            "nothing known": lambda: Promotion(3),
        },
        budget=3 * N_STEPS,
        n_repeats=3,
        prior=Knowing(),
    )
    at = frame.groupby(["arm", "epochs"])[["regret_final", "overhead"]].mean()
    assert at.loc[("halving", N_STEPS), "regret_final"] == 0.0
    # Spectra of the whole pool, six epochs: it ends later.
    assert at.loc[("promotion", 3 * N_STEPS), "overhead"] == pytest.approx(6.0, abs=0.6)
    assert at.loc[("promotion", 3 * N_STEPS), "regret_final"] == 0.0
    assert at.loc[("nothing known", 3 * N_STEPS), "regret_final"] > 0.0
    with pytest.warns(AeLLEWarning, match="Expected a prior to rank by"):
        race(
            table,
            {"a": lambda: Promotion(3, ranking=PriorRanking()), "none": none},
            budget=20,
            n_repeats=1,
        )


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


@pytest.mark.parametrize(
    ("sampler", "share"),
    [
        (TPESampler, 0.5),
        (lambda: TPESampler(multivariate=False), 0.5),
        (lambda: GPSampler(n_startup_trials=10), 0.7),
    ],
)
def test_model_based_samplers_aim_at_configurations_of_the_pool(
    sampler: Callable[[], BaseSampler], share: float
) -> None:
    """Of what they take, so many are in the best third, whose share by chance is a third."""
    good = []
    for seed in range(4):
        table = made_table(120, seed=seed)
        pool = a_pool(table, budget=30 * N_STEPS)
        with pytest.raises(BudgetSpent):
            Search(sampler(), NopPruner())(pool, 0)
        started = list(dict.fromkeys(pool.course.positions.tolist()))
        # Until the model speaks, the order of the pool.
        assert started[:10] == list(range(10))
        ranks = np.argsort(np.argsort(table.finals))
        good.append(np.mean(ranks[started[10:]] < 40))
    assert np.mean(good) >= share


def test_other_samplers_are_moved_to_the_nearest() -> None:
    table = made_table()
    pool = a_pool(table, budget=5 * N_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = QMCSampler(seed=0)
        with pytest.raises(BudgetSpent):
            Search(sampler, NopPruner())(pool, 0)
    assert len(set(pool.course.positions.tolist())) >= 5


def conditional_table(n: int = 60) -> RecordedTrials:
    """Half of the configurations have a parameter that the others lack, and are better."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(n):
        kind = ("plain", "gated")[number % 2]
        params: dict[str, Any] = {"kind": kind, "x": float(rng.uniform())}
        space: dict[str, Any] = {"kind": CategoricalDistribution(("plain", "gated")), "x": UNIT}
        end = 1.0 + params["x"]
        if kind == "gated":
            params["gate"] = float(rng.uniform())
            space["gate"] = UNIT
            end = params["gate"]
        values = {step: end + 1.0 / step for step in range(1, 5)}
        values[4] = end
        trial = create_trial(
            value=end, params=params, distributions=space, intermediate_values=values
        )
        trial.number = number
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials("conditional", "minimize", tuple(trials), np.full(n, 1.0))


@pytest.mark.parametrize("kind", ["tpe", "grouped tpe", "gp"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_conditional_spaces(kind: str) -> None:
    samplers = {
        "tpe": lambda: TPESampler(),
        "grouped tpe": lambda: TPESampler(multivariate=True, group=True),
        "gp": lambda: GPSampler(n_startup_trials=4, warn_independent_sampling=False),
    }
    pool = a_pool(conditional_table(), budget=4 * 35)
    with pytest.raises(BudgetSpent):
        Search(samplers[kind](), NopPruner())(pool, 0)
    started = list(dict.fromkeys(pool.course.positions.tolist()))
    taken = [pool.configurations[i].params for i in started[10:20]]
    # By chance one in two.
    assert np.mean([params["kind"] == "gated" for params in taken]) >= 0.7
    if kind != "gp":
        # A Gaussian process does not see what only some have.
        assert np.mean([params.get("gate", 0.0) for params in taken]) < 0.4


def test_a_search_repeats_a_live_study() -> None:
    """The same configurations, reports and prunes as Optuna's own loop over the same trials."""
    table = made_table(step_seconds=1e6)
    pool = a_pool(table, budget=10 * N_STEPS)
    with pytest.raises(BudgetSpent):
        Search(RandomSampler(), MedianPruner(n_startup_trials=3))(pool, 0)
    numbers = iter(range(len(table)))
    lengths: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        source = table.trials[next(numbers)]
        for step, value in source.intermediate_values.items():
            trial.report(value, step)
            if trial.should_prune():
                lengths.append(step)
                raise optuna.TrialPruned
        lengths.append(N_STEPS)
        return float(source.values[0])

    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=3))
    study.optimize(objective, n_trials=len(table))
    positions, counts = np.unique(pool.course.positions, return_counts=True)
    # The last one was broken off by the budget.
    assert counts[:-1].tolist() == lengths[: len(positions) - 1]
    assert len(positions) > 12


def test_spectra_reach_our_sampler_and_pruner_and_are_charged() -> None:
    table = made_table(100, step_seconds=1.0, spectrum_seconds=0.02)

    def never(params: dict[str, Any]) -> None:
        raise AssertionError("the recorded spectra are used")

    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        frame = race(
            table,
            {
                "ours": lambda: (AeLLESampler(never, n_candidates=8), AeLLEPruner()),
                "none": none,
            },
            budget=20 * N_STEPS,
            n_repeats=2,
            spectrum_steps=(-1, 3),
        )
    last = frame[frame["epochs"] == 20 * N_STEPS].groupby("arm").mean(numeric_only=True)
    assert last.loc["ours", "n_started"] > last.loc["none", "n_started"]
    assert last.loc["ours", "overhead"] > 0.02 * last.loc["ours", "n_started"]
    assert last.loc["ours", "regret_final"] <= last.loc["none", "regret_final"]


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


def test_trials_that_were_pruned_when_recorded_end_there() -> None:
    table = made_table()
    cut = []
    for trial in table.trials:
        if trial.number % 2:
            values = dict(list(trial.intermediate_values.items())[:4])
            trial = create_trial(
                state=TrialState.PRUNED,
                value=values[4],
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=values,
            )
        cut.append(trial)
    table = RecordedTrials("cut", "minimize", tuple(cut), np.full(len(cut), 1e6))
    with pytest.warns(AeLLEWarning, match="30 of 60 trials of 'cut' were pruned when they were"):
        frame = race(
            table,
            {"tpe": lambda: (TPESampler(), halving()), "asha": lambda: Promotion(3)},
            budget=6 * N_STEPS,
            n_repeats=2,
        )
    assert not frame.isna().any().any()
    assert (frame["n_finished"] <= frame["n_started"]).all()


def test_steps_that_are_not_counted_one_by_one() -> None:
    """Reports at every fifth step from 0: a budget is in steps, not in reports."""
    trials = []
    rng = np.random.default_rng(0)
    for number in range(30):
        end = float(rng.uniform())
        steps = [0, 5, 10, 15, 20]
        trial = create_trial(
            value=end,
            params={"x": end},
            distributions={"x": UNIT},
            intermediate_values={step: end + 1.0 - step / 20.0 for step in steps},
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("coarse", "minimize", tuple(trials), np.full(30, 1e6))
    frame = race(table, {"none": none}, budget=3 * 21, n_repeats=1)
    assert frame["epochs"].max() == 63
    assert frame.set_index("epochs").loc[21.0, "n_finished"] == 1
    assert frame.iloc[-1]["n_finished"] == 3


def test_a_ranking_orders_and_chance_breaks_ties() -> None:
    pool = a_pool(made_table(10))
    assert in_order(pool, None) == list(range(10))
    assert in_order(pool, lambda p: np.zeros(len(p))) == list(range(10))
    assert in_order(pool, lambda p: np.arange(len(p)))[:2] == [9, 8]


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


def test_equal_ends_are_nothing_to_regret() -> None:
    table = made_table()
    for trial in table.trials:
        trial.values = [0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        frame = race(table, {"none": none}, budget=2 * N_STEPS, n_repeats=1)
    assert frame["regret_final"].tolist() == [1.0] * 8 + [0.0] * 10


def test_where_epochs_are_long_already_nothing_is_made_up() -> None:
    # A fingerprint is a thousandth of an epoch.
    pool = a_pool(made_table(step_seconds=60.0, spectrum_seconds=0.06))
    assert pool.step_seconds == (60.0, 60.0)
    assert a_pool(made_table(step_seconds=1.0, spectrum_seconds=0.5)).step_seconds == (1.0, 50.0)


def test_time_is_charged_once_even_where_training_fails() -> None:
    pool = a_pool(made_table(step_seconds=1.0))
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert pool.spent >= 0.1
    for _ in range(5):
        with pytest.raises(ValueError, match="got 99"):
            pool.train(99)
    pool.train(0)
    assert pool.course.seconds[0] == pytest.approx(0.1, abs=0.05)


def test_configurations_that_are_equal_are_told_apart() -> None:
    """Five settings, four networks each, which end where chance will."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(20):
        end = float(rng.uniform())
        trial = create_trial(
            value=end,
            params={"x": (number % 5) / 5.0},
            distributions={"x": UNIT},
            intermediate_values={1: end + 1.0, 2: end},
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("equal", "minimize", tuple(trials), np.full(20, 1e6))
    pool = a_pool(table, budget=1e6)
    Search(RandomSampler(), NopPruner())(pool, 0)
    assert list(dict.fromkeys(pool.course.positions.tolist())) == list(range(20))
    frame = race(table, {"oracle": lambda: Oracle(table)}, budget=2, n_repeats=3)
    assert (frame.groupby("repeat")["regret_final"].last() == 0.0).all()


def branches_table(n: int = 80, seed: int = 0) -> RecordedTrials:
    """Nothing matters: half of the configurations have four parameters more, for nothing."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        kind = ("plain", "gated")[int(rng.integers(2))]
        params: dict[str, Any] = {"kind": kind, "x": float(rng.uniform())}
        space: dict[str, Any] = {"kind": CategoricalDistribution(("plain", "gated")), "x": UNIT}
        for extra in range(4 if kind == "gated" else 0):
            params[f"gate{extra}"], space[f"gate{extra}"] = float(rng.uniform()), UNIT
        end = float(rng.uniform())
        trial = create_trial(
            value=end, params=params, distributions=space, intermediate_values={1: end + 1, 2: end}
        )
        trial.number = number
        trials.append(trial)
    return RecordedTrials("branches", "minimize", tuple(trials), np.full(n, 1.0))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_no_branch_wins_for_having_more_parameters(grouped: bool) -> None:
    shares = []
    for seed in range(6):
        pool = a_pool(branches_table(seed=seed), budget=2 * 40)
        sampler = TPESampler(multivariate=grouped, group=grouped)
        with pytest.raises(BudgetSpent):
            Search(sampler, NopPruner())(pool, 0)
        started = list(dict.fromkeys(pool.course.positions.tolist()))[10:]
        gated = [pool.configurations[i].params["kind"] == "gated" for i in started]
        everywhere = [t.params["kind"] == "gated" for t in pool.configurations]
        shares.append(np.mean(gated) - np.mean(everywhere))
    assert abs(np.mean(shares)) < 0.15


@pytest.mark.parametrize("multivariate", [False, True])
def test_a_value_out_of_its_range_is_not_preferred(multivariate: bool) -> None:
    table = made_table()
    table.trials[35].params["x"] = 7.0
    pool = a_pool(table, budget=20 * N_STEPS)
    with pytest.raises(BudgetSpent):
        Search(TPESampler(multivariate=multivariate), NopPruner())(pool, 0)
    started = list(dict.fromkeys(pool.course.positions.tolist()))
    assert 35 not in started[10:14]


def test_spectra_keep_their_steps() -> None:
    """Reports at 5, 10 ...; spectra at −1, 3 and 4 are told with the report that follows."""
    table = made_table(30, step_seconds=1e6)
    for trial in table.trials:
        values = list(trial.intermediate_values.values())
        trial.intermediate_values = {5 * i: value for i, value in enumerate(values, start=1)}
        payloads = list(trial.system_attrs.values())
        keys = [f"aelle:spectrum:{step}" for step in (-1, 3, 4)]
        trial.system_attrs = dict(zip(keys, payloads, strict=True))
    seen: list[set[int]] = []

    class Reader(optuna.pruners.BasePruner):
        reads = frozenset({"spectra"})

        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            seen.append({*decode_spectra(trial)})
            return True

    pool = a_pool(table, budget=500)
    Search(RandomSampler(), Reader())(pool, 0)
    assert seen[0] == {-1}
    seen.clear()

    class Late(Reader):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            seen.append({*decode_spectra(trial)})
            return trial.last_step is not None

    Search(RandomSampler(), Late())(a_pool(table, budget=500), 0)
    assert seen[:2] == [{-1}, {-1, 3, 4}]


def test_top_k_counts_a_budget_in_steps() -> None:
    table = made_table(step_seconds=1e6)
    for trial in table.trials:
        values = list(trial.intermediate_values.values())
        trial.intermediate_values = {5 * i: value for i, value in enumerate(values, start=1)}
    frame = race(table, {"top": lambda: TopK(1, 1)}, budget=4 * 45, n_repeats=2)
    assert (frame.groupby("repeat")["n_finished"].last() == 1).all()


def test_a_ranking_by_a_prior_that_has_seen_the_task_is_refused() -> None:
    pool = a_pool(made_table())
    with pytest.raises(ValueError, match="it has learned from 'making'"):
        PriorRanking(Knowing("making"))(pool)


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
