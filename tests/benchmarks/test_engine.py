"""The engine's benchmark: baselines that compute the same thing, and a run from end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.engine import __main__ as engine
from benchmarks.engine import study
from benchmarks.engine import table
from benchmarks.engine import timing
from benchmarks.engine.baselines import initial_frame
from benchmarks.engine.baselines import qr_spectrum
from benchmarks.environment import RESULTS
from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprints


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
    assert "memory, LSTM full" in table.other_table(data)
    assert table.peers_table(data["peers"]).splitlines()[0].endswith("| H = 64 | H = 128 |")


def test_a_cell_tells_three_ratios_and_the_other_allocator() -> None:
    whole = {
        "architecture": "GRU",
        "hidden_size": 512,
        "plain_over_ours": 4.04,
        "public_over_ours": 23.6,
        "general_over_ours": 1.06,
        "other_allocator": {"public_over_ours": 12.2},
    }
    older = {"architecture": "GRU", "hidden_size": 64, "plain_over_ours": 3.0}
    lines = table.speed_table({"rows": [whole, older]}).splitlines()
    assert lines[0] == "| times faster than | H = 64 | H = 512 |"
    assert lines[2] == "| GRU | 3× / **–** / – | 4× / **24×** (12×) / 1.1× |"


@pytest.mark.parametrize("allocator", list(timing.ALLOCATORS))
def test_a_process_gets_one_allocator_and_nothing_else(
    allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with timing.told(timing.ALLOCATORS[allocator]):
        told = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("MALLOC_", "OPENBLAS_"))
        }
    assert told == timing.ALLOCATORS[allocator]
    assert os.environ["MALLOC_ARENA_MAX"] == "1"


def test_products_of_all_libraries_are_the_same() -> None:
    products: Any = timing._products(6, torch.device("cpu"))
    assert len(products) == 4
    for dtype in ("float32", "float64"):
        left, right = products[f"torch.bmm {dtype}"].args
        out = products[f"torch.bmm {dtype}"].keywords["out"]
        for name in ("torch.bmm", "SciPy's BLAS"):
            out.zero_()
            products[f"{name} {dtype}"]()
            torch.testing.assert_close(out, left @ right)


def test_one_step_at_a_time_gives_the_same_states() -> None:
    torch.manual_seed(0)
    for layer in (cells.S4D(3, 4, state_size=2), cells.LRU(3, 4), cells.S6(3, 4, state_size=2)):
        with patch.object(layer, "read", wraps=layer.read) as read:
            inputs = torch.randn(30, 2, 3)
            study._forward(layer, inputs)
            study._forward_in_steps(layer, inputs)
        by_scan, by_steps = (call.args for call in read.call_args_list)
        for scanned, stepped in zip(by_scan, by_steps, strict=True):
            torch.testing.assert_close(stepped, scanned)


def test_candidates_are_of_all_cells_and_both_depths() -> None:
    setting = timing.Setting(torch.device("cpu"))
    models, counts = study._candidates(64, (16, 128), setting)
    assert set(counts.values()) == {16}
    shapes = [tuple(p.shape for p in model.parameters()) for model in models]
    assert len(set(shapes)) > 55
    found = spectral_fingerprints(models[:8], setting.inputs(64, 2))
    assert {len(spectrum.computations) for spectrum in found} == {1, 2}


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
    ways = ("public", "general", "plain")
    for found in (*speed, *(row["other_allocator"] for row in speed)):
        assert all(found[f"{way}_over_ours"] > 0 for way in ways)
        assert len(found["seconds"]["ours"]) == found["rounds"] == 2
        assert set(found["steps_timed"].values()) == {40}
    products = data["gemm_cost"]["rows"]
    assert all(len(row["step_in"]) == 4 for row in products)
    assert all(row["step_in_best_float64"] > 0 for row in products)
    assert all(0 < row["share_of_epoch"] < 10 for row in data["fingerprint"]["rows"])
    assert {"MinGRU", "S6"} < {row["architecture"] for row in data["fingerprint"]["rows"]}
    assert data["candidates"]["general_over_together"] > 0
    assert all(row["exponents_over_forward"] > 0 for row in data["diagonal"]["rows"])
    assert data["first_call"]["empty_cache"]["first GRU"] > 1.0
    assert data["first_call"]["empty_cache"]["peak_mib"] > 50
    assert all(row["one_by_one_over_together"] > 0 for row in data["many_models"]["rows"])
    assert all(row["growth_mib"] >= 0 for row in data["memory"]["rows"])
    assert set(data["methods"]["milliseconds"]) == {"auto", "lu", "qr", "cholesky"}

    accuracy = data["accuracy"]
    total = accuracy["finiteness"]["total"]
    assert total["networks"] == 100
    assert total["nan"] == total["plus_inf"] == total["foreign_errors"] == 0
    for row in accuracy["float32_frame"]["rows"]:
        assert all(part["rms"] < 1e-4 for part in (row, row["fingerprint"]))
        assert all(part["auto_rms"] < 1e-7 for part in (row, row["fingerprint"]))
    worst = accuracy["saturated"]["rows"][0]["max_error"]
    assert worst["ours float64"] < 1e-8
    assert float(worst["QR float64"]) > 1e-3
    narrow = [row for row in accuracy["sum_rule"]["rows"] if row["p"] <= 1.0]
    assert max(row["residual"] for row in narrow) < 1e-8
    assert all(row["rms"] < 0.2 for row in accuracy["long_run"]["rows"])

    assert "a step in matrix products, float32, torch.bmm" in table.other_table(data)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_the_tables_of_the_results() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    data = json.loads((RESULTS / "engine.json").read_text())
    for printed in (
        table.speed_table(data["speed"]),
        table.other_table(data),
        table.peers_table(data["peers"]),
    ):
        assert printed.strip() in page
