"""``replay`` and ``race``: what a sceptical user runs first, on a study of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from optuna_aelle.backtest import replay
from optuna_aelle.backtest.arms import SHOWN
from optuna_aelle.backtest.arms import SHOWN_SEARCHES
from optuna_aelle.cli import main
from tests.cli.conftest import refused
from tests.conftest import run_synthetic


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
    for name in (*SHOWN, "epochs_share", "regret"):
        assert name in out
    assert "No spectra" not in out
    assert "Pareto front" in figure.read_text()
    assert len(csv.read_text().splitlines()) == 1 + 2 * len(SHOWN)
    # A table that was kept is replayed like the study; one study needs no name.
    assert main(["replay", str(table), "--repeats", "1", "--figure", str(figure)]) == 0
    assert main(["replay", source, "--repeats", "1", "--figure", str(figure)]) == 0


def test_a_study_is_raced_and_drawn(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure, csv = tmp_path / "f.html", tmp_path / "f.csv"
    status = main(
        ["race", source, "--study-name", "mine", "--repeats", "2", "--figure", str(figure)]
        + ["--csv", str(csv), "--trainings", "4"]
    )
    out = capsys.readouterr().out
    assert status == 0
    for name in SHOWN_SEARCHES:
        assert name in out
    # At a quarter, a half and the whole of four trainings of eight epochs.
    assert "final 8  final 16  final 32  seen 8  seen 16  seen 32" in out
    assert "every arm spends 32 epochs, 4 whole trainings" in out
    assert "best network trained to its end" in figure.read_text()
    # Nine rows a training, arm and order.
    assert len(csv.read_text().splitlines()) == 1 + 2 * len(SHOWN_SEARCHES) * 4 * 9
    # A quarter of the 25 trainings by default.
    assert main(["race", source, "--repeats", "1", "--figure", str(figure)]) == 0
    assert "6 whole trainings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainings", "0"], "argument --trainings: expected an integer of at least 1"),
        (["--trainings", "26"], "all of 25 configurations, 200 steps, but got 208"),
        (["--trials", "26"], "between 2 and the 25 recorded trials, but got 26"),
        (["--study-name", "yours"], "Expected one of the studies ['mine'], got 'yours'"),
    ],
)
def test_mistakes_of_a_race_are_one_line(
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    refused(["race", source, *arguments, "--figure", str(tmp_path / "f.html")], message, capsys)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: STORAGE"),
        (["{source}", "--study-name", "yours"], "Expected one of the studies ['mine'], got"),
        (["sqlite:///{folder}/none.db"], "there is no such file"),
        (["sqlite://"], "at least one study, but it has none"),
        (["my.db"], "Expected a storage URL"),
        (["postgres3://user:secret@host/db"], "a storage that Optuna can open"),
        (["mysql+pymysql://user:secret@127.0.0.1:1/db"], "a storage that Optuna can open"),
        (["sqlite:///{folder}/junk.db"], "a storage that Optuna can open"),
        (["{folder}/none.npz"], "there is no such file"),
        (["{folder}/junk.npz"], "Expected a file written by RecordedTrials.save"),
        (["{folder}/empty.npz"], "Expected a file written by RecordedTrials.save"),
        (["{folder}/other.npz"], "Expected a file written by RecordedTrials.save"),
        (["{source}", "--repeats", "0"], "argument --repeats: expected an integer of at least 1"),
        (["{source}", "--repeats", "x"], "argument --repeats: expected an integer of at least 1"),
        (["{source}", "--trials", "0"], "argument --trials: expected an integer of at least 1"),
        (["{source}", "--trials", "99"], "between 1 and the 25 recorded trials, but got 99"),
        (["{source}", "--seed", "-1"], "argument --seed: expected an integer of at least 0"),
        (["{source}", "--figure", "{folder}"], "--figure expects a file to write"),
        (["{source}", "--figure", "{folder}/no/f.html"], "there is no folder"),
        (["{source}", "--csv", "{folder}/no/f.csv"], "--csv expects a file"),
        (["{source}", "--save", "{folder}/no/f.npz"], "--save expects a file"),
    ],
)
def test_mistakes_are_one_line(
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "junk.npz").write_bytes(b"no table")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "junk.db").write_bytes(b"no database " * 200)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    before = sorted(tmp_path.iterdir())
    filled = [a.format(source=source, folder=tmp_path) for a in arguments]
    if "--figure" not in filled:
        filled += ["--figure", str(tmp_path / "f.html")]
    refused(["replay", *filled], message, capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_one_of_several_studies_must_be_named(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_synthetic(optuna.create_study(study_name="other", storage=source), 3, n_steps=8)
    assert main(["replay", source, "--figure", str(tmp_path / "f.html")]) == 2
    assert "one of the studies ['mine', 'other'], got no --study-name" in capsys.readouterr().err


def test_an_interruption_needs_no_traceback(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay, "replay", interrupt)
    assert main(["replay", source, "--figure", str(tmp_path / "f.html")]) == 130
    assert capsys.readouterr().err.endswith("optuna-aelle: interrupted.\n")
