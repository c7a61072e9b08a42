"""Halving by curves alone against Optuna's successive halving, which writes down its rungs."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle.decisions.halving import Rung
from optuna_aelle.decisions.halving import report_spacing
from optuna_aelle.decisions.halving import rung_of
from optuna_aelle.trials.storage import stored_trial

# Few values, so that there are ties.
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(allow_nan=True, width=16))
CURVES = st.lists(st.lists(VALUES, min_size=1, max_size=10), min_size=1, max_size=12)


def is_halved(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
    rung = rung_of(study, trial)
    return rung is not None and not rung.goes_on


@settings(max_examples=60, deadline=None)
@given(
    curves=CURVES,
    first=st.sampled_from([0, 1, 10]),
    spacing=st.sampled_from([1, 5]),
    direction=st.sampled_from(["minimize", "maximize"]),
    kept=st.integers(2, 5),
)
def test_trials_are_stopped_where_optuna_stops_them(
    curves: list[list[float]], first: int, spacing: int, direction: str, kept: int
) -> None:
    study = optuna.create_study(direction=direction, pruner=NopPruner())
    # The first trial says how far apart reports are.
    curves = [[0.5, 0.5], *curves]
    for curve in curves:
        trial = study.ask()
        stopped = False
        for i, value in enumerate(curve):
            trial.report(value, first + i * spacing)
            stored = stored_trial(study, trial._get_latest_trial())
            least = report_spacing([*study.trials, stored])
            optunas = SuccessiveHalvingPruner(min_resource=least, reduction_factor=2)
            # First ours: Optuna's leaves a mark.
            ours = is_halved(study, stored)
            assert ours == optunas.prune(study, stored)
            # Now and then somebody else keeps it.
            stopped = ours and trial.number % kept != 0
            if stopped:
                break
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        study.tell(trial, None if stopped else 0.0, state=state)


def reported(*curves: list[float]) -> optuna.Study:
    study = optuna.create_study()
    for curve in curves:
        trial = create_trial(
            state=TrialState.PRUNED,
            value=curve[-1],
            intermediate_values=dict(enumerate(curve, start=1)),
        )
        study.add_trial(trial)
    return study


def test_what_is_known_of_a_rung() -> None:
    study = reported([3.0, 1.0], [4.0], [1.0, 2.0], [2.0, 3.0])
    trial = study.ask()
    trial.report(2.5, 1)
    found = rung_of(study, stored_trial(study, trial._get_latest_trial()))
    assert found == Rung(number=0, step=1, value=2.5, bar=2.0, rank=3, n_compared=5)
    assert not found.goes_on
    verdict = found.verdict()
    assert (verdict.by, verdict.rung, verdict.bar) == ("SuccessiveHalvingPruner", 0, 2.0)
    # Somebody kept it.
    trial.report(1.5, 2)
    found = rung_of(study, stored_trial(study, trial._get_latest_trial()))
    assert found == Rung(number=1, step=2, value=1.5, bar=1.5, rank=2, n_compared=4)
    assert found.goes_on
    trial.report(0.5, 3)
    assert rung_of(study, stored_trial(study, trial._get_latest_trial())) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_verdict_has_no_number_that_is_not_finite(value: float) -> None:
    study = reported([1.0, 1.0], [math.inf])
    trial = study.ask()
    trial.report(value, 1)
    found = rung_of(study, stored_trial(study, trial._get_latest_trial()))
    assert found is not None
    assert found.goes_on == (value == -math.inf)
    assert found.verdict().value is None


def test_nothing_is_written() -> None:
    study = reported([1.0, 1.0], [2.0])
    trial = study.ask()
    trial.report(3.0, 1)
    rung_of(study, stored_trial(study, trial._get_latest_trial()))
    assert not any(t.system_attrs or t.user_attrs for t in study.trials)
