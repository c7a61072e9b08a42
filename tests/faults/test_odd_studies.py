"""Attributes damaged by hand, odd values and clocks, and a storage that hiccups."""

from __future__ import annotations

import datetime
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import PerformancePredictor
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.diagnosis import Finding
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.trials.cost import trained_steps
from optuna_aelle.trials.storage import write_study_system_attribute
from optuna_aelle.trials.storage import write_system_attributes
from tests.conftest import run_synthetic
from tests.conftest import synthetic_spectrum


@contextmanager
def at_most_one_of_a_kind() -> Iterator[list[str]]:
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told += [str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)]
    kinds = [text.split(": ")[0].split("(")[0] for text in told]
    assert len(kinds) == len(set(kinds)), told


def findings(study: optuna.Study, subject: str) -> list[Finding]:
    return [finding for finding in diagnose(study) if finding.subject == subject]


KEYS = [
    "aelle:spectrum:-1",
    "aelle:spectrum:3",
    "aelle:spectrum:x",
    "aelle:forecast:3",
    "aelle:verdict",
    "aelle:checkpoints",
    "aelle:continues",
    "aelle:fit_seconds",
    "retry_history",
]
JUNK: list[Any] = [
    7,
    "text",
    [],
    {},
    {"version": 10**30},
    {"version": "NaN"},
    {"version": 1, "trial": [1], "step": {}, "saved": 3, "n_epochs": -1, "seconds": "NaN"},
    {"version": 2, "exponents": ["NaN"] * 32, "n": 3, "after": 5},
    {"version": 2, "exponents": [10**400] * 32, "n": 10**30, "after": [[], {}]},
    {"version": 1, "saved": [{"epoch": 1, "reports": [], "artifact": "../x"}], "n_epochs": 9},
    [[[[[[{"a": [None]}]]]]]],
]


def test_damaged_attributes_change_no_other_trial(storage: BaseStorage) -> None:
    study = optuna.create_study(
        storage=storage, pruner=AeLLEPruner(), sampler=AeLLESampler(seed=0, n_candidates=8)
    )
    with at_most_one_of_a_kind():
        run_synthetic(study, 14, n_steps=6)
        for number, junk in enumerate(JUNK):
            trial = study.ask()
            trial.suggest_float("noise", 0.0, 1.0)
            report_spectrum(trial, synthetic_spectrum(0.5, np.random.default_rng(number)), -1)
            for step in range(4):
                trial.report(1.0 / (step + 1), step)
            write_system_attributes(
                study, trial, dict.fromkeys(KEYS[number % 2 :], junk) | {"failed_trial": junk}
            )
            # A live trial goes on with what somebody has written over it.
            trial.should_prune()
            study.tell(trial, 0.3)
        for name in ("3", "waits", "-9", "x"):
            write_study_system_attribute(study, f"aelle:speech:{name}", JUNK[number % 4])
        before = study.get_trials()
        run_synthetic(study, 6, n_steps=6)
        resume_promising(study, study.trials[-1])
        predictor_status(study)
        PerformancePredictor().fit(study.trials)
        RecordedTrials.from_study(study)
    for was, now in zip(before, study.get_trials(), strict=False):
        assert was == now
    assert all(t.state.is_finished() for t in study.trials)
    told = findings(study, "damaged attributes")
    assert {f.level for f in told} == {"problem"}
    said = " ".join(f.message for f in told)
    for kind in ("aelle:spectrum", "aelle:verdict", "aelle:checkpoints", "aelle:speech"):
        assert kind in said
    assert "trial 14" in said


def test_older_and_newer_schemas_are_told_apart() -> None:
    study = optuna.create_study(pruner=AeLLEPruner())
    run_synthetic(study, 14, n_steps=6)
    sound = len(decode_spectra(study.trials[0]))
    trial = study.ask()
    write_system_attributes(
        study,
        trial,
        {
            "aelle:spectrum:0": {"version": 1, "exponents": [0.0] * 32, "k": 32},
            "aelle:spectrum:1": {"version": 3, "points": []},
            "aelle:forecast:1": {"version": 2},
            "aelle:verdict": {"version": 2},
            "aelle:checkpoints": {"version": 2},
            "aelle:continues": {"version": 2},
            # As Optuna had it before there was a history.
            "failed_trial": 3,
        },
    )
    with at_most_one_of_a_kind() as told:
        trial.report(1.0, 0)
        assert not trial.should_prune()
        study.tell(trial, 1.0)
        assert decode_spectra(study.trials[-1]) == {}
        assert decode_verdict(study.trials[-1]) is None
        run_synthetic(study, 3, n_steps=6)
    assert any("Upgrade optuna-aelle" in text for text in told)
    assert len(decode_spectra(study.trials[0])) == sound
    newer = findings(study, "newer schema")
    assert len(newer) == 5
    assert all("trial 14" in finding.message for finding in newer)
    assert "version 1 held" in findings(study, "damaged attributes")[0].message
    assert "Trial 14 retried" in findings(study, "retried trials")[0].message


