"""The command: what a sceptical user runs first, on a study of their own."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from optuna_aelle.cli import main
from tests.conftest import run_synthetic


@pytest.fixture
def source(tmp_path: Path) -> str:
    storage = f"sqlite:///{tmp_path / 'my.db'}"
    study = optuna.create_study(
        study_name="mine", storage=storage, pruner=optuna.pruners.NopPruner()
    )
    run_synthetic(study, 25, n_steps=8)
    return storage


def test_a_study_is_replayed_and_drawn(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure, csv, table = tmp_path / "f.html", tmp_path / "f.csv", tmp_path / "t.npz"
    status = main(
        ["replay", source, "--study-name", "mine", "--repeats", "2", "--figure", str(figure)]
        + ["--csv", str(csv), "--save", str(table)]
    )
    out = capsys.readouterr().out
    assert status == 0
    for name in ("none", "Median", "Hyperband", "SHA η=2", "AeLLE", "epochs_share", "regret"):
        assert name in out
    assert "No spectra" not in out
    assert "Pareto front" in figure.read_text()
    assert len(csv.read_text().splitlines()) == 1 + 2 * 8
    # A table that was kept is replayed like the study; one study needs no name.
    assert main(["replay", str(table), "--repeats", "1", "--figure", str(figure)]) == 0
    assert main(["replay", source, "--repeats", "1", "--figure", str(figure)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{source}", "--study-name", "yours"], "Expected one of the studies"),
        (["sqlite:///{folder}/none.db"], "There is no file"),
        (["my.db"], "Expected a storage URL"),
        (["{folder}/none.npz"], "none.npz"),
    ],
)
def test_mistakes_are_explained(
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [a.format(source=source, folder=tmp_path) for a in arguments]
    assert main(["replay", *filled]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_too_many_trials_are_explained(
    source: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["replay", source, "--trials", "99", "--figure", str(tmp_path / "f.html")]
    assert main(arguments) == 2
    assert "between 1 and the 25 recorded trials" in capsys.readouterr().err
