"""Trials that are trained in another process, which knows where they are stored and no more."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

import optuna_aelle as aelle
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.integration.attaching import TrialHandle
from tests.integration.asked import STOPPED
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import Stops


@pytest.mark.slow
def test_a_search_of_subprocesses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="asked", storage=url, sampler=RandomSampler(seed=0))
    # The last learns nothing, and stands behind the median of those before it.
    for rate in (0.05, 0.03, 0.02, 1e-6):
        study.enqueue_trial({"learning_rate": rate, "hidden_size": 8})
    for _ in range(4):
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-6, 0.1, log=True)
        trial.suggest_int("hidden_size", 2, 64)
        script = [sys.executable, "-W", "ignore", "-m", "tests.integration.asked"]
        done = subprocess.run([*script, url, "asked", str(trial.number)])
        assert done.returncode in (0, STOPPED)
        if done.returncode == STOPPED:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            values = study.trials[trial.number].intermediate_values
            study.tell(trial, values[N_EPOCHS - 1])
    trials = study.trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]
    assert [t.params["learning_rate"] for t in trials] == [0.05, 0.03, 0.02, 1e-6]
    assert list(aelle.decode_spectra(trials[0])) == [-1, *range(N_EPOCHS)]
    last = max(trials[3].intermediate_values)
    verdict = decode_verdict(trials[3])
    assert verdict is not None
    assert verdict.step == last
    assert trials[3].user_attrs["aelle:decision"]
    assert all("aelle:decision" not in t.user_attrs for t in trials[:3])
    assert study.best_trial.number < 3


class Counting(RandomSampler):
    """Says how often it was told that a trial begins."""

    begun = 0

    def before_trial(self, study: Any, trial: Any) -> None:
        self.begun += 1

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return {"x": 0.25}


def test_what_was_suggested_stays_and_the_rest_is_drawn(storage: BaseStorage) -> None:
    sampler = Counting(seed=0)
    study = optuna.create_study(storage=storage, sampler=sampler, pruner=Stops({0: 1}))
    asked = study.ask()
    x = asked.suggest_float("x", 0.0, 1.0)
    live = aelle.integration.attach(study, 0)
    assert sampler.begun == 1
    assert live.number == 0
    assert live.params == {"x": x}
    assert live.suggest_float("x", 0.0, 1.0) == x == 0.25
    y = live.suggest_float("y", 0.0, 1.0)
    assert study.trials[0].params == {"x": x, "y": y}
    live.report(3.0, 0)
    assert not live.should_prune()
    live.report(2.0, 1)
    assert live.should_prune()
    aelle.report_spectrum(live, [-0.1, -0.2], step=1)
    assert list(aelle.decode_spectra(asked)) == [1]
    study.tell(live.number, state=TrialState.PRUNED)
    assert study.trials[0].value == 2.0


def test_only_a_running_trial_can_be_attached_to() -> None:
    study = optuna.create_study()
    with pytest.raises(ValueError, match="one of the 0 trials of .* but got 0"):
        aelle.integration.attach(study, 0)
    study.enqueue_trial({})
    with pytest.raises(ValueError, match="but it is WAITING"):
        aelle.integration.attach(study, 0)
    study.optimize(lambda trial: 0.0, n_trials=1)
    with pytest.raises(ValueError, match="but it is COMPLETE"):
        aelle.integration.attach(study, 0)


def _report(handle: TrialHandle, value: float) -> None:
    handle.trial.report(value, int(value))
    os._exit(0 if handle.trial.number == 0 else 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_handle_is_carried_into_another_process(how: str, tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", pruner=aelle.AeLLEPruner()
    )
    handle = TrialHandle(study.ask())
    process = multiprocessing.get_context(how).Process(target=_report, args=(handle, 2.0))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    # The connection of the parent still works.
    handle.trial.report(3.0, 3)
    assert study.trials[0].intermediate_values == {2: 2.0, 3: 3.0}


def test_what_other_processes_cannot_reach_is_told() -> None:
    study = optuna.create_study(storage=InMemoryStorage())
    with pytest.raises(ValueError, match="kept in memory"):
        pickle.dumps(TrialHandle(study.ask()))
    fixed = pickle.loads(pickle.dumps(TrialHandle(optuna.trial.FixedTrial({"x": 1}))))
    assert fixed.trial.suggest_int("x", 0, 2) == 1
