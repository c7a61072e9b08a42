"""A study in a database, and the command within this process."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from optuna_aelle.cli import main
from tests.conftest import run_synthetic


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The URL of a database with one study, "mine"."""
    storage = f"sqlite:///{tmp_path / 'my.db'}"
    study = optuna.create_study(
        study_name="mine", storage=storage, pruner=optuna.pruners.NopPruner()
    )
    run_synthetic(study, 25, n_steps=8)
    return storage


def run(arguments: list[str]) -> int:
    """The exit status, also where the arguments are refused as they are read."""
    try:
        return main(arguments)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
