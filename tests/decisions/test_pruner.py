"""The pruner's decisions, its reasons, and its behaviour when things go wrong."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.pruners import BasePruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLEWarning
from optuna_aelle import report_network
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.moments import is_rung
from optuna_aelle.decisions.speech import SpeechRecord
from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.cache import _scheduled
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.attributes import fit_seconds
from tests.conftest import run_synthetic
from tests.conftest import synthetic_spectrum


def sha() -> SuccessiveHalvingPruner:
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)


def study_with(pruner: Any, direction: str = "minimize", storage: Any = None) -> optuna.Study:
    return optuna.create_study(
        direction=direction,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=pruner,
    )


@pytest.mark.parametrize(
    ("direction", "plateau", "share"),
    [("minimize", 0, 0.65), ("maximize", 0, 0.65), ("minimize", 2, 0.9)],
)
def test_spectra_save_training_that_losses_cannot_save(
    direction: str, plateau: int, share: float
) -> None:
    """The untrained spectrum tells the end, so most hopeless trials need not even begin."""
    spent, found = {}, {}
    for name, pruner in (("aelle", AeLLEPruner()), ("sha", sha())):
        study = study_with(pruner, direction)
        spent[name] = sum(run_synthetic(study, 120, plateau=plateau))
        found[name] = abs(study.best_value)
    assert spent["aelle"] < share * spent["sha"]
    qualities = [np.random.default_rng([0, i]).uniform() for i in range(120)]
    assert found["aelle"] <= found["sha"] + 0.02
    assert found["aelle"] < 1.0 - np.quantile(qualities, 0.95)


def test_every_prune_leaves_its_reason(storage: BaseStorage) -> None:
    study = study_with(AeLLEPruner(), storage=storage)
    run_synthetic(study, 50, plateau=2)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned
    verdicts = [decode_verdict(t) for t in pruned]
    by_forecast = [v for v in verdicts if v is not None and v.by == AELLE]
    by_halving = [v for v in verdicts if v is not None and v.by == "SuccessiveHalvingPruner"]
    assert len(by_forecast) + len(by_halving) == len(pruned)
    for t, verdict in zip(pruned, verdicts, strict=True):
        assert verdict is not None
        assert t.user_attrs[DECISION_KEY] == verdict.sentence()
        assert verdict.step == (-1 if t.last_step is None else t.last_step)
    untrained = [v for v in by_forecast if v.step == -1]
    assert untrained
    for verdict in untrained:
        forecast = verdict.forecast
        assert forecast is not None
        assert forecast.chance < verdict.risk == 0.05
        # One scale: with so small a chance, the bar lies beyond the interval.
        assert forecast.percentile_interval[1] < 0.8
        assert verdict.sentence().startswith("before training: AeLLE gives a chance of ")
        assert verdict.sentence().endswith("spectrum")
    for verdict in by_halving:
        assert verdict.value is not None
        assert verdict.bar is not None
        assert verdict.rank is not None
        assert verdict.n_compared is not None
        assert 1 <= verdict.rank <= verdict.n_compared
        assert verdict.value > verdict.bar
        assert f"place {verdict.rank} of {verdict.n_compared}" in verdict.sentence()
    for t in study.get_trials(states=(TrialState.COMPLETE,)):
        assert DECISION_KEY not in t.user_attrs
    for t in study.trials:
        if decode_forecasts(t):
            assert math.isfinite(t.user_attrs["aelle:predicted_final"])
            assert fit_seconds(t) > 0.0


def test_without_skill_the_predictor_hardly_speaks() -> None:
    """Spectra and parameters of pure noise: the predictor must not pretend to know."""
    n_trials, n_studies, pruned_untrained = 40, 6, 0
    for seed in range(n_studies):
        study = study_with(AeLLEPruner())

        def objective(trial: optuna.Trial, seed: int = seed) -> float:
            trial.suggest_float("noise", 0.0, 1.0)
            rng = np.random.default_rng([seed, trial.number])
            report_spectrum(trial, synthetic_spectrum(rng.uniform(), rng), -1)
            final = rng.uniform()
            for step in range(6):
                if trial.should_prune():
                    raise optuna.TrialPruned
                trial.report(final + 0.1 * rng.standard_normal(), step)
            return float(final)

        study.optimize(objective, n_trials=n_trials)
        pruned_untrained += sum(
            t.state == TrialState.PRUNED and t.last_step is None for t in study.trials
        )
    assert pruned_untrained < 0.1 * n_trials * n_studies


def test_calibration_trials_are_never_pruned() -> None:
    study = study_with(AeLLEPruner(calibration_interval=10))
    run_synthetic(study, 60, plateau=5)
    for trial in study.trials[::10]:
        assert trial.state == TrialState.COMPLETE
    assert sum(t.state == TrialState.PRUNED for t in study.trials) > 30


def test_the_rung_floor_protects_the_top_third() -> None:
    study = study_with(AeLLEPruner(NopPruner(), risk=0.5, calibration_interval=0))
    run_synthetic(study, 80, spectra=lambda number: False, n_steps=16)
    floors = 0
    for trial in study.get_trials(states=(TrialState.PRUNED,)):
        n = len(trial.intermediate_values)
        assert n in (4, 6, 8, 12, 16)
        own = trial.intermediate_values[n - 1]
        peers = [
            t.intermediate_values[n - 1]
            for t in study.trials
            if len(t.intermediate_values) >= n and t.number < trial.number
        ]
        assert sum(value < own for value in peers) >= (len(peers) + 1) // 3
        floors += 1
    assert floors > 10


def test_curve_alone_and_some_trials_without_spectra() -> None:
    alone = study_with(AeLLEPruner())
    run_synthetic(alone, 60, spectra=lambda number: False)
    assert sum(t.state == TrialState.PRUNED for t in alone.trials) > 30
    mixed = study_with(AeLLEPruner())
    run_synthetic(mixed, 60, spectra=lambda number: number % 3 != 0)
    untrained = [t for t in mixed.trials if t.state == TrialState.PRUNED and t.last_step is None]
    assert untrained
    assert all(t.number % 3 != 0 for t in untrained)


@pytest.mark.parametrize("stop", [20, 37])
def test_a_resumed_study_decides_as_one_that_never_stopped(stop: int, tmp_path: Any) -> None:
    straight = study_with(AeLLEPruner())
    run_synthetic(straight, 50, plateau=2)
    url = f"sqlite:///{tmp_path / 'resumed.db'}"
    first = optuna.create_study(storage=url, study_name="s", pruner=AeLLEPruner())
    run_synthetic(first, stop, plateau=2)
    again = optuna.load_study(storage=url, study_name="s", pruner=AeLLEPruner())
    run_synthetic(again, 50 - stop, plateau=2)
    for a, b in zip(straight.trials, again.trials, strict=True):
        assert a.state == b.state
        assert a.intermediate_values == b.intermediate_values


def test_n_jobs_and_another_wrapped_pruner(tmp_path: Any) -> None:
    study = study_with(AeLLEPruner(MedianPruner()), storage=f"sqlite:///{tmp_path / 'n.db'}")
    run_synthetic(study, 48, plateau=4, n_jobs=4)
    states = [t.state for t in study.trials]
    assert len(states) == 48
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}


def test_an_objective_that_raises_midway_loses_nothing() -> None:
    study = study_with(AeLLEPruner())
    run_synthetic(study, 30)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("noise", 0.0, 1.0)
        trial.report(0.5, 0)
        trial.should_prune()
        raise RuntimeError("out of memory")

    study.optimize(objective, n_trials=3, catch=(RuntimeError,))
    run_synthetic(study, 30)
    assert [t.state for t in study.trials[30:33]] == [TrialState.FAIL] * 3
    assert all(t.state != TrialState.FAIL for t in study.trials[33:])


def test_a_trial_that_reports_nan_is_left_to_the_wrapped_pruner() -> None:
    study = study_with(AeLLEPruner(NopPruner(), calibration_interval=0))
    run_synthetic(study, 40)
    trial = study.ask()
    trial.suggest_float("noise", 0.0, 1.0)
    for step in range(8):
        trial.report(math.nan, step)
        assert not trial.should_prune()
    study.tell(trial, state=TrialState.FAIL)
    run_synthetic(study, 20)
    assert all(t.state != TrialState.FAIL for t in study.trials[41:])


def test_first_trial_and_all_failed_are_kept() -> None:
    study = study_with(AeLLEPruner())
    for _ in range(15):
        study.tell(study.ask(), state=TrialState.FAIL)
    run_synthetic(study, 1)
    assert study.trials[-1].state == TrialState.COMPLETE


def test_a_storage_hiccup_does_not_stop_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_with(AeLLEPruner())
    run_synthetic(study, 20, plateau=4)
    real = study._storage.set_trial_system_attr

    def hiccup(trial_id: int, key: str, value: Any) -> None:
        if key.startswith(("aelle:forecast", "aelle:verdict")):
            raise OSError("database is locked")
        real(trial_id, key, value)

    monkeypatch.setattr(study._storage, "set_trial_system_attr", hiccup)
    with pytest.warns(AeLLEWarning, match="could not be stored.*its decision stands"):
        run_synthetic(study, 30, plateau=4)
    assert sum(t.state == TrialState.PRUNED for t in study.trials[20:]) > 10


def test_a_broken_predictor_leaves_the_decision_to_the_wrapped_pruner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: Any) -> Any:
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr("optuna_aelle.prediction.fitted.fit_evidence", broken)
    study, plain = study_with(AeLLEPruner(sha())), study_with(sha())
    with pytest.warns(AeLLEWarning, match="predictor failed.*singular") as caught:
        run_synthetic(study, 40)
    assert len(caught) == 1
    run_synthetic(plain, 40)
    assert [t.intermediate_values for t in study.trials] == [
        t.intermediate_values for t in plain.trials
    ]


def test_multi_objective_studies_get_a_clear_message() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], pruner=AeLLEPruner())
    study.ask()
    with pytest.raises(ValueError, match="multi-objective study with 2 directions"):
        study.pruner.prune(study, study.trials[0])


def test_pickling_keeps_the_settings_and_drops_the_cache() -> None:
    pruner = AeLLEPruner(MedianPruner(), n_startup_trials=9, risk=0.05)
    study = study_with(pruner)
    run_synthetic(study, 30)
    twin = pickle.loads(pickle.dumps(pruner))
    assert twin._risk == 0.05
    assert isinstance(twin._wrapped_pruner, MedianPruner)
    other = study_with(twin)
    run_synthetic(other, 30)
    assert [t.state for t in other.trials] == [t.state for t in study.trials]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_startup_trials": 3}, "n_startup_trials must be at least 4, but got 3"),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be nonnegative"),
        ({"risk": 0.6}, r"risk must be in \[0, 0.5\]"),
        ({"calibration_interval": -1}, "calibration_interval must be nonnegative"),
        ({"features": ("loss",)}, "features must be some of"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AeLLEPruner(**options)
    with pytest.raises(TypeError, match="wrapped_pruner must be an optuna pruner"):
        AeLLEPruner("median")  # type: ignore[arg-type]


def test_warmup_keeps_predictions_back() -> None:
    study = study_with(AeLLEPruner(NopPruner(), n_warmup_steps=5, calibration_interval=0))
    run_synthetic(study, 60)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned
    assert all(t.last_step is not None and t.last_step >= 5 for t in pruned)


def test_schedules() -> None:
    assert [n for n in range(1, 40) if is_rung(n)] == [4, 6, 8, 12, 16, 24, 32]
    assert [_scheduled(n, 12) for n in (11, 12, 17, 18, 26, 27, 41)] == [0, 12, 12, 18, 18, 27, 41]


def test_a_wrapped_pruner_that_fails_abstains() -> None:
    class Broken(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            raise RuntimeError("a race of its own")

    study = study_with(AeLLEPruner(Broken()))
    with pytest.warns(AeLLEWarning, match="Broken failed on trial .*race of its own.*abstains"):
        run_synthetic(study, 3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3


def test_what_cannot_be_read_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_with(AeLLEPruner(sha()))
    run_synthetic(study, 10)

    def hiccup(*_: Any) -> bool:
        raise optuna.exceptions.StorageInternalError("database is locked")

    monkeypatch.setattr("optuna_aelle.decisions.pruner.only_failures_before", hiccup)
    with pytest.warns(AeLLEWarning, match="could not be read .*locked.* it is kept"):
        run_synthetic(study, 20)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials[10:])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_retried_trial_is_judged_anew(storage: BaseStorage) -> None:
    """Its worker died after the verdict; the retry inherits the attributes, not the verdict."""

    class WhereLossIsHigh(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.intermediate_values[trial.last_step or 0] > 2.0

    study = study_with(AeLLEPruner(WhereLossIsHigh(), calibration_interval=0), storage=storage)
    study.tell(study.ask(), 1.0)

    def verdicts(*losses: float) -> list[bool]:
        trial = study.ask()
        told = []
        for step, loss in enumerate(losses):
            trial.report(loss, step)
            told += [trial.should_prune(), trial.should_prune()]
        return told

    def fail() -> None:
        study.tell(study.trials[-1].number, state=TrialState.FAIL)
        optuna.storages.RetryFailedTrialCallback()(study, study.trials[-1])

    assert verdicts(1.0, 5.0) == [False, False, True, True]
    said = "step 1: WhereLossIsHigh: 5 is place 1 of 1"
    assert study.trials[-1].user_attrs[DECISION_KEY] == said
    fail()
    assert verdicts(1.0, 5.0) == [False, False, True, True]
    said = "step 1: WhereLossIsHigh: 5 is place 1 of 2"
    assert study.trials[-1].user_attrs[DECISION_KEY] == said
    fail()
    assert verdicts(1.0, 1.0, 1.0) == [False] * 6
    assert study.trials[-1].user_attrs[DECISION_KEY] is None
    assert decode_verdict(study.trials[-1]) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_retried_trial_pays_for_its_own_predictions_only() -> None:
    study = study_with(AeLLEPruner(calibration_interval=0))
    run_synthetic(study, 40)
    rng = np.random.default_rng(0)

    def begin() -> optuna.trial.FrozenTrial:
        trial = study.ask()
        trial.suggest_float("noise", 0.0, 1.0)
        report_spectrum(trial, synthetic_spectrum(0.9, rng), -1)
        trial.should_prune()
        return study.trials[-1]

    failed = begin()
    assert list(decode_forecasts(failed)) == [-1]
    charged = {"seconds": 1e6, "trial": failed.number}
    study._storage.set_trial_system_attr(failed._trial_id, "aelle:fit_seconds", charged)
    study.tell(failed.number, state=TrialState.FAIL)
    optuna.storages.RetryFailedTrialCallback()(study, study.trials[-1])
    assert 0.0 < fit_seconds(begin()) < 1e3


def test_rungs_count_reports_whatever_steps_count() -> None:
    """Decisions after 1, 2, 4 ... reports, whether steps are epochs or batches."""

    def reports_of(pruner: BasePruner, spacing: int) -> list[int]:
        study = study_with(pruner)
        spent: list[int] = []

        def objective(trial: optuna.Trial) -> float:
            quality = float(np.random.default_rng(trial.number).uniform())
            for i in range(1, 9):
                # By more than the noise of a curve, which here is none.
                trial.report(quality, i * spacing)
                if trial.should_prune():
                    spent.append(i)
                    raise optuna.TrialPruned
            spent.append(8)
            return quality

        study.optimize(objective, n_trials=11)
        return spent

    by_epoch = reports_of(AeLLEPruner(), 1)
    assert by_epoch == reports_of(AeLLEPruner(), 100)
    assert by_epoch == reports_of(SuccessiveHalvingPruner(1, 2), 1)
    assert len(set(by_epoch)) > 2


def test_a_study_without_any_spectra_is_told_once() -> None:
    study = study_with(AeLLEPruner())
    with pytest.warns(AeLLEWarning, match="has a spectrum.*report_network") as caught:
        run_synthetic(study, 60, spectra=lambda number: False)
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        quiet = study_with(AeLLEPruner(features=("curve", "params")))
        run_synthetic(quiet, 60, spectra=lambda number: False)


def test_the_study_says_where_the_predictor_speaks_and_why_not_elsewhere() -> None:
    study = study_with(AeLLEPruner())
    run_synthetic(study, 5, plateau=2)
    assert predictor_status(study) == "waits until 12 trials have ended with a value"
    run_synthetic(study, 45, plateau=2)
    status = predictor_status(study)
    assert status is not None
    assert status.startswith("before training: speaks (rank correlation ")
    assert "waits" not in status
    silent = study_with(AeLLEPruner(NopPruner()))

    def noise(trial: optuna.Trial) -> float:
        rng = np.random.default_rng([7, trial.number])
        report_spectrum(trial, synthetic_spectrum(rng.uniform(), rng), -1)
        trial.should_prune()
        return float(rng.uniform())

    silent.optimize(noise, n_trials=20)
    status = predictor_status(silent)
    assert status is not None
    assert "not yet better than chance (rank correlation " in status


def test_every_cause_of_a_missing_spectrum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = optuna.create_study().ask()
    messages = iter(["shape (3, 4)", "shape (5, 6)", "weights are NaN"])

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(next(messages))

    monkeypatch.setattr("optuna_aelle.lyapunov.spectral_fingerprint", broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            report_network(trial, torch.nn.GRU(1, 4), torch.zeros(64, 4, 1), step)
    said = [str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)]
    assert [text.rpartition(": ")[2] for text in said] == ["shape (3, 4)", "weights are NaN"]


def test_workers_do_not_erase_what_others_said_of_the_predictor(storage: BaseStorage) -> None:
    study = optuna.create_study(storage=storage)
    first, second = SpeechRecord(), SpeechRecord()
    first.waits(study, 3, 12)
    first.has_skill(study, -1, Skill(30.0, 0.8, 0.0))
    first.lacks_lessons(study, 4, 2, 6)
    second.has_skill(study, -1, Skill(30.0, 0.1, 0.0))
    status = predictor_status(study)
    assert status is not None
    assert status.startswith("before training: silent, its predictions are not yet better than")
    assert status.endswith("from step 4 on: silent, too few trials went further (2, it needs 6)")
    assert study.user_attrs["aelle:predictor"] == status
    for step in range(5, 100):
        second.lacks_lessons(study, step, 1, 6)
    assert predictor_status(study) == status
    for step in range(4, 100):
        second.has_skill(study, step, Skill(30.0, 0.8, 0.9))
    assert predictor_status(study).count("step ") == 7  # type: ignore[union-attr]


def test_an_enqueued_trial_is_no_trial_before() -> None:
    study = study_with(AeLLEPruner())
    for x in (0.1, 0.2):
        study.enqueue_trial({"noise": x})
    trial = study.ask()
    for step in range(6):
        trial.report(1.0, step)
        assert not trial.should_prune()


def test_close_values_are_told_apart() -> None:
    told = Verdict("SuccessiveHalvingPruner", 1, value=1.04561, bar=1.04558, rank=2, n_compared=2)
    assert told.sentence() == (
        "step 1: SuccessiveHalvingPruner: 1.04561 is place 2 of 2; 1.04558 would have gone on"
    )


def test_forgotten_spectra_are_told_of_where_trials_report_too_seldom_to_be_forecast() -> None:
    study = study_with(AeLLEPruner())
    with pytest.warns(AeLLEWarning, match="has a spectrum.*report_network") as caught:
        run_synthetic(study, 20, spectra=lambda number: False, n_steps=3)
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1
