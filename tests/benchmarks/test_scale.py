"""The benchmark of scale: what it audits, what it draws, and that its parts run."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.scale import busy
from benchmarks.scale import latency
from benchmarks.scale import measuring
from benchmarks.scale import throughput
from benchmarks.scale.arms import ARMS
from benchmarks.scale.arms import OURS
from benchmarks.scale.arms import PEER
from benchmarks.scale.arms import Cheap
from benchmarks.scale.arms import Note
from benchmarks.scale.arms import made
from benchmarks.scale.arms import next_result
from benchmarks.scale.arms import parts_of
from benchmarks.scale.arms import peak_mib
from benchmarks.scale.arms import proxied
from benchmarks.scale.audit import audit
from benchmarks.scale.audit import decisions
from benchmarks.scale.audit import is_clean
from benchmarks.scale.figure import draw
from optuna_aelle import decode_spectra
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.decisions.verdict import decode_verdict
from tests.storages.stores import URLS
from tests.storages.stores import opened

N_TRIALS = 25
Searched = tuple[optuna.Study, list[Note]]


@pytest.fixture(scope="module")
def searched() -> Searched:
    """A study, and what its only worker has done."""
    sampler, pruner = parts_of(OURS, 0)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    objective = Cheap(OURS)
    study.optimize(objective, n_trials=N_TRIALS)
    return study, objective.notes


def test_an_audit_of_what_is_as_it_should_be(searched: Searched) -> None:
    study, notes = searched
    found = audit(study, notes, N_TRIALS)
    assert is_clean(found)
    assert found["decisions"] > N_TRIALS
    by = {decode_verdict(t).by for t in study.get_trials(states=(TrialState.PRUNED,))}  # type: ignore[union-attr]
    assert AELLE in by


def test_an_audit_finds_what_is_wrong(searched: Searched) -> None:
    study, notes = searched

    def kinds(notes: list[Note], n_trials: int = N_TRIALS) -> set[str]:
        found = audit(study, notes, n_trials)
        assert not is_clean(found)
        return {kind for kind, count in found.items() if count and kind != "decisions"}

    assert kinds([*notes, notes[3]]) == {"run_twice"}
    assert kinds(notes, N_TRIALS + 1) == {"lost"}
    assert kinds(notes, N_TRIALS - 1) == {"too_many"}
    note = notes[3]
    for wrong in (
        note._replace(state="FAIL"),
        note._replace(values={**note.values, 0: 7.0}),
        note._replace(values={**note.values, 99: 1.0}),
        note._replace(params={**note.params, "dropout": 0.25}),
    ):
        rest = [n for n in notes if n.number != note.number]
        assert kinds([*rest, wrong]) == kinds(rest) == {"unlike_what_was_done"}


def test_a_decision_that_does_not_follow_is_found(
    searched: Searched,
) -> None:
    study, _ = searched
    stopped = next(
        t
        for t in study.get_trials(states=(TrialState.PRUNED,))
        if (verdict := decode_verdict(t)) is not None and verdict.by == AELLE
    )
    assert all(decisions(stopped))
    # Its rival promises nothing: it should have gone on.
    stopped.system_attrs[VERDICT_KEY] = {**stopped.system_attrs[VERDICT_KEY], "rival": -9.0}
    assert not all(decisions(stopped))


@pytest.mark.parametrize("arm", ARMS)
def test_the_same_work_is_done_whatever_a_pruner_says(arm: str) -> None:
    sampler, pruner = parts_of(arm, 0)
    objective = Cheap(arm, same_work=True)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=20)
    lengths = [len(trial.intermediate_values) for trial in study.trials]
    assert lengths == [8, 1, 2, 4] * 5
    ended = [trial.state is TrialState.COMPLETE for trial in study.trials]
    assert ended == [True, False, False, False] * 5


def test_made_trials_are_as_cheap_ones_leave_them(
    searched: Searched,
) -> None:
    study, _ = searched
    assert not any(t.system_attrs for t in made(30, PEER))
    trials = made(30, OURS)
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.distributions == study.trials[0].distributions
        assert list(decode_spectra(trial)) == [-1]
        assert {*trial.system_attrs} <= {*study.trials[0].system_attrs}


def test_everything_is_measured_for_both_arms() -> None:
    where = {"memory": "memory", "postgresql": "p", "grpc": "g"}
    todo = list(measuring.cells(measuring.PARTS, where, quick=False))
    assert {cell.part for cell in todo} == set(measuring.PARTS)
    for part in ("throughput", "same_work", "latency"):
        keys = [cell.key for cell in todo if cell.part == part]
        for key in keys:
            for arm in ARMS:
                assert {**key, "arm": arm} in keys
    of_workers = [cell.key for cell in todo if cell.part == "throughput"]
    largest = [key for key in of_workers if key["workers"] == 8]
    assert [(key["store"], key["trials"]) for key in largest] == [
        ("postgresql", 2000),
        ("postgresql", 2000),
        ("grpc", 2000),
        ("grpc", 2000),
    ]
    assert {cell.key["n_jobs"] for cell in todo if cell.part == "busy"} == {1, 2, 4}


def test_figure_and_tables_come_from_the_results_alone(tmp_path: Path) -> None:
    clean = {"lost": 0, "decisions": 12, "not_following": 0}
    decision = {"median_ms": 9.0, "p99_ms": 40.0, "median_cpu_ms": 8.0, "p99_cpu_ms": 30.0}
    results: dict[str, Any] = {
        "throughput": [
            {
                "store": "postgresql",
                "workers": 8,
                "trials": 2000,
                "arm": arm,
                "trials_per_second": rate,
                "first_per_second": 2 * rate,
                "reports_per_second": 3 * rate,
                "ended_after": [[1, 0.5], [2000, 2000 / rate]],
                "audit": clean,
            }
            for arm, rate in ((OURS, 12.0), (PEER, 10.0))
        ],
        "same_work": [
            {
                "store": "grpc",
                "workers": 8,
                "trials": 400,
                "arm": arm,
                "trials_per_second": rate,
                "cpu_seconds": 100.0,
            }
            for arm, rate in ((OURS, 9.0), (PEER, 10.0))
        ],
        "latency": [
            {
                "store": "memory",
                "ended": ended,
                "arm": arm,
                "ask": decision,
                "prune": decision,
                "first_trial_seconds": 1.5,
                "mib": 300.0,
            }
            for ended in (100, 1000)
            for arm in ARMS
        ],
        "busy": [
            {"n_jobs": 2, OURS: {"seconds": 11.0}, PEER: {"seconds": 10.0}, "ratio": 1.1}
            | {"ratios": [1.0, 1.1, 1.2]},
        ],
    }
    path = tmp_path / "scale.json"
    path.write_text(json.dumps(results))
    text = draw(path)
    assert path.with_suffix(".png").stat().st_size > 20_000
    rates = "12.00, 10.00, 1.20 | 24.00, 20.00, 1.20 | 36.00, 30.00, 1.20"
    assert f"| PostgreSQL | 8 | 2000 | {rates} | none | 12, 0 |" in text
    assert "| 8 | 400 | 9.00, 10.00, 0.90 | 0.250, 0.250 |" in text
    assert "| memory | 1,000 | AeLLE | 9.0, 40 | 8.0 | 9.00, 40 | 1.50 | 300 |" in text
    assert "| 2 | 11.0 | 10.0 | 1.10 | 1.00, 1.10, 1.20 |" in text


@pytest.mark.slow
def test_several_processes_share_a_study(tmp_path: Path) -> None:
    found = throughput.run_workers(f"sqlite:///{tmp_path / 'study.db'}", OURS, 2, 9)
    assert is_clean(found["audit"])
    assert found["audit"]["decisions"] > 0
    assert found["ended_after"][-1][0] == 9


@pytest.mark.slow
@pytest.mark.services
def test_eight_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    with opened("postgresql", "none", tmp_path), proxied(URLS["postgresql"]) as address:
        for where in (URLS["postgresql"], address):
            found = throughput.run_workers(where, OURS, 8, 60)
            assert is_clean(found["audit"]), found["audit"]
            assert found["audit"]["decisions"] > 30


@pytest.mark.slow
def test_decisions_of_a_long_study_are_measured() -> None:
    found = latency.measure("memory", OURS, 1000, 4)
    assert found["ask"]["n"] == 4
    assert found["prune"]["n"] >= 4
    assert 0.0 < found["ask"]["median_ms"] <= found["ask"]["p99_ms"]
    assert found["mib"] is None or found["mib"] > 50.0


def test_memory_of_a_process_is_its_own() -> None:
    """Here torch is loaded, there it is not."""
    asked = [sys.executable, "-c", "from benchmarks.scale.arms import peak_mib as p; print(p())"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    here = peak_mib()
    if here is None:
        pytest.skip("The system does not say.")
    assert float(done.stdout) < 0.7 * here


def test_processes_that_fail_are_not_waited_for() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    for code in (0, 3):
        worker = context.Process(target=sys.exit, args=(code,))
        worker.start()
        with pytest.raises(RuntimeError, match=str(code)):
            next_result(results, [worker])


@pytest.mark.slow
def test_threads_on_busy_cores_keep_up_with_optuna_s_own_parts() -> None:
    """The same training, at once under both arms; the least of three: others may be at work."""
    ratios: list[float] = []
    while len(ratios) < 3 and not (ratios and min(ratios) <= 1.3):
        found = busy.compared(2, 10, 3)
        assert found[OURS]["trials"] == found[PEER]["trials"] == 10
        ratios.append(found["ratio"])
    assert min(ratios) <= 1.3


def test_the_command_says_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--database" in done.stdout
    assert "python -m benchmarks.scale --quick" in done.stdout


def test_one_part_is_measured_again_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"command": "all", "environment": {"commit": "old"}}
    whole |= {part: [{"of": "before"}] for part in measuring.PARTS}
    (tmp_path / "scale.json").write_text(json.dumps(whole))
    cell = measuring.Cell("latency", {"ended": 9}, dict)
    monkeypatch.setattr(measuring, "cells", lambda parts, where, quick: [cell])
    monkeypatch.setattr(measuring, "_kept", lambda cell, cache, again: {"of": "now"})
    monkeypatch.setattr(measuring, "draw", lambda path: "")
    measuring.main(["--parts", "latency", "--into-whole", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "scale.json").read_text())
    again = found.pop("measured_again")["latency"]
    assert found == {**whole, "latency": [{"ended": 9, "of": "now"}]}
    assert "--into-whole" in again["command"]
    assert again["environment"]["commit"] != "old"
