"""Optuna over a pool: real studies, whose samplers aim at its configurations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.samplers import GPSampler
from optuna.samplers import QMCSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle import race
from optuna_aelle.backtest.judges import Oracle
from optuna_aelle.backtest.pool import BudgetSpent
from optuna_aelle.backtest.searches import Search
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.trials.continuation import planned_epochs
from tests.backtest.tables import N_STEPS
from tests.backtest.tables import UNIT
from tests.backtest.tables import a_pool
from tests.backtest.tables import made_table
from tests.backtest.tables import none


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


def test_without_a_function_there_are_no_spectra_and_no_charge() -> None:
    table = made_table(60, step_seconds=1.0, spectrum_seconds=0.5)
    pool = a_pool(table, budget=5 * N_STEPS)
    with pytest.raises(BudgetSpent):
        Search(AeLLESampler(), NopPruner())(pool, 0)
    assert not any(pool.trial(i).system_attrs for i in range(len(pool)))
    told = a_pool(table, budget=5 * N_STEPS)
    with pytest.raises(BudgetSpent):
        Search(AeLLESampler(lambda params: None), NopPruner())(told, 0)
    assert any(told.trial(i).system_attrs for i in range(len(told)))


def test_a_sampler_whose_own_prior_knows_the_table_is_told_of() -> None:
    table = made_table(60, spectrum_seconds=0.02)
    known = Prior(tasks=["making"])
    arms = {"ours": lambda: (AeLLESampler(None, prior=known), NopPruner())}
    with pytest.warns(AeLLEWarning, match="has learned from 'making'.*it knows the answers"):
        race(table, arms, budget=2 * N_STEPS, n_repeats=1)
    # A prior of the race replaces what was not chosen.
    given = Prior(tasks=["others"])
    chosen: list[Prior] = []

    class Watched(AeLLESampler):
        def around(self, *arguments: Any, **options: Any) -> AeLLESampler:
            other = super().around(*arguments, **options)
            chosen.append(other.prior)
            return other

    arms = {"default": lambda: (Watched(), NopPruner())}
    race(table, arms, budget=2 * N_STEPS, n_repeats=1, prior=given)
    arms = {"own": lambda: (Watched(prior=None), NopPruner())}
    race(table, arms, budget=2 * N_STEPS, n_repeats=1, prior=given)
    assert chosen[0] is given
    assert chosen[1] is not given


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


def test_what_was_stopped_goes_on_and_is_trained_once() -> None:
    table = made_table(60, step_seconds=1.0, spectrum_seconds=0.001)
    pool = a_pool(table, budget=25 * N_STEPS)
    with pytest.raises(BudgetSpent):
        Search(AeLLESampler(lambda params: None, seed=0), AeLLEPruner(), resume_promising)(pool, 0)
    course = pool.course
    # Each step of each configuration once, in its order.
    for position in np.unique(course.positions).tolist():
        values = course.values[course.positions == position]
        assert values.tolist() == pool.values(position).tolist()
    # Someone was left, and taken up again.
    blocks = course.positions[np.flatnonzero(np.diff(course.positions, prepend=-1))]
    assert len(blocks) > len(np.unique(blocks))
    # One that may go on is stopped at rungs alone.
    lengths = {len(pool.values(i)) for i in range(len(pool))} - {0, N_STEPS}
    assert lengths <= {1, 2, 4, 8, 16, len(pool.values(int(course.positions[-1])))}


def test_without_callbacks_nothing_is_checkpointed() -> None:
    table = made_table(60)
    pool = a_pool(table, budget=5 * N_STEPS)
    seen: list[bool] = []

    class Watching(AeLLEPruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            seen.append(planned_epochs(trial) is not None)
            return super().prune(study, trial)

    with pytest.raises(BudgetSpent):
        Search(AeLLESampler(seed=0), Watching())(pool, 0)
    assert seen
    assert not any(seen)
