"""Halving by curves alone against Optuna's successive halving, which writes down its rungs."""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import Checkpoints
from optuna_aelle.decisions import pruner as pruner_module
from optuna_aelle.decisions.halving import Rung
from optuna_aelle.decisions.halving import next_rung
from optuna_aelle.decisions.halving import report_spacing
from optuna_aelle.trials.storage import stored_trial

# Few values, so that there are ties.
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(allow_nan=True, width=16))
CURVES = st.lists(st.lists(VALUES, min_size=1, max_size=10), min_size=1, max_size=12)


def is_halved(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
    rung = next_rung(study, trial)
    return rung is not None and not rung.goes_on


@settings(max_examples=200, deadline=None)
@given(
    curves=CURVES,
    from_zero=st.booleans(),
    spacing=st.sampled_from([1, 5]),
    direction=st.sampled_from(["minimize", "maximize"]),
    kept=st.integers(2, 5),
    times=st.integers(1, 2),
)
def test_trials_are_stopped_where_optuna_stops_them(
    curves: list[list[float]], from_zero: bool, spacing: int, direction: str, kept: int, times: int
) -> None:
    study = optuna.create_study(direction=direction, pruner=NopPruner())
    # The first trial says how far apart reports are.
    curves = [[0.5, 0.5], *curves]
    for curve in curves:
        trial = study.ask()
        stopped = False
        for i, value in enumerate(curve):
            trial.report(value, (i if from_zero else i + 1) * spacing)
            for _ in range(times):
                stored = stored_trial(study, trial._get_latest_trial())
                least = report_spacing([*study.trials, stored])
                optunas = SuccessiveHalvingPruner(min_resource=least, reduction_factor=2)
                # First ours: Optuna's leaves a mark.
                ours = is_halved(study, stored)
                assert ours == optunas.prune(study, stored)
                if ours:
                    # Now and then somebody else keeps it.
                    stopped = trial.number % kept != 0
                    break
            if stopped:
                break
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        study.tell(trial, None if stopped else 0.0, state=state)


def reported(*curves: list[float], direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
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
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found == Rung(number=0, step=1, value=2.5, bar=2.0, rank=3, n_compared=5)
    assert not found.goes_on
    verdict = found.verdict()
    assert (verdict.by, verdict.rung, verdict.bar) == ("SuccessiveHalvingPruner", 0, 2.0)
    # Somebody kept it.
    trial.report(1.5, 2)
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found == Rung(number=1, step=2, value=1.5, bar=1.5, rank=2, n_compared=4)
    assert found.goes_on
    trial.report(0.5, 3)
    assert next_rung(study, stored_trial(study, trial._get_latest_trial())) is None


@pytest.mark.parametrize("every", [1, 3, 5])
def test_whoever_asks_seldom_is_judged_at_the_next_occasion(every: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        quality = (7 * trial.number) % 20
        for step in range(20):
            trial.report(1.0 / (step + 1) + quality, step)
            if step % every == 0 and trial.should_prune():
                raise optuna.TrialPruned
        return float(quality)

    study = optuna.create_study(pruner=AeLLEPruner())
    study.optimize(objective, n_trials=30)
    stopped = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(stopped) > 15
    assert all(len(t.intermediate_values) < 20 for t in stopped)
    assert not any("rung" in key for t in study.trials for key in t.system_attrs)


def test_what_failed_attempts_reported_is_not_judged_again() -> None:
    study = reported([3.0, 1.0], [1.0, 2.0], [1.0, 2.0])
    failed = study.ask()
    failed.report(2.5, 1)
    study.tell(failed, state=TrialState.FAIL)
    retried = create_trial(
        state=TrialState.WAITING,
        intermediate_values={1: 2.5},
        system_attrs={"failed_trial": failed.number, "retry_history": [failed.number]},
    )
    study.add_trial(retried)
    trial = study.ask()
    assert trial.number == failed.number + 1
    assert next_rung(study, stored_trial(study, trial._get_latest_trial())) is None
    trial.report(4.0, 2)
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found is not None
    assert found.number == 1


def test_what_came_long_after_a_rung_says_nothing_of_it() -> None:
    study = reported([3.0, 1.0])
    for _ in range(4):
        seldom = {50: 0.2, 100: 0.1}
        study.add_trial(
            create_trial(state=TrialState.PRUNED, value=0.1, intermediate_values=seldom)
        )
    trial = study.ask()
    trial.report(2.5, 1)
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found is not None
    assert (found.rank, found.n_compared) == (1, 2)


def test_the_number_of_a_deleted_study_s_trial_is_of_no_account(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    for last in (8, 1):
        study = optuna.create_study(study_name="again", storage=storage)
        trial = study.ask()
        for step in range(1, last + 1):
            trial.report(1.0, step)
            found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
            assert (found is not None) == (step in (1, 2, 4, 8))
        optuna.delete_study(study_name="again", storage=storage)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_verdict_has_no_number_that_is_not_finite(value: float) -> None:
    study = reported([1.0, 1.0], [math.inf])
    trial = study.ask()
    trial.report(value, 1)
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found is not None
    assert found.goes_on == (value == -math.inf)
    assert found.verdict().value is None


def test_neither_has_it_a_bar_that_is_not_finite() -> None:
    study = reported([math.inf], [math.inf], direction="maximize")
    trial = study.ask()
    trial.report(1.0, 1)
    found = next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert found is not None
    assert found.verdict().bar is None


def test_nothing_is_written() -> None:
    study = reported([1.0, 1.0], [2.0])
    trial = study.ask()
    trial.report(3.0, 1)
    next_rung(study, stored_trial(study, trial._get_latest_trial()))
    assert not any(t.system_attrs or t.user_attrs for t in study.trials)


def search(trial: optuna.Trial) -> float:
    floor = trial.suggest_float("learning_rate", 0.0, 1.0)
    noise = np.random.default_rng(trial.number).standard_normal(12)
    for step in range(12):
        loss = floor + 1.0 / (step + 1) + 0.1 * float(noise[step])
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


def test_between_rungs_no_trial_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a database each reading of all trials takes longer than all else that a report does."""
    study = optuna.create_study(sampler=AeLLESampler(seed=0), pruner=AeLLEPruner())
    reads: dict[int, list[int]] = {}
    ask = AeLLEPruner.prune
    storage: Any = study._storage
    read = storage.get_all_trials
    counted = [0]

    def counting(*args: Any, **options: Any) -> Any:
        counted[0] += 1
        return read(*args, **options)

    def prune(pruner: AeLLEPruner, of: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        before = counted[0]
        stops = ask(pruner, of, trial)
        reads.setdefault(trial.last_step or 0, []).append(counted[0] - before)
        return stops

    monkeypatch.setattr(AeLLEPruner, "prune", prune)
    monkeypatch.setattr(storage, "get_all_trials", counting)
    study.optimize(search, n_trials=20)
    for step, of_step in reads.items():
        # The first trial says how far apart reports are, which the second one finds out.
        assert of_step[2:] == [int(step in (1, 2, 4, 8))] * (len(of_step) - 2), step


@pytest.mark.parametrize("resumes", [False, True])
def test_what_is_not_read_changes_no_decision(
    resumes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def outcome() -> list[tuple[TrialState, dict[int, float]]]:
        study = optuna.create_study(sampler=AeLLESampler(seed=0), pruner=AeLLEPruner())
        checkpoints = Checkpoints(tmp_path / uuid.uuid4().hex)

        def saved(trial: optuna.Trial) -> float:
            model = torch.nn.Linear(1, 1)
            floor = trial.suggest_float("learning_rate", 0.0, 1.0)
            for epoch in checkpoints.epochs(trial, 12, model=model):
                loss = floor + 1.0 / (epoch + 1)
                trial.report(loss, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return loss

        callbacks = [checkpoints.resume_promising] if resumes else []
        study.optimize(saved if resumes else search, n_trials=25, callbacks=callbacks)
        return [(t.state, t.intermediate_values) for t in study.trials]

    found = outcome()
    assert len({len(told) for _, told in found}) > 2
    monkeypatch.setattr(pruner_module, "is_no_moment", lambda *_: False)
    assert outcome() == found
