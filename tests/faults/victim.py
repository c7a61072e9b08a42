"""A worker that says where it is and waits there to be killed, as a process of its own."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from optuna.storages import RetryFailedTrialCallback

import optuna_aelle as aelle
from optuna_aelle import _files
from optuna_aelle.decisions import checkpoints as checkpoints_module
from optuna_aelle.trials import attributes
from tests.conftest import synthetic_spectrum

N_EPOCHS = 5
# As many have ended before anything happens.
N_BEFORE = 13


def storage_of(url: str) -> RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of its experimental heartbeat
        return RDBStorage(
            url,
            heartbeat_interval=1,
            grace_period=2,
            failed_trial_callback=RetryFailedTrialCallback(),
        )


def own_spectrum(number: int) -> np.ndarray:
    """That of one trial, and of no other."""
    return synthetic_spectrum(0.5, np.random.default_rng(0)) - 0.001 * number


def run(url: str, folder: Path, n_trials: int, at: Callable[[optuna.Trial, int], None]) -> None:
    """Trials whose curve depends on the training alone, which may go on from a checkpoint."""
    study = optuna.load_study(
        study_name="killed",
        storage=storage_of(url),
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=aelle.AeLLEPruner(),
    )
    checkpoints = aelle.Checkpoints(folder)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        aelle.report_spectrum(trial, own_spectrum(trial.number), step=-1)
        value = x
        for epoch in checkpoints.epochs(trial, N_EPOCHS, model=model, optimizer=optimizer):
            at(trial, epoch)
            loss = (model(torch.ones(4, 3)) - 1.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = x + loss.item()
            trial.report(value, epoch)
            # What it says is of no interest here: each is to be trained to its end.
            trial.should_prune()
        return value

    # However fast it is trained, each epoch is saved.
    share, checkpoints_module._SHARE = checkpoints_module._SHARE, 1e9
    try:
        study.optimize(objective, n_trials=n_trials)
    finally:
        checkpoints_module._SHARE = share


def wait_here(*_: Any, **__: Any) -> None:
    print("here", flush=True)
    time.sleep(120)


def wait_after(holder: Any, name: str, when: Callable[..., bool]) -> None:
    """Let a function do its work, once it matters, and wait before it returns."""
    inner = getattr(holder, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        found = inner(*args, **kwargs)
        if when(*args, **kwargs):
            wait_here()
        return found

    setattr(holder, name, outer)


def main(moment: str, url: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    last = N_BEFORE - 1

    def is_last(*_: Any) -> bool:
        return len(optuna.load_study(study_name="killed", storage=url).trials) == N_BEFORE

    def at(trial: optuna.Trial, epoch: int) -> None:
        if moment == "trial" and trial.number == last and epoch == 3:
            wait_here()
        if moment == "refit" and trial.number == last and epoch == 0:
            wait_after(aelle.PerformancePredictor, "fit", lambda *_, **__: True)

    if moment == "attribute":
        # The spectrum is written, what shows it to people is not.
        wait_after(attributes, "write_system_attributes", lambda study, trial, _: is_last())
    elif moment == "artifact":
        write = FileSystemArtifactStore.write

        def half(self: Any, artifact_id: str, content: Any) -> None:
            if f"-trial-{last}-epoch-3" in artifact_id:
                path = folder / artifact_id
                path.write_bytes(content.read()[:100])
                wait_here()
            write(self, artifact_id, content)

        FileSystemArtifactStore.write = half  # type: ignore[method-assign]
    elif moment in ("before listing", "after listing"):
        listing = checkpoints_module.write_system_attributes

        def listed(study: Any, trial: Any, payload: dict[str, Any]) -> None:
            saved = payload.get("aelle:checkpoints", {}).get("saved") or [{"epoch": -1}]
            here = trial.number == last and saved[0]["epoch"] == 3
            if here and moment == "before listing":
                wait_here()
            listing(study, trial, payload)
            if here:
                wait_here()

        checkpoints_module.write_system_attributes = listed
    elif moment in ("table", "prior"):
        _files.os.replace = wait_here  # type: ignore[assignment]
        study = optuna.load_study(study_name="killed", storage=url)
        if moment == "table":
            aelle.RecordedTrials.from_study(study).save(folder / "saved.npz")
        else:
            aelle.Prior.learn([study]).save(folder / "saved.npz")
    run(url, folder, 1, at)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