def test_odd_values_and_steps(storage: BaseStorage) -> None:
    study = optuna.create_study(
        storage=storage, pruner=AeLLEPruner(), sampler=AeLLESampler(seed=0)
    )
    odd = [math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0]

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        report_spectrum(trial, synthetic_spectrum(x, np.random.default_rng(trial.number)), -1)
        report_spectrum(trial, [math.nan], 0)
        order = [5, 0, 2, 2, 1, 3, 4] if trial.number % 3 == 0 else range(6)
        for step in order:
            value = (
                odd[(trial.number + step) % len(odd)] if trial.number % 2 else x + 1 / (1 + step)
            )
            trial.report(value, step)
            with pytest.raises(ValueError, match="negative"):
                trial.report(1.0, -3)
            if trial.should_prune():
                raise optuna.TrialPruned
        ends: list[Any] = [x, math.inf, None, math.nan]
        return ends[trial.number % 4]

    with at_most_one_of_a_kind():
        study.optimize(objective, n_trials=24, callbacks=[resume_promising])
        assert len(study.trials) == 24
        PerformancePredictor().fit(study.trials)
        RecordedTrials.from_study(study)
    assert {t.state for t in study.trials} >= {TrialState.COMPLETE, TrialState.FAIL}
    told = " ".join(finding.message for finding in findings(study, "values"))
    assert "reported NaN or an infinity" in told
    assert "ended in an infinity" in told
    if isinstance(storage, RDBStorage):
        # Its order is the database's own, and tells nothing.
        assert not findings(study, "steps")
    else:
        assert "out of order" in findings(study, "steps")[0].message


