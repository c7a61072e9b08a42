"""``kill -9`` wherever it hurts: the study goes on, and nothing that had ended changes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.trials.continuation import decode_checkpoints
from tests.faults.processes import line_of
from tests.faults.processes import started
from tests.faults.victim import N_BEFORE
from tests.faults.victim import N_EPOCHS
from tests.faults.victim import own_spectrum
from tests.faults.victim import run
from tests.faults.victim import storage_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def kill_when_there(moment: str, url: str, folder: Path) -> None:
    with started("tests.faults.victim", moment, url, str(folder)) as (victim,):
        assert line_of(victim) == "here\n"
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(30) == -signal.SIGKILL


@pytest.fixture
def before(tmp_path: Path) -> tuple[str, Path, optuna.Study]:
    """A study on a file, of which all trials but one have ended."""
    url, folder = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "checkpoints"
    study = optuna.create_study(study_name="killed", storage=url)
    run(url, folder, N_BEFORE - 1, lambda trial, epoch: None)
    return url, folder, study


MOMENTS = ["trial", "attribute", "artifact", "before listing", "after listing", "refit"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_worker(moment: str, before: tuple[str, Path, optuna.Study]) -> None:
    url, folder, study = before
    ended = study.get_trials()
    assert [t.state for t in ended] == [TrialState.COMPLETE] * (N_BEFORE - 1)
    kill_when_there(moment, url, folder)
    killed = study.get_trials()[-1]
    assert killed.number == N_BEFORE - 1
    assert killed.state == TrialState.RUNNING
    time.sleep(3.1)
    watched = optuna.load_study(study_name="killed", storage=storage_of(url))
    (lost,) = (f for f in diagnose(watched) if f.subject == "lost workers")
    assert lost.message.startswith(f"Trial {killed.number} ")
    # What it names is there, in whatever version of Optuna.
    assert hasattr(optuna.storages, re.findall(r"Retry\w+", lost.advice)[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epochs: list[int] = []
        run(url, folder, 2, lambda trial, epoch: epochs.append(epoch))
    ours = [str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)]
    assert len(ours) == len({text.split(" ")[0] for text in ours})
    trials = study.get_trials()
    for was, now in zip(ended, trials, strict=False):
        assert (was.values, was.params, was.intermediate_values, was.system_attrs) == (
            now.values,
            now.params,
            now.intermediate_values,
            now.system_attrs,
        )
    assert [t.state for t in trials[N_BEFORE - 1 :]] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    retried = trials[N_BEFORE]
    assert retried.params == killed.params
    assert retried.system_attrs["failed_trial"] == killed.number
    # Its curve is that of an undisturbed training, whatever it began from.
    whole = [v - ended[0].params["x"] for v in ended[0].intermediate_values.values()]
    curve = np.array(list(retried.intermediate_values.values())) - retried.params["x"]
    np.testing.assert_allclose(curve, whole, rtol=1e-5)
    assert list(retried.intermediate_values) == list(range(N_EPOCHS))
    # It went on from the last epoch that was saved and listed.
    first = {"refit": 3, "artifact": 3, "before listing": 3, "trial": 3, "after listing": 4}
    assert epochs[:-N_EPOCHS] == list(range(first.get(moment, 0), N_EPOCHS))
    # It told its own spectrum before it went on; that of the lost attempt is not taken for it.
    spectrum = decode_spectra(retried)[-1]
    np.testing.assert_allclose(spectrum, own_spectrum(retried.number), atol=2e-4)
    verdict = decode_verdict(retried)
    assert verdict is None or verdict.step in retried.intermediate_values
    # The retry has taken over what the lost attempt had saved, and cleared it away since.
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    listed = {s.artifact for t in finished for s in decode_checkpoints(t)}
    assert listed <= set(os.listdir(folder))
    told = {finding.subject: finding for finding in diagnose(study)}
    assert f"Trial {killed.number} failed" in told["failed trials"].message
    assert f"Trial {retried.number} retried" in told["retried trials"].message
    assert not [finding for finding in told.values() if finding.level == "problem"]


@pytest.mark.parametrize("moment", ["table", "prior"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_is_killed(
    moment: str, exists: bool, before: tuple[str, Path, optuna.Study]
) -> None:
    url, folder, study = before
    path = folder / "saved.npz"
    load = RecordedTrials.load if moment == "table" else Prior.load
    if exists:
        kept = RecordedTrials.from_study(study) if moment == "table" else Prior.learn([study])
        kept.save(path)
        old = path.read_bytes()
    kill_when_there(moment, url, folder)
    assert path.exists() == exists
    if exists:
        assert path.read_bytes() == old
        load(path)


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupt_is_a_failed_trial_and_no_more(
    again: bool, before: tuple[str, Path, optuna.Study]
) -> None:
    url, folder, study = before
    ended = study.get_trials()
    arguments = ("trial", url, str(folder))
    with started("tests.faults.victim", *arguments, stderr=subprocess.DEVNULL) as (victim,):
        assert line_of(victim) == "here\n"
        victim.send_signal(signal.SIGINT)
        if again:
            # Somebody who is impatient.
            time.sleep(0.05)
            victim.send_signal(signal.SIGINT)
        assert victim.wait(30) != 0
    last = study.get_trials()[-1]
    assert last.state == TrialState.FAIL or again
    if last.state == TrialState.RUNNING:
        time.sleep(3.1)
    run(url, folder, 2, lambda trial, epoch: None)
    trials = study.get_trials()
    assert [t.values for t in trials[: N_BEFORE - 1]] == [t.values for t in ended]
    assert [t.state for t in trials[N_BEFORE:]] == [TrialState.COMPLETE] * 2
    told = {finding.subject for finding in diagnose(study) if finding.level == "note"}
    assert "failed trials" in told
