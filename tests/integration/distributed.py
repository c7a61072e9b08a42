"""A search whose networks are trained by two processes; run by `test_distributed`.

python -m tests.integration.distributed spawn|fork STORAGE FOLDER
python -m torch.distributed.run --nproc-per-node 2 -m tests.integration.distributed launched ...
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.distributed as dist

import optuna_aelle as aelle
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.integration.lightning_modules import Module
from tests.integration.lightning_modules import make_trainer
from tests.integration.searches import PROBE
from tests.integration.searches import Stops

# One is stopped after an epoch and then goes on; one before its training; one not at all.
N_TRIALS = 4
STOPS = {0: 1, 2: -1}


class Noting(Module):
    """Writes down which process trains which epoch."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__()
        self.folder, self.number = folder, number

    def on_train_epoch_start(self) -> None:
        name = f"{self.number}-{self.global_rank}-{self.current_epoch}"
        weights = sum(p.double().sum() for p in self.parameters())
        (self.folder / name).write_text(json.dumps(weights.item()))


def train(trial: Any, number: int, strategy: str, folder: Path) -> float:
    callback = aelle.integration.LightningCallback(
        trial, monitor="val_loss", probe=PROBE, checkpoints=aelle.Checkpoints(folder / "kept")
    )
    trainer = make_trainer(callback, strategy=strategy, devices=2)
    trainer.fit(Noting(folder, number))
    return float(trainer.callback_metrics["val_loss"])


def search(storage: str, objective: Any, n_trials: int = N_TRIALS) -> None:
    study = optuna.create_study(study_name="two", storage=storage, pruner=Stops(STOPS))
    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=n_trials - 1)


def main(how: str, storage: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if how != "launched":
        # Processes that are spawned take their time to begin: two trials show it.
        n_trials = 2 if how == "spawn" else N_TRIALS
        search(storage, lambda trial: train(trial, trial.number, f"ddp_{how}", folder), n_trials)
        return
    dist.init_process_group("gloo")
    first = int(os.environ["RANK"]) == 0

    def objective(trial: optuna.Trial | None) -> float:
        message = [trial.number if trial is not None else None]
        dist.broadcast_object_list(message)
        return train(trial, message[0], "ddp", folder)

    if first:
        search(storage, objective)
    else:
        for _ in range(N_TRIALS):
            with suppress(optuna.TrialPruned):
                objective(None)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
