"""The attribute schema, both ways, on every kind of storage."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_aelle import AeLLEWarning
from optuna_aelle import decode_spectra
from optuna_aelle import encode_spectrum
from optuna_aelle import lyapunov_spectrum
from optuna_aelle import report_network
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.decisions.verdict import encode_verdict
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.prediction.forecast import encode_forecast
from optuna_aelle.trials.attributes import encode_fit_seconds
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_seconds


def forecast_at(step: int) -> Forecast:
    return Forecast(
        step=step,
        standing=-0.5,
        standing_std=0.3,
        value=0.5,
        value_std=0.1,
        bar=0.84,
        bar_value=0.4,
        share=0.2,
        chance=0.01,
        skill=Skill(30.0, 0.6, 0.0),
        spoke=("params", "spectrum"),
    )


exponents = hnp.arrays(
    np.float64,
    st.integers(1, 80),
    elements=st.one_of(st.floats(-700.0, 3.0), st.just(-math.inf)),
).map(lambda values: -np.sort(-values))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(values=exponents, step=st.integers(-1, 10_000))
def test_round_trip_through_json(values: np.ndarray, step: int) -> None:
    text = json.dumps(encode_spectrum(values, step), allow_nan=False)
    trial = optuna.trial.create_trial(value=0.0, user_attrs=json.loads(text))
    ((found, decoded),) = decode_spectra(trial).items()
    assert found == step
    assert decoded.shape == (FINGERPRINT_LENGTH,)
    np.testing.assert_allclose(decoded, resample_exponents(values), rtol=1e-4)
    assert len(text) < 700


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=exponents, length=st.integers(1, 64))
def test_resampling_keeps_order_ends_and_dead_directions(values: np.ndarray, length: int) -> None:
    points = resample_exponents(values, length)
    assert points.shape == (length,)
    assert not np.isnan(points).any()
    finite = np.maximum(points, -1e6)
    assert (np.diff(finite) <= 1e-9).all()
    assert points[0] == values[0]
    if length > 1:
        assert points[-1] == values[-1]
    if len(values) == length:
        np.testing.assert_array_equal(points, values)


def test_every_storage_keeps_spectra(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="records")
    network = torch.nn.GRU(1, 6)
    inputs = torch.randn(40, 3, 1, generator=torch.Generator().manual_seed(0))
    trial = study.ask()
    spectrum = lyapunov_spectrum(network, inputs)
    report_spectrum(trial, spectrum, step=-1)
    report_spectrum(trial, [0.5, -1.0, -math.inf], step=3)
    trial.report(1.0, 3)
    assert list(decode_spectra(trial)) == [-1, 3]
    study.tell(trial, 1.0)

    again = optuna.load_study(storage=storage, study_name="records").trials[0]
    decoded = decode_spectra(again)
    np.testing.assert_allclose(decoded[-1], resample_exponents(spectrum.mean), rtol=1e-4)
    assert decoded[3][0] == 0.5
    assert np.isneginf(decoded[3][-1])
    assert again.user_attrs["aelle:lambda_1"] == 0.5
    assert spectrum_seconds(again) == pytest.approx(spectrum.seconds, abs=1e-6)


def test_imported_trials_carry_their_spectra(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage)
    attributes = {**encode_spectrum(-np.ones((4, 9)), -1), **encode_spectrum(-np.ones(40), 5)}
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs=attributes))
    assert list(decode_spectra(study.trials[0])) == [-1, 5]


@pytest.mark.parametrize("bad", [[0.1, math.nan], [math.inf], [], [[[1.0]]]])
def test_bad_exponents_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="Expected exponents"):
        encode_spectrum(bad, 0)


@pytest.mark.parametrize("step", [-2, 1.5, True, "untrained", None])
def test_bad_steps_are_refused(step: Any) -> None:
    with pytest.raises(ValueError, match="step must be an integer of at least -1"):
        encode_spectrum([0.0], step)


def test_reporting_a_bad_spectrum_warns_once_and_goes_on() -> None:
    trial = optuna.create_study().ask()
    with pytest.warns(AeLLEWarning, match=r"trial 0 at step 0 is left out.*1 NaN"):
        report_spectrum(trial, [0.1, math.nan], step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_spectrum(trial, [0.1, math.nan], step=1)
    report_spectrum(trial, [0.1], step=2)
    assert list(decode_spectra(trial)) == [2]


def test_second_spectrum_for_a_step_is_ignored_with_a_warning(storage: BaseStorage) -> None:
    trial = optuna.create_study(storage=storage).ask()
    report_spectrum(trial, [-1.0], step=0)
    with pytest.warns(AeLLEWarning, match="already has a spectrum for step 0"):
        report_spectrum(trial, [-2.0], step=0)
    assert (decode_spectra(trial)[0] == -1.0).all()


def test_a_part_of_a_spectrum_is_no_fingerprint() -> None:
    """Leading exponents mean other things for networks of other sizes."""
    network, inputs = torch.nn.LSTM(1, 40), torch.randn(60, 2, 1)
    part = lyapunov_spectrum(network, inputs, k=32)
    with pytest.raises(ValueError, match="all 80 exponents of the network, got 32"):
        encode_spectrum(part.exponents, 0, state_size=part.state_size)
    trial = optuna.create_study().ask()
    with pytest.warns(AeLLEWarning, match="trial 0 at step 0 is left out: Expected the whole"):
        report_spectrum(trial, part, step=0)
    assert decode_spectra(trial) == {}


def test_what_held_unlike_parts_is_left_out_with_a_warning() -> None:
    old = {"version": 1, "exponents": [-1.0] * FINGERPRINT_LENGTH, "k": 32}
    trial = optuna.trial.create_trial(value=0.0, user_attrs={"aelle:spectrum:0": old})
    with pytest.warns(AeLLEWarning, match="version 1 held unlike parts"):
        assert decode_spectra(trial) == {}


def test_newer_schema_is_left_out_with_a_warning() -> None:
    (payload,) = encode_spectrum([-1.0], 0).values()
    trial = optuna.trial.create_trial(
        value=0.0,
        user_attrs={
            "aelle:spectrum:0": {**payload, "version": 99},
            "aelle:spectrum:1": payload,
        },
    )
    with pytest.warns(AeLLEWarning, match="schema version 99.*Upgrade"):
        assert list(decode_spectra(trial)) == [1]


@pytest.mark.parametrize(
    "damaged",
    [None, 3, {}, {"version": 2}, {"version": 2, "exponents": [1.0]}, {"version": "one"}],
)
def test_damaged_attributes_are_left_out_with_a_warning(damaged: Any) -> None:
    trial = optuna.trial.create_trial(value=0.0, user_attrs={"aelle:spectrum:0": damaged})
    with pytest.warns(AeLLEWarning, match="cannot be read"):
        assert decode_spectra(trial) == {}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_retried_trial_does_not_inherit_spectra(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'retry.db'}")
    study = optuna.create_study(storage=storage)
    failed = study.ask()
    report_spectrum(failed, [-1.0], step=-1)
    report_spectrum(failed, [-1.0], step=0)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    optuna.storages.RetryFailedTrialCallback()(study, study.trials[0])
    retried = study.ask()
    assert "aelle:spectrum:0" in study.trials[1].system_attrs
    assert decode_spectra(retried) == {}
    report_spectrum(retried, [-2.0], step=-1)
    assert list(decode_spectra(study.trials[1])) == [-1]
    assert list(decode_spectra(study.trials[0])) == [-1, 0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_retried_trial_does_not_inherit_what_the_pruner_wrote(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage)
    study.ask()

    def write(number: int, step: int) -> None:
        trial = study.trials[number]
        for key, value in {
            **encode_forecast(trial, forecast_at(step)),
            **encode_verdict(trial, Verdict("AeLLE", step, risk=0.05)),
            **encode_fit_seconds(trial, 2.5),
        }.items():
            study._storage.set_trial_system_attr(trial._trial_id, key, value)

    write(0, 1)
    verdict = decode_verdict(study.trials[0])
    assert verdict is not None
    assert verdict.forecast == forecast_at(1)
    assert fit_seconds(study.trials[0]) == 2.5
    for number in (1, 2):  # a retry, and the retry of a retry that was pruned as well
        study.tell(number - 1, state=TrialState.FAIL)
        optuna.storages.RetryFailedTrialCallback()(study, study.trials[number - 1])
        study.ask()
        assert "aelle:forecast:1" in study.trials[number].system_attrs
        assert decode_forecasts(study.trials[number]) == {}
        assert decode_verdict(study.trials[number]) is None
        assert fit_seconds(study.trials[number]) == 0.0
        write(number, 2)
        assert list(decode_forecasts(study.trials[number])) == [2]
        assert decode_verdict(study.trials[number]).step == 2  # type: ignore[union-attr]
        assert fit_seconds(study.trials[number]) == 2.5


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("inherits", [True, False])
def test_a_retry_that_keeps_its_curve_keeps_its_spectra(
    storage: BaseStorage, inherits: bool
) -> None:
    study = optuna.create_study(storage=storage)
    failed = study.ask()
    report_spectrum(failed, [-1.0], step=-1)
    for step in range(3):
        report_spectrum(failed, [-1.0 - step], step=step)
        failed.report(0.5 - 0.1 * step, step)
    study.tell(failed, state=TrialState.FAIL)
    retry = optuna.storages.RetryFailedTrialCallback(inherit_intermediate_values=inherits)
    retry(study, study.trials[0])
    retried = study.ask()
    assert list(decode_spectra(study.trials[1])) == ([-1, 0, 1, 2] if inherits else [])
    # What goes on has spectra of its own; what began again, too, and no curve of another attempt.
    retried.report(0.77, 3 if inherits else 0)
    report_spectrum(retried, [-9.0], step=4 if inherits else 1)
    kept = decode_spectra(study.trials[1])
    assert [step for step in kept if step > 0] == ([1, 2, 4] if inherits else [1])
    assert kept[max(kept)][0] == -9.0


def test_report_network_never_stops_a_study() -> None:
    trial = optuna.create_study().ask()
    inputs = torch.randn(40, 3, 2)
    broken = torch.nn.LSTM(2, 4)
    with torch.no_grad():
        broken.weight_hh_l0[0, 0] = math.nan
    with pytest.warns(AeLLEWarning, match="no spectrum at step 0.*weight_hh_l0"):
        assert report_network(trial, broken, inputs, step=0) is None
    spectrum = report_network(trial, torch.nn.LSTM(2, 4), inputs, step=1)
    assert spectrum is not None
    np.testing.assert_allclose(
        decode_spectra(trial)[1], resample_exponents(spectrum.mean), rtol=1e-4
    )


def test_forecasts_round_trip(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage)
    study.ask()
    trial = study.trials[0]
    for key, value in encode_forecast(trial, forecast_at(-1)).items():
        study._storage.set_trial_system_attr(trial._trial_id, key, value)
    assert decode_forecasts(study.trials[0]) == {-1: forecast_at(-1)}


@pytest.mark.parametrize("whole_network", [False, True])
def test_an_objective_can_be_evaluated_again_outside_of_a_study(whole_network: bool) -> None:
    """With `study.best_trial` or a `FixedTrial`, as Optuna's tutorial does."""
    network, inputs = torch.nn.GRU(1, 6), torch.randn(40, 3, 1)

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if whole_network:
            assert report_network(trial, network, inputs, -1) is not None
        else:
            report_spectrum(trial, -np.arange(1.0, 9.0), -1)
        assert list(decode_spectra(trial)) == [-1]
        assert not trial.should_prune()
        return float(x)

    study = optuna.create_study()
    study.optimize(objective, n_trials=2)
    assert objective(optuna.trial.FixedTrial({"x": 0.5})) == 0.5
    with pytest.warns(AeLLEWarning, match="already has a spectrum"):
        assert objective(study.best_trial) == study.best_value


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_retry_from_scratch_does_not_adopt_another_network_s_beginning() -> None:
    study = optuna.create_study()
    failed = study.ask()
    report_spectrum(failed, [-1.0, -2.0], step=-1)
    failed.report(0.5, 0)
    report_spectrum(failed, [-1.5, -2.5], step=1)
    study.tell(failed, state=TrialState.FAIL)
    optuna.storages.RetryFailedTrialCallback()(study, study.trials[0])
    retried = study.ask()
    retried.report(0.7, 0)
    assert decode_spectra(study.trials[1]) == {}


