"""Live searches: tasks that repeat, a search that is kept, and what is read from results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.live import searches
from benchmarks.live.__main__ import main
from benchmarks.live.figure import best_until
from benchmarks.live.figure import draw
from benchmarks.live.figure import table
from benchmarks.live.searches import PLANS
from benchmarks.live.searches import Job
from benchmarks.live.searches import Plan
from benchmarks.live.tasks import FlipFlop
from benchmarks.live.tasks import MackeyGlass
from benchmarks.live.tasks import TemporalOrder
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from studies.training import train

TASKS = [FlipFlop, MackeyGlass, TemporalOrder]


@pytest.mark.parametrize("task", TASKS)
def test_tasks_repeat_and_are_new(task: Any) -> None:
    own = task()
    batches = [
        list(own.training_batches(torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)
    ]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches[0], batches[1], strict=True))
    assert not torch.equal(batches[0][0][0], batches[2][0][0])
    x, y = batches[0][0]
    assert x.shape[1:] == own.x_validation.shape[1:]
    # Classes have one number, whatever the number of outputs.
    assert y.shape[1:] == ((own.n_outputs,) if y.is_floating_point() else ())
    assert torch.isfinite(x).all()
    known = {name.rsplit("-", 1)[0] for name in (*REPORT_TABLES, *DEVELOPMENT_TABLES)}
    assert own.name not in known


def test_flipflop_asks_for_the_last_pulse() -> None:
    task = FlipFlop()
    x, y = task.sequences(50, torch.Generator().manual_seed(3))
    for sequence, signs in zip(x, y, strict=True):
        for channel in range(3):
            pulses = [v for v in sequence[:, channel].tolist() if abs(v) == 1.0]
            assert pulses[-1] == signs[channel]


def test_temporal_order_is_what_the_marked_symbols_say() -> None:
    x, y = TemporalOrder().sequences(50, torch.Generator().manual_seed(3))
    for sequence, order in zip(x.argmax(dim=2).tolist(), y.tolist(), strict=True):
        assert [symbol for symbol in sequence if symbol < 2] == [order // 2, order % 2]


def test_the_score_of_temporal_order_starts_at_chance() -> None:
    params = {
        "cell": "gru",
        "hidden_size": 16,
        "init_gain": 1.0,
        "learning_rate": 1e-3,
        "weight_decay": 1e-6,
        "clipping": 1.0,
        "forget_bias": 0.0,
    }
    first = list(train(TemporalOrder(), params, n_epochs=1, seed=0))[1]
    assert first.value == pytest.approx(0.75, abs=0.12)


def test_what_is_forecast_was_not_trained_on() -> None:
    task = MackeyGlass()
    known = task.x_validation[..., 0]
    for x, _ in task.training_batches(torch.Generator().manual_seed(0)):
        # Noise of a tenth: the same window of the series would be this close.
        distances = (x[:, None, :, 0] - known[None, :50]).abs().mean(dim=2)
        assert distances.min() > 0.02


@pytest.mark.parametrize("arm", ["AeLLE", "Optuna's defaults"])
def test_a_search_is_made_once(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PLANS, "order", Plan(TemporalOrder, 2, None, 4, 1, ()))
    job = Job("order", arm, 0)
    threads = torch.get_num_threads()
    try:
        found = searches.run(job)
        again = searches.run(job)
    finally:
        torch.set_num_threads(threads)
    assert again == json.loads(json.dumps(found))
    assert len(found["rows"]) == 4
    seconds, epochs, values = zip(*found["rows"], strict=True)
    assert list(seconds) == sorted(seconds)
    assert list(epochs) == sorted(epochs)
    assert any(v is not None for v in values)
    assert 0 < found["training_seconds"] < found["elapsed"]
    assert (found["own_seconds"] > 0) == (arm == "AeLLE")
    # Of another plan it is another search.
    monkeypatch.setitem(PLANS, "order", Plan(TemporalOrder, 3, None, 4, 1, ()))
    assert not job.path.exists()


def made_results() -> dict[str, Any]:
    plan = {
        "metric": "error",
        "direction": "minimize",
        "n_epochs": 5,
        "seconds": 10.0,
        "n_trials": None,
    }
    rows = {
        "AeLLE": [(1.0, 5, 0.5), (2.0, 6, None), (4.0, 10, 0.1), (11.0, 20, 0.0)],
        "Optuna's defaults": [(2.0, 5, 0.6), (9.0, 15, 0.2), (10.5, 20, 0.05)],
    }
    made = [
        {"plan": "made", "arm": arm, "seed": seed, "rows": own}
        for arm, own in rows.items()
        for seed in (0, 1)
    ]
    return {"plans": {"made": plan}, "searches": made}


def test_what_ended_too_late_does_not_count(tmp_path: Path) -> None:
    results = made_results()
    search = results["searches"][0]
    best = best_until(search, np.array([0.5, 1.0, 3.0, 10.0]), 0, -1.0)
    assert math.isnan(best[0])
    assert best[1:].tolist() == [0.5, 0.5, 0.1]
    lines = table(results).splitlines()
    assert lines[2].startswith("| made | AeLLE | 0.1 (0.1, 0.1) |")
    # Of ten seconds, ours has after four what the defaults end with.
    assert lines[3].endswith("0.2 (0.2, 0.2) | 2 / 0 / 0 |  | 40% |")
    path = tmp_path / "live.json"
    path.write_text(json.dumps(results))
    draw(path)
    assert (tmp_path / "live.png").stat().st_size > 5_000


def test_of_as_many_networks_equal_seconds_count_too() -> None:
    results = made_results()
    results["plans"]["made"] |= {"seconds": None, "n_trials": 4}
    for search, elapsed in zip(results["searches"], (12.0, 12.0, 1.5, 11.5), strict=True):
        search["elapsed"] = elapsed
    results["searches"][2]["rows"] = [(1.5, 20, 0.2)]
    lines = table(results).splitlines()
    # All in all ours ends at 0. After the 1.5 seconds of the first seed it has .5 beside .2.
    assert lines[3].endswith("0.125 (0.2, 0.05) | 2 / 0 / 0 | 1 / 1 / 0 | 75% |")


def test_tasks_that_are_not_searched_stay_in_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "live.json"
    path.write_text(json.dumps(made_results()))
    job = Job("order", "AeLLE", 0)
    # A finished search that is there is read, not made again.
    job.path.parent.mkdir(parents=True)
    kept = {"plan": job.plan, "arm": job.arm, "seed": job.seed, "rows": [[1.0, 9, 0.25]]}
    job.path.write_text(json.dumps(kept))
    asked = ["--tasks", "order", "--arms", "AeLLE", "--seeds", "1", "--workers", "1"]
    for _ in range(2):
        main([*asked, "--output", str(tmp_path)])
        results = json.loads(path.read_text())
        assert list(results["plans"]) == ["made", "order"]
        assert results["plans"]["order"]["command"].endswith(
            "--tasks order --arms AeLLE --seeds 1"
        )
        assert results["searches"] == [
            *json.loads(json.dumps(made_results()["searches"])),
            kept,
        ]
