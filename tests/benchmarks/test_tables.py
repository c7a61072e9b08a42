"""The recorded tables that are in the repository: as large and as hard as they are said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.record.table import TABLES
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra

ALL_TABLES = (*REPORT_TABLES, *DEVELOPMENT_TABLES)


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


@pytest.mark.parametrize("name", ALL_TABLES)
def test_a_table_holds_whole_trainings(name: str) -> None:
    table = RecordedTrials.load(TABLES / f"{name}.npz")
    assert len(table) >= 200
    assert len(table.steps) >= 24
    for curve in ("train_loss", "test", "seconds"):
        assert table.curves[curve].shape == (len(table), len(table.steps))
    spectra = [decode_spectra(trial) for trial in table.trials]
    # A network that diverges has no further spectra.
    assert all(-1 in known for known in spectra)
    assert np.mean([set(known) == {-1, 1, 2, 3, 5, 8, 13, 21} for known in spectra]) > 0.9
    assert {len(x) for known in spectra for x in known.values()} == {32}
    assert {"metric", "data_version", "environment"} <= set(table.metadata)


@pytest.mark.parametrize("name", ALL_TABLES)
def test_a_table_is_graded_and_not_decided_by_the_learning_rate(name: str) -> None:
    table = RecordedTrials.load(TABLES / f"{name}.npz")
    finals = table.finals
    best = np.nanmax(finals) if table.direction == "maximize" else np.nanmin(finals)
    assert np.mean(np.isclose(finals, best, rtol=1e-3, atol=1e-4)) <= 0.1
    rates = [trial.params["learning_rate"] for trial in table.trials]
    decades = 1.0 if name.endswith("-mixed") else 2.0
    assert math.log10(max(rates) / min(rates)) <= decades + 1e-9
    assert abs(spearmanr(rates, finals).statistic) < 0.7
    sizes = [trial.params["hidden_size"] for trial in table.trials]
    assert min(sizes) >= 16
    assert max(sizes) <= 128
