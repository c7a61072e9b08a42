"""The recorded tables that are in the repository: as large and as hard as they are said to be."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.record.__main__ import configuration_seed
from benchmarks.record.plans import DEVELOPMENT_PLANS
from benchmarks.record.plans import REPORT_PLANS
from benchmarks.record.plans import plan_of
from benchmarks.record.spaces import draw_params
from benchmarks.record.spaces import search_space
from benchmarks.record.table import TABLES
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra

ALL_TABLES = (*REPORT_TABLES, *DEVELOPMENT_TABLES)
PLANS = {plan.name: plan for plan in (*DEVELOPMENT_PLANS, *REPORT_PLANS)}
# The first tables, of 200 configurations for 27 epochs each, all of one kind of space.
FIRST_TABLES = tuple(name for name in ALL_TABLES if name not in PLANS)
# Metrics of which 1 is chance.
RELATIVE_METRICS = ("relative cross-entropy", "unexplained variance")
STEPS_OF_SPECTRA = (-1, 1, 2, 3, 5, 8, 13, 21, 34, 55)


def test_there_are_enough_and_no_task_is_designed_and_reported_on() -> None:
    assert {path.stem for path in TABLES.glob("*.npz")} == set(ALL_TABLES)
    assert sum(path.stat().st_size for path in TABLES.glob("*.npz")) < 25e6
    assert len(REPORT_TABLES) >= 12
    assert 2 * sum(name.endswith("-mixed") for name in REPORT_TABLES) >= len(REPORT_TABLES)
    reported, designed = (
        {n.split("-")[0] for n in t} for t in (REPORT_TABLES, DEVELOPMENT_TABLES)
    )
    assert not reported & designed
    assert len(reported) >= 7


def test_every_plan_is_recorded_on_its_own_side() -> None:
    assert len(PLANS) == len(DEVELOPMENT_PLANS) + len(REPORT_PLANS)
    assert {plan.name for plan in DEVELOPMENT_PLANS} <= {*DEVELOPMENT_TABLES}
    assert {plan.name for plan in REPORT_PLANS} <= {*REPORT_TABLES}
    tasks = {p.task for p in DEVELOPMENT_PLANS}, {p.task for p in REPORT_PLANS}
    assert not tasks[0] & tasks[1]
    assert len(FIRST_TABLES) == 17
    assert len(PLANS) >= 25
    assert len(tasks[0] | tasks[1]) >= 17


@pytest.mark.parametrize("name", ALL_TABLES)
def test_a_table_holds_whole_trainings(name: str) -> None:
    table, plan = load(name), plan_of(name)
    assert len(table) == plan.n_configs >= (200 if name in FIRST_TABLES else 100)
    assert table.steps == list(range(1, plan.n_epochs + 1))
    assert plan.n_epochs >= (24 if name in FIRST_TABLES else 12)
    for curve in ("train_loss", "test", "seconds"):
        assert table.curves[curve].shape == (len(table), len(table.steps))
    spectra = [decode_spectra(trial) for trial in table.trials]
    # A network that diverges has no further spectra.
    assert all(-1 in known for known in spectra)
    planned = {step for step in STEPS_OF_SPECTRA if step <= plan.n_epochs}
    whole = np.array([set(known) == planned for known in spectra])
    assert whole.mean() > (0.9 if name in FIRST_TABLES else 0.8)
    assert np.isnan(table.curves["train_loss"][~whole, -1]).all()
    assert {len(x) for known in spectra for x in known.values()} == {32}
    assert {"metric", "data_version", "environment"} <= set(table.metadata)


@pytest.mark.parametrize("name", ALL_TABLES)
def test_a_table_is_graded_and_not_decided_by_the_learning_rate(name: str) -> None:
    table, space = load(name), plan_of(name).space
    finals = table.finals
    best = np.nanmax(finals) if table.direction == "maximize" else np.nanmin(finals)
    assert np.mean(np.isclose(finals, best, rtol=1e-3, atol=1e-4)) <= 0.1
    rates = [trial.params["learning_rate"] for trial in table.trials]
    decades = math.log10(space.learning_rate[1] / space.learning_rate[0])
    assert math.log10(max(rates) / min(rates)) <= decades + 1e-9
    if name in FIRST_TABLES:
        assert decades <= (1.0 if name.endswith("-mixed") else 2.0) + 1e-9
    assert abs(spearmanr(rates, finals).statistic) < 0.7
    sizes = {trial.params["hidden_size"] for trial in table.trials}
    assert sizes == set(space.sizes)
    assert min(sizes) >= (16 if name in FIRST_TABLES else 8)
    assert max(sizes) <= (128 if name in FIRST_TABLES else 256)


@pytest.mark.parametrize("name", ALL_TABLES)
def test_a_table_can_be_drawn_again(name: str) -> None:
    table, plan = load(name), plan_of(name)
    drawn = [draw_params(plan.space, configuration_seed(name, i)) for i in range(len(table))]
    assert [trial.params for trial in table.trials] == drawn
    space = search_space(plan.space)
    for trial in table.trials:
        assert trial.distributions == {key: space[key] for key in trial.params}


def test_most_of_a_table_is_above_chance() -> None:
    for name in PLANS.keys() & {*ALL_TABLES}:
        table = load(name)
        if table.metadata["metric"] in RELATIVE_METRICS:
            assert np.mean(table.finals > 0.97) < 2.0 / 3.0, name


@cache
def load(name: str) -> RecordedTrials:
    return RecordedTrials.load(TABLES / f"{name}.npz")