def test_a_spectrum_costs_two_writes_and_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a database server each of them is a round trip, or several."""
    trial = optuna.create_study().ask()
    calls: list[str] = []
    storage: Any = trial.study._storage
    for name in ("get_trial", "get_all_trials", "set_trial_system_attr", "set_trial_user_attr"):
        call = getattr(storage, name)
        monkeypatch.setattr(
            storage,
            name,
            lambda *a, call=call, name=name, **k: (calls.append(name), call(*a, **k))[1],
        )
    report_spectrum(trial, [-1.0], step=-1)
    assert calls == ["set_trial_system_attr", "set_trial_user_attr"]
    with pytest.warns(AeLLEWarning, match="already has a spectrum"):
        report_spectrum(trial, [-2.0], step=-1)
    assert len(calls) == 2


def test_what_cannot_be_stored_does_not_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = optuna.create_study().ask()

    def hiccup(*_: Any) -> Any:
        raise optuna.exceptions.StorageInternalError("database is locked")

    monkeypatch.setattr(trial.study._storage, "set_trial_system_attr", hiccup)
    with pytest.warns(AeLLEWarning, match="could not be stored.*database is locked"):
        report_spectrum(trial, [-1.0], step=0)
    with pytest.warns(AeLLEWarning, match="is left out"):
        report_spectrum(trial, torch.ones(3, requires_grad=True), step=1)
    with pytest.warns(AeLLEWarning, match="is left out"):
        report_spectrum(trial, object(), step=2)