def test_few_reports_at_very_large_steps() -> None:
    study = optuna.create_study(pruner=AeLLEPruner(), sampler=AeLLESampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        for step in (10, 10**6, 2 * 10**6, 3 * 10**6, 10**9):
            trial.report(x + 1.0 / step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    started = time.process_time()
    with at_most_one_of_a_kind():
        study.optimize(objective, n_trials=30)
    assert len(study.trials) == 30
    assert max(trained_steps(study.trials)) == 10**9
    # A list of a billion would take longer, if it fitted at all.
    assert time.process_time() - started < 60.0


@pytest.mark.slow
def test_a_hundred_thousand_reports() -> None:
    """Not as fast as a short trial, but in proportion to what there is to read."""
    study = optuna.create_study(pruner=AeLLEPruner())
    run_synthetic(study, 14, n_steps=8)
    n = 100_000
    values = dict(zip(range(n), np.linspace(2.0, 1.0, n).tolist(), strict=True))
    for _ in range(2):
        study.add_trial(
            create_trial(
                value=1.0,
                params={"noise": 0.5},
                distributions={"noise": optuna.distributions.FloatDistribution(0.0, 1.0)},
                intermediate_values=values,
            )
        )

    trial = study.ask()
    trial.suggest_float("noise", 0.0, 1.0)
    started = time.process_time()
    with at_most_one_of_a_kind():
        for step in range(16):
            trial.report(1.0, step)
            trial.should_prune()
        study.tell(trial, 1.0)
        diagnose(study)
        assert trained_steps(study.trials)[-2] == n
    assert time.process_time() - started < 30.0


def test_clocks_that_go_wrong() -> None:
    study = optuna.create_study(pruner=AeLLEPruner(), sampler=AeLLESampler(seed=0))
    run_synthetic(study, 8, n_steps=6)
    now = datetime.datetime.now()
    for hours, duration in ((24 * 365, 1.0), (0, -3600.0), (-5, 1e6)):
        trial = create_trial(
            value=0.5,
            params={"noise": 0.5},
            distributions={"noise": optuna.distributions.FloatDistribution(0.0, 1.0)},
            intermediate_values={0: 0.6, 1: 0.5},
        )
        trial.datetime_start = now + datetime.timedelta(hours=hours)
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=duration)
        study.add_trial(trial)
    with at_most_one_of_a_kind():
        run_synthetic(study, 12, n_steps=6)
        recorded = RecordedTrials.from_study(study)
    assert np.all((recorded.step_seconds >= 0.0) | np.isnan(recorded.step_seconds))
    said = [finding.message for finding in findings(study, "clocks")]
    assert any(text.startswith("Trial 9 ended before") for text in said)
    assert any(text.startswith("Trial 8 began in the future") for text in said)


def test_a_trial_that_lost_its_worker_is_told_without_heartbeats() -> None:
    study = optuna.create_study()
    run_synthetic(study, 3, n_steps=2)
    study.ask()
    assert not findings(study, "lost workers")
    later = datetime.datetime.now() + datetime.timedelta(hours=3)
    told = [f for f in diagnose(study, now=later) if f.subject == "lost workers"]
    assert told[0].level == "problem"
    assert told[0].message.startswith("Trial 3 should be running")


def test_a_study_that_is_stopped_goes_on_later() -> None:
    study = optuna.create_study(pruner=AeLLEPruner(), sampler=AeLLESampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        report_spectrum(trial, synthetic_spectrum(x, np.random.default_rng(0)), -1)
        for step in range(4):
            trial.report(x, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        if trial.number == 6:
            trial.study.stop()
        return x

    def stop_early(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number == 6:
            study.stop()

    with at_most_one_of_a_kind():
        study.optimize(objective, n_trials=20, callbacks=[stop_early, resume_promising])
        assert len(study.trials) == 7
        ended = study.get_trials()
        study.optimize(objective, n_trials=13)
    assert study.get_trials()[:7] == ended
    assert all(trial.state.is_finished() for trial in study.trials)


OPERATIONS = [
    name
    for name in vars(BaseStorage)
    if name.startswith(("get_", "set_", "create_")) and name != "get_trial_param"
]


class Hiccups(InMemoryStorage):
    """Gone wherever it is told to be."""

    away = False


def _failing(name: str) -> Any:
    inner = getattr(InMemoryStorage, name)

    def operation(self: Hiccups, *args: Any, **kwargs: Any) -> Any:
        if self.away:
            raise StorageInternalError(f"{name} failed at {time.monotonic()}")
        return inner(self, *args, **kwargs)

    return operation


for _name in OPERATIONS:
    setattr(Hiccups, _name, _failing(_name))


class _Away:
    """Calls of ours during which the storage is away, two of three."""

    def __init__(self, storage: Hiccups) -> None:
        self.storage, self.n = storage, 0

    def __call__(self, call: Any, *args: Any) -> Any:
        self.n += 1
        self.storage.away = self.n % 3 != 0 and self.n > 40
        try:
            return call(*args)
        finally:
            self.storage.away = False


class AwayPruner(optuna.pruners.BasePruner):
    def __init__(self, away: _Away) -> None:
        self.inner, self.away = AeLLEPruner(), away

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return bool(self.away(self.inner.prune, study, trial))


class AwaySampler(WrappingSampler):
    def __init__(self, away: _Away, base: optuna.samplers.BaseSampler) -> None:
        super().__init__(base)
        for name in (
            "infer_relative_search_space",
            "sample_relative",
            "sample_independent",
            "before_trial",
            "after_trial",
        ):
            call = getattr(base, name)
            setattr(self, name, lambda *args, call=call: away(call, *args))


@pytest.mark.parametrize("base", [None, optuna.samplers.TPESampler(seed=0)])
def test_a_hiccup_is_told_once_under_any_storage(base: Any) -> None:
    storage = Hiccups()
    away = _Away(storage)
    sampler = AeLLESampler(base_sampler=base, seed=0, n_candidates=8 if base is None else 1)
    study = optuna.create_study(
        storage=storage, pruner=AwayPruner(away), sampler=AwaySampler(away, sampler)
    )

    def resume(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        away(resume_promising, study, trial)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        away(report_spectrum, trial, synthetic_spectrum(x, np.random.default_rng(0)), -1)
        for step in range(8):
            trial.report(x + (kind == "a") + 1.0 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x + (kind == "a")

    with at_most_one_of_a_kind() as told:
        study.optimize(objective, n_trials=40, callbacks=[resume])
    assert len(study.trials) == 40
    assert all(trial.state.is_finished() for trial in study.trials)
    assert told
