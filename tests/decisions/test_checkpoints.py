"""What was stopped or killed goes on as if nothing had happened, once."""

from __future__ import annotations

import io
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.storages import RDBStorage
from optuna.storages import RetryFailedTrialCallback
from optuna.trial import TrialState

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import Checkpoints
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import report_spectrum
from optuna_aelle.decisions import checkpoints as checkpoints_module
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.continuation import continuations
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.continuation import is_given_up
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.cost import trained_steps
from tests.conftest import synthetic_spectrum

N_EPOCHS = 8
Objective = Callable[[optuna.Trial], float]


def make(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    return {
        "model": model,
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
        "generator": torch.Generator().manual_seed(seed),
    }


def train_epoch(states: dict[str, Any]) -> float:
    x = torch.randn(16, 3, generator=states["generator"])
    loss = (states["model"](x) - x.sum(dim=1, keepdim=True)).square().mean()
    states["optimizer"].zero_grad()
    loss.backward()
    states["optimizer"].step()
    states["schedule"].step()
    return float(loss)


def whole_curve() -> list[float]:
    states = make()
    return [train_epoch(states) for _ in range(N_EPOCHS)]


def training(
    checkpoints: Checkpoints, stop: Callable[[optuna.Trial, int], bool], epochs: list[int]
) -> Objective:
    """An objective that notes the epochs that it trains, and is stopped where ``stop`` says."""

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        states = make()
        loss = float("nan")
        for epoch in checkpoints.epochs(trial, N_EPOCHS, **states):
            loss = train_epoch(states)
            epochs.append(epoch)
            trial.report(loss, epoch)
            trial.study.pruner.stops = stop(trial, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    return objective


class Told(NopPruner):
    """Stops a trial where it is told to."""

    stops = False

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return self.stops


def told_study(**options: Any) -> optuna.Study:
    return optuna.create_study(pruner=Told(), **options)


def stop_at(last: int) -> Callable[[optuna.Trial, int], bool]:
    return lambda trial, epoch: epoch == last and trial.number == 0


def test_a_continuation_is_the_same_training(tmp_path: Path, storage: BaseStorage) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    study = told_study(storage=storage, sampler=RandomSampler(seed=0))
    epochs: list[int] = []
    trained = training(checkpoints, stop_at(2), epochs)

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 0:
            report_spectrum(
                trial, SimpleNamespace(exponents=-np.arange(1.0, 9.0), seconds=0.5), -1
            )
        return trained(trial)

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert epochs == list(range(N_EPOCHS))
    assert first.state == TrialState.PRUNED
    assert second.state == TrialState.COMPLETE
    assert list(second.intermediate_values.values()) == whole_curve()
    assert second.params == first.params
    assert origin_of(second) == 0
    assert origin_of(first) is None
    assert second.user_attrs["aelle:continues"] == "trial 0, from step 2"
    assert one_a_network(study.trials) == [second]
    # Trained once, counted once.
    assert trained_steps(study.trials) == [3, N_EPOCHS - 3]
    assert decode_spectra(second)[-1].tolist() == decode_spectra(first)[-1].tolist()
    assert [spectrum_seconds(trial) for trial in study.trials] == [0.5, 0.0]
    recorded = RecordedTrials.from_study(study)
    assert len(recorded) == 1
    assert recorded.trained_steps.tolist() == [N_EPOCHS]


def test_the_latest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    study = told_study(study_name="a/b c", sampler=RandomSampler(seed=0))
    study.optimize(training(checkpoints, stop_at(5), []), n_trials=1)
    saved = decode_checkpoints(study.trials[0])
    assert len(saved) <= 2
    assert saved[0].epoch == 5
    assert saved[0].reports == 6
    assert {s.artifact for s in saved} == set(os.listdir(tmp_path))
    model = make(seed=9)["model"]
    assert checkpoints.restore(study.trials[0], model=model) == 5
    states = make()
    for _ in range(6):
        train_epoch(states)
    assert torch.equal(model.weight, states["model"].weight)


def test_what_was_not_reported_is_not_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def objective(trial: optuna.Trial) -> float:
        states = make()
        for epoch in checkpoints.epochs(trial, N_EPOCHS, **states):
            loss = train_epoch(states)
            if epoch == 2:
                raise KeyError("in the middle of an epoch")
            trial.report(loss, epoch)
        return 0.0

    study = told_study()
    study.optimize(objective, n_trials=1, catch=(KeyError,))
    assert decode_checkpoints(study.trials[0])[0].epoch < 2


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints_module, "_SHARE", math.inf)  # so that every epoch is saved
    checkpoints = Checkpoints(tmp_path)
    study = told_study()
    epochs: list[int] = []

    def stopped(trial: optuna.Trial, epoch: int) -> bool:
        return epoch == 2 and trial.number == 0

    objective = training(checkpoints, stopped, epochs)
    study.optimize(objective, n_trials=1)
    saved = decode_checkpoints(study.trials[0])
    assert [s.epoch for s in saved] == [2, 1]
    path = tmp_path / saved[0].artifact
    path.write_bytes(path.read_bytes()[:100])
    enqueue_continuation(study, study.trials[0])
    with pytest.warns(AeLLEWarning, match="after epoch 2 cannot be used"):
        study.optimize(objective, n_trials=1)
    assert epochs[3:] == list(range(2, N_EPOCHS))
    assert study.trials[1].value == whole_curve()[-1]


@pytest.mark.parametrize("harm", ["gone", "damaged", "evil", "other states"])
def test_without_a_checkpoint_a_continuation_starts_anew(tmp_path: Path, harm: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    study = told_study()
    epochs: list[int] = []
    objective = training(checkpoints, stop_at(3), epochs)
    study.optimize(objective, n_trials=1)
    for path in tmp_path.iterdir():
        if harm == "gone":
            path.unlink()
        elif harm == "damaged":
            path.write_bytes(b"not a checkpoint")
        elif harm == "evil":
            path.write_bytes(pickle.dumps(_Evil()))
        else:
            torch.save({"states": {"model": torch.nn.Linear(7, 2).state_dict()}}, path)
    enqueue_continuation(study, study.trials[0])
    with pytest.warns(AeLLEWarning, match="cannot be used"):
        study.optimize(objective, n_trials=1)
    assert epochs[4:] == list(range(N_EPOCHS))
    assert study.trials[1].value == whole_curve()[-1]
    assert not (tmp_path / "evil").exists()


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


class Failing:
    """A store whose disk is full after so many writes; its streams cannot seek."""

    def __init__(self, n_writes: int = 10**9) -> None:
        self.files: dict[str, bytes] = {}
        self.n_left = n_writes

    def open_reader(self, artifact_id: str) -> Any:
        if artifact_id not in self.files:
            raise ArtifactNotFound(artifact_id)
        stream = io.BytesIO(self.files[artifact_id])
        stream.seekable = lambda: False  # type: ignore[method-assign]
        stream.seek = None  # type: ignore[assignment, method-assign]
        return stream

    def write(self, artifact_id: str, content_body: Any) -> None:
        content = content_body.read()
        self.n_left -= 1
        # A part is written, as of a disk that fills up.
        self.files[artifact_id] = content if self.n_left >= 0 else content[:50]
        if self.n_left < 0:
            raise OSError("no space left")

    def remove(self, artifact_id: str) -> None:
        if artifact_id not in self.files:
            raise ArtifactNotFound(artifact_id)
        del self.files[artifact_id]


def test_any_artifact_store_will_do() -> None:
    store = Failing()
    study = told_study()
    epochs: list[int] = []
    objective = training(Checkpoints(store), stop_at(4), epochs)
    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert epochs == list(range(N_EPOCHS))
    assert study.trials[1].value == whole_curve()[-1]


def test_a_full_disk_stops_nothing() -> None:
    store = Failing(n_writes=1)
    study = told_study()
    epochs: list[int] = []
    objective = training(Checkpoints(store), stop_at(4), epochs)
    with pytest.warns(AeLLEWarning, match="could not be saved") as record:
        study.optimize(objective, n_trials=1)
    assert len(record) == 1
    # Half of a file is listed nowhere.
    assert [s.epoch for s in decode_checkpoints(study.trials[0])] == [0]
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert epochs[5:] == list(range(1, N_EPOCHS))
    assert study.trials[1].value == whole_curve()[-1]


class _Odd:
    def state_dict(self) -> Any:
        return {"made of": _Evil()}

    def load_state_dict(self, state: Any) -> None:
        raise NotImplementedError


def test_what_could_not_be_read_back_is_told_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def objective(trial: optuna.Trial) -> float:
        for epoch in checkpoints.epochs(trial, 2, odd=_Odd()):
            trial.report(1.0, epoch)
        return 1.0

    study = told_study()
    with pytest.warns(AeLLEWarning, match="could not be saved after epoch 0"):
        study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.COMPLETE
    assert not decode_checkpoints(study.trials[0])
    assert not os.listdir(tmp_path)


def test_a_loop_that_is_not_left_at_once_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Whoever keeps the iterator has it ended by the garbage collector, at any moment."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    study = told_study(storage=f"sqlite:///{tmp_path / 'study.db'}")

    def objective(trial: optuna.Trial) -> float:
        states = make()
        epochs = checkpoints.epochs(trial, N_EPOCHS, **states)
        cycle: list[Any] = [epochs]
        cycle.append(cycle)
        for epoch in epochs:
            trial.report(train_epoch(states), epoch)
            trial.study.pruner.stops = epoch == 1
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.0

    study.optimize(objective, n_trials=8, gc_after_trial=True)
    assert all(decode_checkpoints(t)[0].epoch == 1 for t in study.trials)


def test_bad_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a folder or an artifact store"):
        Checkpoints(3)
    checkpoints = Checkpoints(tmp_path)
    trial = told_study().ask()
    with pytest.raises(ValueError, match="at least 1"):
        checkpoints.epochs(trial, 0, model=make()["model"])
    with pytest.raises(ValueError, match="model=..., optimizer=..."):
        checkpoints.epochs(trial, 3)
    with pytest.raises(TypeError, match="'step' something with state_dict"):
        checkpoints.epochs(trial, 3, step=7)
    fixed = optuna.trial.FixedTrial({})
    assert list(checkpoints.epochs(fixed, 3, model=make()["model"])) == [0, 1, 2]


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    class Slow(Failing):
        def write(self, artifact_id: str, content_body: Any) -> None:
            time.sleep(0.05)
            super().write(artifact_id, content_body)

    store = Slow()
    study = told_study()
    study.optimize(training(Checkpoints(store), stop_at(-1), []), n_trials=1)
    # Epochs of a millisecond: the first is saved, for lack of experience, and the last.
    assert [s.epoch for s in decode_checkpoints(study.trials[0])] == [N_EPOCHS - 1, 0]
    assert store.n_left == 10**9 - 2


def test_two_workers_go_on_with_one_trial_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    study = told_study()
    epochs: list[int] = []
    objective = training(checkpoints, stop_at(3), epochs)
    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=2)
    assert epochs == list(range(N_EPOCHS))
    assert [t.state for t in study.trials[1:]] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert is_given_up(study.trials[2])
    assert not is_given_up(study.trials[1])
    assert continuations(study.trials) == {0: 1}
    assert one_a_network(study.trials) == [study.trials[1]]


def test_one_that_is_given_up_holds_nobody_up(tmp_path: Path) -> None:
    """The one that went on in its place fails, and is tried again."""
    checkpoints = Checkpoints(tmp_path)
    study = told_study()
    epochs: list[int] = []
    study.optimize(training(checkpoints, stop_at(3), epochs), n_trials=1)
    enqueue_continuation(study, study.trials[0])
    enqueue_continuation(study, study.trials[0])
    lost = study.ask()
    study.optimize(training(checkpoints, stop_at(-1), epochs), n_trials=1)
    assert is_given_up(study.trials[2])
    study.tell(lost, state=TrialState.FAIL)
    assert [t.state for t in study.trials[1:]] == [TrialState.FAIL, TrialState.PRUNED]
    RetryFailedTrialCallback(inherit_intermediate_values=True)(study, study.trials[1])
    study.optimize(training(checkpoints, stop_at(-1), epochs), n_trials=1)
    assert study.trials[3].state == TrialState.COMPLETE
    assert epochs == list(range(N_EPOCHS))


KILLED = """
import sys, time
import optuna
from optuna_aelle import Checkpoints
from tests.decisions.test_checkpoints import Told, training

storage = optuna.storages.RDBStorage(sys.argv[1], heartbeat_interval=1)
study = optuna.load_study(study_name="killed", storage=storage, pruner=Told())

def slow(trial, epoch):
    print(epoch, flush=True)
    time.sleep(60 if epoch == 4 else 0.3)
    return False

study.optimize(training(Checkpoints(sys.argv[2]), slow, []), n_trials=1)
"""


@pytest.mark.parametrize("inherits", [True, False])
def test_a_killed_worker_s_trial_goes_on(tmp_path: Path, inherits: bool) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = RDBStorage(
        url,
        heartbeat_interval=1,
        grace_period=2,
        failed_trial_callback=RetryFailedTrialCallback(inherit_intermediate_values=inherits),
    )
    study = told_study(study_name="killed", storage=storage)
    folder = tmp_path / "checkpoints"
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, url, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    while worker.stdout.readline().strip() != "4":
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    time.sleep(3)
    epochs: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of its experimental heartbeat
        study.optimize(training(Checkpoints(folder), stop_at(-1), epochs), n_trials=1)
    # The one that was killed within had reported, but was not yet saved; a busy machine may have
    # left out more.
    assert 1 <= epochs[0] <= 4
    assert epochs == list(range(epochs[0], N_EPOCHS))
    retried = study.trials[-1]
    assert retried.state == TrialState.COMPLETE
    assert list(retried.intermediate_values.values()) == whole_curve()


def quality(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0.0, 1.0)


def deceptive(checkpoints: Checkpoints, spent: list[int]) -> Objective:
    """Losses fall from 1 to 1 − quality; the spectrum tells it; early losses mislead."""

    def objective(trial: optuna.Trial) -> float:
        good = quality(trial)
        rng = np.random.default_rng(int(1e6 * good))
        if not decode_spectra(trial):
            report_spectrum(trial, synthetic_spectrum(good, rng), -1)
        if trial.should_prune():
            raise optuna.TrialPruned
        value = 1.0
        for epoch in checkpoints.epochs(trial, 16, model=torch.nn.Linear(1, 1)):
            spent.append(trial.number)
            value = 1.0 - good * (1.0 - 0.7 ** (epoch + 1))
            if epoch < 2:
                value = 1.0 + 0.3 * rng.uniform()
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    return objective


def test_a_search_stops_and_goes_on(tmp_path: Path, storage: BaseStorage) -> None:
    checkpoints = Checkpoints(tmp_path)
    spent: list[int] = []
    study = optuna.create_study(
        storage=storage, sampler=AeLLESampler(seed=1), pruner=AeLLEPruner()
    )
    study.optimize(
        deceptive(checkpoints, spent), n_trials=40, callbacks=[checkpoints.resume_promising]
    )
    trials = study.trials
    continued = continuations(trials)
    assert continued
    for number, further in continued.items():
        origin, continuation = trials[number], trials[further]
        assert origin.state == TrialState.PRUNED
        steps = continuation.intermediate_values
        assert steps.items() >= origin.intermediate_values.items()
        assert decode_spectra(continuation).keys() >= decode_spectra(origin).keys()
        assert continuation.params == origin.params
    # Nothing is trained twice, and nothing that has been continued is continued again.
    networks = one_a_network(trials)
    assert len(spent) == sum(len(t.intermediate_values) for t in networks)
    assert len(spent) == sum(n for t, n in zip(trials, trained_steps(trials), strict=True))
    assert len(set(continued.values())) == len(continued)
    assert any(t.state == TrialState.COMPLETE and origin_of(t) is not None for t in trials)


def test_whoever_stopped_them_the_promising_go_on(tmp_path: Path) -> None:
    """Without our sampler and pruner, a trial that stands above all that go on is resumed."""
    checkpoints = Checkpoints(tmp_path)
    study = told_study(sampler=RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        good = quality(trial)
        value = 1.0
        for epoch in checkpoints.epochs(trial, 16, model=torch.nn.Linear(1, 1)):
            value = 1.0 - good * (1.0 - 0.7 ** (epoch + 1))
            trial.report(value, epoch)
            study.pruner.stops = trial.number == 3 and epoch == 9  # by mistake
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    for good in (0.2, 0.3, 0.1, 0.95, 0.25):
        study.enqueue_trial({"x": good})
    study.optimize(objective, n_trials=6, callbacks=[checkpoints.resume_promising])
    assert origin_of(study.trials[5]) == 3
    assert study.best_trial.number == 5


def test_the_median_pruner_and_several_threads(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=2))
    spent: list[int] = []
    study.optimize(
        deceptive(checkpoints, spent),
        n_trials=24,
        n_jobs=4,
        callbacks=[checkpoints.resume_promising],
    )
    assert {t.state for t in study.trials} <= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.WAITING,
    }
    begun = [t for t in study.trials if t.state != TrialState.WAITING]
    origins = [origin_of(t) for t in begun if origin_of(t) is not None and not is_given_up(t)]
    assert len(origins) == len(set(origins))


def test_what_fails_here_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hiccup(*args: Any) -> Any:
        raise RuntimeError("database is locked")

    monkeypatch.setattr("optuna_aelle.decisions.resumption.enqueue_continuation", hiccup)
    checkpoints = Checkpoints(tmp_path)
    study = optuna.create_study(sampler=AeLLESampler(seed=1), pruner=AeLLEPruner())
    with pytest.warns(AeLLEWarning, match="nothing could be resumed") as record:
        study.optimize(
            deceptive(checkpoints, []), n_trials=25, callbacks=[checkpoints.resume_promising]
        )
    assert len(record) == 1
    assert len(study.trials) == 25


def test_studies_with_several_objectives_are_left_alone() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.optimize(lambda trial: (1.0, 2.0), n_trials=2, callbacks=[resume_promising])
    assert len(study.trials) == 2


def test_what_is_trained_and_not_saved_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
    trial = optuna.create_study().ask()
    with pytest.warns(AeLLEWarning, match="2 of the 4 parameters that 'optimizer' trains"):
        checkpoints.epochs(trial, 3, body=body, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoints.epochs(trial, 3, body=body, head=head, optimizer=optimizer)
