"""The engine's benchmark: baselines that compute the same thing, and a run from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.engine import __main__ as engine
from benchmarks.engine import table
from benchmarks.engine.baselines import initial_frame
from benchmarks.engine.baselines import qr_spectrum
from benchmarks.environment import RESULTS
from optuna_aelle.lyapunov import lyapunov_spectrum


@pytest.mark.parametrize("way", ["public", "diagonal", "plain"])
@pytest.mark.parametrize(
    ("module", "state"),
    [(nn.LSTM, "hidden"), (nn.LSTM, "full"), (nn.GRU, "full"), (nn.RNN, "full")],
    ids=["lstm-hidden", "lstm-full", "gru", "rnn"],
)
def test_baselines_equal_the_engine_in_float64(module: Any, state: Any, way: Any) -> None:
    torch.manual_seed(0)
    network = module(3, 12)
    inputs = torch.randn(70, 4, 3)
    ours = lyapunov_spectrum(
        network,
        inputs,
        state=state,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(7),
    ).exponents
    theirs = qr_spectrum(
        network,
        inputs,
        way=way,
        state=state,
        dtype=torch.float64,
        frame=initial_frame(ours.shape[1], torch.Generator().manual_seed(7)),
    )
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-8)


def test_merging_keeps_other_sections_and_writes_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    small, large = {"hidden_size": 64, "ratio": 1.0}, {"hidden_size": 128, "ratio": 2.0}
    engine.merge(path, "speed", {"rows": [small, large]})
    engine.merge(path, "accuracy", {"errors": [float("inf"), float("nan")]})
    engine.merge(path, "speed", {"rows": [small | {"ratio": 3.0}]})
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert data == {
        "accuracy": {"errors": ["inf", "nan"]},
        "speed": {"rows": [small | {"ratio": 3.0}, large]},
    }
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device warp", "argument --device: expected a device that torch can use here"),
        ("--section size", "argument --section: invalid choice: 'size'"),
        ("--architecture Elman", "argument --architecture: invalid choice: 'Elman'"),
        ("--size 0", "argument --size: expected an integer of at least 1, got 0"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        engine.main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_published_results_are_told_as_tables() -> None:
    data = json.loads((RESULTS / "engine.json").read_text())
    speed = table.speed_table(data["speed"]).splitlines()
    assert speed[0].endswith("| H = 64 | H = 128 | H = 256 | H = 512 |")
    assert len(speed) == 2 + len({row["architecture"] for row in data["speed"]["rows"]})
    assert "(≥ 22)" in speed[2]
    assert "memory, LSTM full" in table.other_table(data)


@pytest.mark.slow
def test_quick_run_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    threads = torch.get_num_threads()
    sections = [name for name in engine.SECTIONS if name != "peers"]
    try:
        engine.main(["--quick", "--output", str(path), "--section", *sections])
    finally:
        torch.set_num_threads(threads)
    data = json.loads(path.read_text())
    assert set(data) == set(sections)
    assert all(section["environment"]["packages"]["torch"] for section in data.values())

    speed = data["speed"]["rows"]
    assert {row["architecture"] for row in speed} == {"LSTM hidden", "LSTM full", "GRU", "RNN"}
    ways = ("public", "diagonal", "plain")
    assert all(row[f"{way}_over_ours"] > 0 for row in speed for way in ways)
    assert all(len(row["seconds"]["ours"]) == row["rounds"] == 2 for row in speed)
    assert all(row["gemms_per_step"] > 0 for row in data["gemm_cost"]["rows"])
    assert all(0 < row["share_of_epoch"] < 10 for row in data["fingerprint"]["rows"])
    assert all(row["one_by_one_over_together"] > 0 for row in data["many_models"]["rows"])
    assert all(row["growth_mib"] >= 0 for row in data["memory"]["rows"])
    assert set(data["methods"]["milliseconds"]) == {"auto", "lu", "cholesky"}

    accuracy = data["accuracy"]
    assert accuracy["finiteness"]["total"]["networks"] == 50
    assert accuracy["finiteness"]["total"]["nan"] == 0
    assert accuracy["finiteness"]["total"]["plus_inf"] == 0
    assert all(row["rms"] < 1e-4 for row in accuracy["float32_frame"]["rows"])
    worst = accuracy["saturated"]["rows"][0]["max_error"]
    assert worst["ours float64"] < 1e-8
    assert float(worst["QR float64"]) > 1e-3
    narrow = [row for row in accuracy["sum_rule"]["rows"] if row["p"] <= 1.0]
    assert max(row["residual"] for row in narrow) < 1e-8
    assert all(row["rms"] < 0.2 for row in accuracy["long_run"]["rows"])

    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
