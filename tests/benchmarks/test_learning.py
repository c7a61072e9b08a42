"""How soon a study is known: of which trials what is told, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.race import learning
from benchmarks.race.learning import NONE
from benchmarks.race.learning import WITH
from benchmarks.race.learning import WITHOUT
from optuna_aelle.prediction.prior import Prior


@pytest.fixture(autouse=True)
def without_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prior that need not be learned first and has seen no digits."""
    monkeypatch.setattr(
        learning, "prior_without", lambda task: Prior.load("studies/priors/without_digits.npz")
    )


def test_more_trials_tell_more_and_a_prior_tells_before_any(tmp_path: Path) -> None:
    frame = learning.run("digits-mixed", 2)
    assert set(frame["knowledge"]) == {WITH, WITHOUT, NONE}
    means = frame.groupby(["knowledge", "known"])["all"].mean()
    assert means[NONE, 0] == 0.0
    assert means[NONE, 32] > means[NONE, 4] > 0.0
    # Before anything is known of the study, its ways say nothing.
    assert means[WITH, 0] == pytest.approx(means[WITHOUT, 0])
    assert means[WITH, 0] > 0.6
    assert means[WITH, 32] > means[NONE, 32]
    assert learning.table_of(frame).count("\n") == 4


def test_nothing_of_a_training_is_told_of_what_has_not_started() -> None:
    trial = learning.load("digits-mixed").trials[0]
    before = learning._untrained(trial)
    assert before.values is None
    assert not before.intermediate_values
    assert len(before.system_attrs) == 1 < len(trial.system_attrs)
    assert trial.intermediate_values


def test_the_results_that_are_kept_are_of_the_command() -> None:
    kept = json.loads(Path("benchmarks/results/learning.json").read_text())
    assert kept["command"].startswith("python -m benchmarks.race.learning")
    assert {row["known"] for row in kept["rows"]} == set(learning.KNOWN)
    assert len({row["table"] for row in kept["rows"]}) == len(learning.REPORT_TABLES)
