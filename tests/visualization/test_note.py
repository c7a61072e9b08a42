"""The note belongs to the user: our part comes once, is kept up to date, and may be deleted."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from optuna_aelle.visualization import save_dashboard_plots
from optuna_aelle.visualization._note import _BEGIN
from optuna_aelle.visualization._note import _END
from optuna_aelle.visualization._note import update_note
from tests.conftest import say

dashboard = pytest.importorskip("optuna_dashboard")
OWN = "# My study\n\nlearning rates above 0.1 diverge"


@pytest.fixture
def study(make_study: Any) -> optuna.Study:
    return make_study()  # type: ignore[no-any-return]


def note_of(study: optuna.Study) -> str:
    return str(dashboard.get_note(study))


def test_plots_come_with_a_note(study: optuna.Study) -> None:
    save_dashboard_plots(study)
    note = note_of(study)
    assert note.startswith(_BEGIN)
    assert note.endswith(_END)
    for name in (
        "Spectra",
        "Latent space",
        "Forecasts against ends",
        "Compute",
        "Went on",
        "lambda_1",
    ):
        assert name in note


def test_the_note_says_where_the_predictor_speaks(study: optuna.Study) -> None:
    say(study, {-1: "speaks (well)", 3: "silent, too few"})
    update_note(study)
    assert "- before training: speaks (well)\n- step 3: silent, too few\n" in note_of(study)


def test_our_part_is_replaced_and_the_rest_stays(study: optuna.Study) -> None:
    dashboard.save_note(study, OWN)
    update_note(study)
    first = note_of(study)
    assert first.startswith(f"{OWN}\n\n{_BEGIN}")
    dashboard.save_note(study, f"{first}\n\nwritten below")
    say(study, {3: "speaks"})
    update_note(study)
    update_note(study)
    second = note_of(study)
    assert second.startswith(f"{OWN}\n\n{_BEGIN}")
    assert second.endswith(f"{_END}\n\nwritten below")
    assert second.count("step 3: speaks") == 1
    assert second.count(_BEGIN) == second.count(_END) == 1


@pytest.mark.parametrize("left", [OWN, "", f"{OWN}\n{_BEGIN}", f"{OWN}\n{_END}"])
def test_what_was_deleted_stays_away(left: str, study: optuna.Study) -> None:
    update_note(study)
    dashboard.save_note(study, left)
    say(study, {3: "speaks"})
    update_note(study)
    assert note_of(study) == left


def test_a_note_that_stays_the_same_is_not_written(study: optuna.Study) -> None:
    def version() -> Any:
        return study._storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"]

    update_note(study)
    before = version()
    update_note(study)
    assert version() == before
