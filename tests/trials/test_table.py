"""Recorded trials: nothing that a replay needs is lost on the way to a file and back."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_aelle import RecordedTrials
from optuna_aelle import encode_spectrum
from optuna_aelle.trials.attributes import spectrum_payloads
from tests.conftest import made_trials


def study_of(trials: list[optuna.trial.FrozenTrial], **settings: object) -> optuna.Study:
    study = optuna.create_study(study_name="made", **settings)  # type: ignore[arg-type]
    study.add_trials(trials)
    return study


def assert_same(a: RecordedTrials, b: RecordedTrials) -> None:
    assert (a.name, a.direction, len(a), a.steps) == (b.name, b.direction, len(b), b.steps)
    np.testing.assert_array_equal(a.step_seconds, b.step_seconds)
    for one, other in zip(a.trials, b.trials, strict=True):
        for name in ("number", "state", "params", "distributions", "system_attrs"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.datetime_complete == other.datetime_complete
        np.testing.assert_equal(one.intermediate_values, other.intermediate_values)
        np.testing.assert_equal(one.values, other.values)


def test_a_study_survives_the_file(storage: BaseStorage, tmp_path: Path) -> None:
    study = study_of(made_trials(20, direction="maximize"), storage=storage, direction="maximize")
    recorded = RecordedTrials.from_study(study)
    recorded.save(tmp_path / "made.npz")
    loaded = RecordedTrials.load(tmp_path / "made.npz")
    assert_same(recorded, loaded)
    assert len(recorded) == 20
    assert [t.values for t in recorded.trials] == [t.values for t in study.trials]
    assert recorded.trials[0].system_attrs == study.trials[0].system_attrs


def test_the_file_holds_no_pickle(tmp_path: Path) -> None:
    RecordedTrials.from_study(study_of(made_trials(5))).save(tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_odd_values_survive(tmp_path: Path) -> None:
    spectrum = encode_spectrum([0.1, -0.2, -math.inf], -1, seconds=0.0123)
    trials = made_trials(4)
    trials[0].intermediate_values = {0: math.nan, 3: math.inf, 7: -math.inf, 9: 1 / 3}
    trials[1].system_attrs = spectrum
    trials.append(
        optuna.trial.create_trial(
            state=TrialState.PRUNED, intermediate_values={0: 1.0, 1: math.nan}
        )
    )
    dynamic = (
        IntDistribution(1, 3),
        IntDistribution(1, 9),
    )
    for trial, distribution in zip(trials[:2], dynamic, strict=True):
        trial.params["n"], trial.distributions["n"] = 2, distribution
    trials[2].params["kind"] = None
    trials[2].distributions["kind"] = CategoricalDistribution((None, True, "a"))
    recorded = RecordedTrials.from_study(study_of(trials))
    recorded.save(tmp_path / "odd.npz")
    loaded = RecordedTrials.load(tmp_path / "odd.npz")
    assert_same(recorded, loaded)
    assert loaded.trials[1].system_attrs == spectrum
    assert loaded.trials[1].distributions["n"] == dynamic[1]
    assert math.isnan(loaded.finals[-1])


def test_what_cannot_be_replayed_is_left_out() -> None:
    silent = optuna.trial.create_trial(value=1.0)
    failed = optuna.trial.create_trial(state=TrialState.FAIL, intermediate_values={0: 1.0})
    with pytest.warns(UserWarning, match="1 of 4 ended trials of 'made' are left out"):
        recorded = RecordedTrials.from_study(study_of([*made_trials(3), silent, failed]))
    assert len(recorded) == 3


def test_seconds_of_a_step_are_without_those_of_spectra() -> None:
    trial = made_trials(1)[0]
    trial.intermediate_values = {0: 1.0, 1: 0.5}
    trial.datetime_start = datetime.datetime(2024, 1, 1)
    trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=10)
    trial.system_attrs = encode_spectrum([0.1, -0.1], -1, seconds=2.0)
    study = study_of([trial])
    assert RecordedTrials.from_study(study).step_seconds == pytest.approx([4.0])


def test_to_study_gives_the_trials_back() -> None:
    recorded = RecordedTrials.from_study(study_of(made_trials(12)))
    again = RecordedTrials.from_study(recorded.to_study())
    assert_same(recorded, again)
    assert recorded.to_study(study_name="other").study_name == "other"


def test_a_table_without_times_makes_a_study_too() -> None:
    trials = made_trials(3)
    for trial in trials:
        trial.datetime_start = trial.datetime_complete = None
    table = RecordedTrials("bare", "minimize", tuple(trials), np.ones(3))
    assert len(table.to_study().trials) == 3


def test_a_value_out_of_its_range_does_not_stop_a_recording() -> None:
    study = optuna.create_study(study_name="out")
    study.enqueue_trial({"x": 5.0})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report(x, 0)
        return x

    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(objective, n_trials=2)
    recorded = RecordedTrials.from_study(study)
    assert recorded.trials[0].params == {"x": 5.0}
    assert recorded.to_study(study_name="again").trials[0].params == {"x": 5.0}


def test_studies_that_hold_nothing_get_a_clear_error() -> None:
    with pytest.raises(ValueError, match="at least one finished trial"):
        RecordedTrials.from_study(optuna.create_study())
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="one objective"):
        RecordedTrials.from_study(several)


def test_files_of_another_kind_get_a_clear_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"written by RecordedTrials\.save"):
        RecordedTrials.load(tmp_path / "other.npz")


def test_curves_must_fit() -> None:
    recorded = RecordedTrials.from_study(study_of(made_trials(4)))
    with pytest.raises(ValueError, match="Shape mismatch: expected curve 'test'"):
        RecordedTrials(
            recorded.name,
            recorded.direction,
            recorded.trials,
            recorded.step_seconds,
            curves={"test": np.ones((4, 99))},
        )


def test_trials_that_cannot_be_replayed_get_a_clear_error() -> None:
    trials = made_trials(3)
    silent = optuna.trial.create_trial(value=1.0)
    with pytest.raises(ValueError, match="1 of 4 did not, the first of them trial"):
        RecordedTrials("silent", "minimize", (*trials, silent), np.ones(4))
    with pytest.raises(ValueError, match=r"expected step_seconds of shape \(3,\).*got \(2,\)"):
        RecordedTrials("short", "minimize", tuple(trials), np.ones(2))


def test_sizes_of_networks_are_kept(tmp_path: Path) -> None:
    trials = made_trials(4)
    for trial, size in zip(trials, (3, 32, 64, 500), strict=True):
        trial.system_attrs = encode_spectrum(-np.arange(1.0, size + 1.0), -1)
    RecordedTrials.from_study(study_of(trials)).save(tmp_path / "sizes.npz")
    loaded = RecordedTrials.load(tmp_path / "sizes.npz")
    assert [spectrum_payloads(trial)[-1]["n"] for trial in loaded.trials] == [3, 32, 64, 500]
