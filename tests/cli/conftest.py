"""A study in a database, and the command within this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

from optuna_aelle.cli import main
from tests.conftest import run_synthetic


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: each of its several hundred commits waits for the disk."""
    path = tmp_path_factory.mktemp("database") / "my.db"
    storage, pruner = f"sqlite:///{path}", optuna.pruners.NopPruner()
    study = optuna.create_study(study_name="mine", storage=storage, pruner=pruner)
    in_memory = optuna.create_study(pruner=pruner)
    run_synthetic(in_memory, 25, n_steps=8)
    study.add_trials(in_memory.trials)
    return path


@pytest.fixture
def source(database: Path, tmp_path: Path) -> str:
    """The URL of a database with one study, "mine"."""
    shutil.copy(database, tmp_path / "my.db")
    return f"sqlite:///{tmp_path / 'my.db'}"


def run(arguments: list[str]) -> int:
    """The exit status, also where the arguments are refused as they are read."""
    try:
        return main(arguments)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a mistake: one line, which holds the message and no password."""
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out
    assert "secret" not in printed.err
    return printed.err
