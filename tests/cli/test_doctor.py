"""What the doctor says of a machine, a storage and a study; and within what time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import optuna_aelle
from optuna_aelle import Checkpoints
from optuna_aelle.cli import machine
from optuna_aelle.cli import main
from optuna_aelle.prediction import prior
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.continuation import origin_of
from tests.cli.conftest import refused
from tests.conftest import run_synthetic

PROGRAM = [sys.executable, "-m", "optuna_aelle.cli", "doctor"]


@pytest.fixture
def without_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor looks at the storage alone."""
    monkeypatch.setattr(machine, "of_machine", lambda *_: [])


def test_all_is_well(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", source, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert found["problems"] == 0
    said = {(x["about"], x["subject"]): x for x in found["findings"]}
    assert optuna_aelle.__version__ in said["machine", "versions"]["message"]
    assert f"PyTorch {torch.get_num_threads()}" in said["machine", "threads"]["message"]
    for subject in ("devices", "prior", "engine, PyTorch"):
        assert said["machine", subject]["level"] in ("ok", "note")
    assert "within" in said["machine", "engine, PyTorch"]["message"]
    assert said["storage", "reachable"]["level"] == "ok"
    assert optuna.__version__ in said["storage", "schema"]["message"]
    assert "25 in all" in said["study mine", "trials"]["message"]


@pytest.mark.usefixtures("without_machine")
def test_before_the_first_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"sqlite:///{tmp_path / 'new.db'}"
    optuna.storages.RDBStorage(source)
    assert main(["doctor", source]) == 0
    out = capsys.readouterr().out
    assert "ok      reachable: " in out
    assert "note    studies: none yet\n" in out
    assert main(["doctor", source, "--study-name", "mine"]) == 2


def test_a_package_that_cannot_be_loaded_is_a_problem(tmp_path: Path) -> None:
    broken = tmp_path / "torch" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        PROGRAM,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        "problem versions: a package cannot be imported (OSError: libtorch_cpu.so" in done.stdout
    )


@pytest.mark.usefixtures("without_machine")
def test_of_several_studies_one_is_named(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_synthetic(optuna.create_study(study_name="other", storage=source), 2, n_steps=2)
    assert main(["doctor", source]) == 0
    assert "note    studies: 2 studies: mine, other\n" in capsys.readouterr().out
    assert main(["doctor", source, "--study-name", "nope"]) == 2


def checkpointed(
    tmp_path: Path, n_epochs: int, *, stop: tuple[int, int] | None = None
) -> tuple[optuna.Study, Callable[[optuna.Trial], float], list[str]]:
    """A study, an objective that saves checkpoints, and how the doctor is asked of both.

    Args:
        tmp_path: The files of checkpoints lie in a folder below it.
        n_epochs: Of each trial.
        stop: The trial that is pruned, and after which epoch.
    """
    storage, folder = f"sqlite:///{tmp_path / 'my.db'}", tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)

    def objective(trial: optuna.Trial) -> float:
        for epoch in checkpoints.epochs(trial, n_epochs, model=torch.nn.Linear(1, 1)):
            trial.report(0.0, epoch)
            if (trial.number, epoch) == stop:
                raise optuna.TrialPruned
        return 0.0

    study = optuna.create_study(study_name="mine", storage=storage)
    return study, objective, ["doctor", storage, "--checkpoints", str(folder)]


@pytest.mark.usefixtures("without_machine")
def test_missing_checkpoints_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, objective, arguments = checkpointed(tmp_path, 2)
    study.optimize(objective, n_trials=2)
    assert main(arguments) == 0
    assert "ok      checkpoints: all 4 that are listed are there" in capsys.readouterr().out
    next((tmp_path / "checkpoints").glob("*trial-1-epoch-0*")).unlink()
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "problem checkpoints: files of 1 trials that list them are missing: 1\n" in out
    assert "1 problem, " in out


@pytest.mark.usefixtures("without_machine")
def test_files_that_a_continuation_has_taken_along_are_not_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, objective, arguments = checkpointed(tmp_path, 6, stop=(0, 2))
    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert origin_of(second) == 0
    folder = tmp_path / "checkpoints"
    assert not any((folder / saved.artifact).exists() for saved in decode_checkpoints(first))
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 trials list checkpoints, 0 of them were stopped and may go on" in out
    assert "all 2 that are listed are there" in out


@pytest.mark.usefixtures("without_machine")
def test_files_of_a_continuation_that_will_be_given_up_are_not_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, objective, arguments = checkpointed(tmp_path, 6, stop=(0, 2))
    study.optimize(objective, n_trials=1)
    # As two workers do at the same moment; the study ends before the second is begun.
    enqueue_continuation(study, study.trials[0])
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE", "WAITING"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "note    continued twice: Trial 0 was continued by Trials 1, 2.\n" in out
    assert "all 2 that are listed are there" in out


@pytest.mark.usefixtures("without_machine")
def test_a_server_that_does_not_answer_is_a_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "postgresql+psycopg://me:secret@127.0.0.1:1/db"]) == 1
    out = capsys.readouterr().out
    assert "problem reachable: nothing answers at 127.0.0.1:1" in out
    assert "secret" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study-name", "x"], "expect a storage beside them"),
        (["--checkpoints", "x"], "expect a storage beside them"),
        (["t.npz", "--checkpoints", "."], "--checkpoints expects a storage"),
        (["{source}", "--checkpoints", "nowhere"], "--checkpoints expects a folder"),
        (["sqlite:///nowhere.db"], "there is no such file"),
    ],
)
def test_mistakes_are_one_line(
    source: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(source=source) for argument in arguments]
    refused(["doctor", *filled], message, capsys)


def test_a_damaged_prior_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (Path(prior.__file__).parent / "pretrained.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    path = tmp_path / "pretrained.npz"
    for content in (whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        monkeypatch.setattr(prior, "_pretrained", lambda: optuna_aelle.Prior.load(path))
        finding = machine._prior()
        assert finding.level == "problem"
        assert "force-reinstall" in finding.advice


def test_an_engine_that_is_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "error_of_known_spectrum", lambda: (1e-3, False))
    assert machine._engine().level == "problem"
    monkeypatch.setattr(machine, "error_of_known_spectrum", lambda: (np.nan, False))
    assert machine._engine().level == "problem"


@pytest.mark.parametrize(
    ("prints", "level", "message"),
    [
        ("print('[1e-15, true]')", "ok", "within 1e-15"),
        ("print('[0.2, true]')", "problem", "2.0e-01 off"),
        ("print('[1e-15, false]')", "note", "Numba cannot be loaded"),
        ("raise SystemExit(3)", "problem", "status 3"),
        ("import time; time.sleep(60)", "note", "not compiled yet"),
    ],
)
def test_what_the_process_of_compiled_code_says(prints: str, level: str, message: str) -> None:
    with subprocess.Popen([sys.executable, "-c", prints], stdout=subprocess.PIPE) as process:
        finding = machine._compiled(process, 2.0)
        process.kill()
    assert finding.level == level
    assert message in finding.message


@pytest.mark.slow
@pytest.mark.parametrize("cold", [False, True])
def test_ten_seconds_on_two_cores_are_enough(tmp_path: Path, cold: bool) -> None:
    """Seconds of the processor, of both processes: machines that run tests are busy."""
    resource = pytest.importorskip("resource")
    there = {"NUMBA_CACHE_DIR": str(tmp_path)} if cold else {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(PROGRAM, capture_output=True, text=True, env={**os.environ, **there})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 16.0
    assert done.returncode == 0, done.stdout
    assert ("not compiled yet" in done.stdout) or not cold
