"""The prior is learned, ranked on tasks that it has not seen, and its page says what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import train_prior
from benchmarks.environment import RESULTS
from benchmarks.race import priors
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle import Prior
from optuna_aelle.prediction.training import Lessons
from optuna_aelle.prediction.training import Settings
from tests.prediction.tables import made_up_table

QUICK = Settings(members=1, hidden=8, encoder_hidden=8, latent=2, steps=30, folds=2)


@pytest.fixture
def made_lessons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """Small lessons in place of the recorded tables, and which tasks were left out of them."""
    left_out: list[str | None] = []

    def lessons(without: str | None = None) -> dict[str, list[Lessons]]:
        left_out.append(without)
        return {f"task {i}": [Lessons.of(made_up_table(f"task {i}", i))] for i in range(3)}

    monkeypatch.setattr(priors, "every_lesson", lessons)
    monkeypatch.setattr(train_prior, "every_lesson", lessons)
    monkeypatch.setattr(train_prior, "Settings", lambda: QUICK)
    monkeypatch.setattr(train_prior, "prior_without", lambda t: priors.prior_without(t, QUICK))
    monkeypatch.setattr(priors, "CACHE", tmp_path / "priors")
    priors.prior_without.cache_clear()
    return left_out


def test_the_command_writes_a_prior(made_lessons: list[str | None], tmp_path: Path) -> None:
    path = tmp_path / "small.npz"
    train_prior.main(["--without", "digits", "--output", str(path)])
    assert made_lessons == ["digits"]
    assert Prior.load(path).tasks == {"task 0", "task 1", "task 2"}


def test_a_prior_that_leaves_a_task_out_is_not_the_shipped_one(
    made_lessons: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_prior, "SHIPPED", tmp_path / "shipped.npz")
    monkeypatch.setattr(train_prior, "STUDIES_PRIORS", tmp_path)
    train_prior.main(["--without", "digits"])
    assert [path.name for path in tmp_path.iterdir()] == ["without_digits.npz"]
    train_prior.main([])
    assert (tmp_path / "shipped.npz").exists()
    assert made_lessons == ["digits", None]
    with pytest.raises(SystemExit):
        train_prior.main(["--without", "digit"])


def test_priors_are_learned_once_for_each_task(made_lessons: list[str | None]) -> None:
    first = priors.prior_without("adding", QUICK)
    priors.prior_without.cache_clear()
    again = priors.prior_without("adding", QUICK)
    assert made_lessons == ["adding"]
    assert first is not again
    assert first.network is not None
    assert again.network is not None
    for name, weight in first.network.weights.items():
        assert np.array_equal(weight, again.network.weights[name])


def test_a_task_is_ranked_by_a_prior_without_it(made_lessons: list[str | None]) -> None:
    (ranked,) = train_prior.rank("maps", ["maps-gru"])
    assert made_lessons == ["maps"]
    figures: dict[str, Any] = ranked["figures"]
    assert figures.keys() == train_prior.HIDDEN.keys()
    # Untrained networks have no curve that could be hidden.
    assert figures["no curve"]["-1"] == figures["everything"]["-1"]
    assert all(0.0 <= figures[what][step][2] <= 1.0 for what in figures for step in figures[what])


def test_no_lesson_is_of_the_task_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "_lessons", lambda name: name)
    lessons = priors.every_lesson("digits")
    assert "digits" not in lessons
    names = [str(name) for own in lessons.values() for name in own]
    assert not any(name.startswith("digits") for name in names)
    assert len(names) == len(DEVELOPMENT_TABLES) + len(REPORT_TABLES) - 2


def test_the_page_says_what_was_measured() -> None:
    results = json.loads((RESULTS / "prior.json").read_text())
    assert {t["table"] for t in results["tables"]} == {*DEVELOPMENT_TABLES, *REPORT_TABLES}
    page = (RESULTS.parents[1] / "docs" / "benchmarks" / "prior.md").read_text()
    own = [t["figures"] for t in results["tables"] if t["table"] in REPORT_TABLES]
    for what in train_prior.HIDDEN:
        for step in own[0][what]:
            a, b, c = np.mean([t[what][step] for t in own], axis=0)
            cell = f"{a:.3f} / {b:.3f}".replace("0.", ".") + f" ({c:.0%}".replace("%", " %)")
            assert f"| {cell} |" in page
