"""Searches with several objectives are compared: what is counted is right, the command runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.environment import RESULTS
from benchmarks.multi_objective import __main__ as command
from benchmarks.multi_objective.figure import draw
from benchmarks.multi_objective.searches import hypervolume
from benchmarks.multi_objective.searches import losses_of
from benchmarks.multi_objective.searches import sizes_of
from benchmarks.race.forest import load
from benchmarks.race.priors import task_of
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES


def test_the_hypervolume_is_the_area() -> None:
    assert hypervolume(np.zeros((0, 2))) == 0.0
    assert hypervolume(np.array([[0.25, 0.5]])) == pytest.approx(0.75 * 0.5)
    both = np.array([[0.25, 0.5], [0.5, 0.25]])
    assert hypervolume(both) == pytest.approx(0.75 * 0.5 + 0.5 * 0.25)
    # What is dominated, or no better than the worst, adds nothing.
    more = np.vstack([both, [[0.6, 0.6], [0.0, 1.0], [1.0, 0.0]]])
    assert hypervolume(more) == pytest.approx(hypervolume(both))


def test_sizes_are_those_of_pytorch() -> None:
    from torch import nn

    recorded = load("lorenz-gru")
    params = recorded.trials[0].params
    gru = nn.GRU(1, params["hidden_size"])
    # PyTorch has a second bias, which adds nothing.
    second = 3 * params["hidden_size"]
    assert sizes_of(recorded)[0] == sum(p.numel() for p in gru.parameters()) - second


def test_losses_are_of_the_unit_square() -> None:
    losses = losses_of(load("digits-mixed"))
    assert losses.min(axis=0).tolist() == [0.0, 0.0]
    assert losses.max(axis=0).tolist() == [1.0, 1.0]
    assert 0.2 < (losses[:, 0] == 1.0).mean() < 0.3


def test_no_task_is_both_chosen_by_and_reported_on() -> None:
    assert {*command.DEVELOPMENT} <= {*DEVELOPMENT_TABLES}
    assert {*command.REPORT} <= {*REPORT_TABLES}
    assert not {*map(task_of, command.DEVELOPMENT)} & {*map(task_of, command.REPORT)}


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["random", "random, should_prune", "AeLLE, should_prune"]
    command.main(["--quick", "--output", str(tmp_path), "--arms", *arms])
    results = json.loads((tmp_path / "multi_objective_partial.json").read_text())
    rows = {row["arm"]: row for row in results["rows"]}
    assert list(rows) == arms
    for row in rows.values():
        shares = list(row["share"].values())
        assert shares == sorted(shares)
        assert 0.0 < shares[-1] <= 1.0
    # What is stopped early makes room for others.
    assert rows["random, should_prune"]["started"] > 1.5 * rows["random"]["started"]
    assert (tmp_path / "multi_objective_partial.png").stat().st_size > 10_000
    assert "| random | " in capsys.readouterr().out


def test_the_figure_is_drawn_from_the_results_alone(tmp_path: Path) -> None:
    path = tmp_path / "multi_objective.json"
    path.write_text((RESULTS / "multi_objective.json").read_text())
    assert "AeLLE, should_prune" in draw(path)
    assert path.with_suffix(".png").exists()
