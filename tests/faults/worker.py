"""One worker of a study, to be run as a process of its own: python -m tests.faults.worker ..."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

import numpy as np
import optuna

import optuna_aelle as aelle
from tests.conftest import synthetic_spectrum

N_STEPS = 6


def loss_of(x: float, step: int) -> float:
    return x + 1.0 / (step + 1)


def main(url: str, name: str, n_trials: int, pause: float) -> None:
    """Run ``n_trials`` trials and print what each has done, then the warnings."""
    warnings.simplefilter("always")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        study = optuna.load_study(
            study_name=name,
            storage=aelle.PatientStorage(url),
            sampler=optuna.samplers.RandomSampler(),
            pruner=aelle.AeLLEPruner(),
        )
        rng = np.random.default_rng()
        # Of the last trial, as its objective knows it, whatever the storage says of it.
        done: dict[str, Any] = {}

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0.0, 1.0)
            reported: dict[int, float] = {}
            done.update(number=trial.number, params={"x": x}, reported=reported, state="PRUNED")
            aelle.report_spectrum(trial, synthetic_spectrum(1.0 - x, rng), step=-1)
            for step in range(N_STEPS):
                time.sleep(pause)
                trial.report(loss_of(x, step), step)
                reported[step] = loss_of(x, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            done["state"] = "COMPLETE"
            return loss_of(x, N_STEPS - 1)

        def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            print(json.dumps(done), flush=True)

        print(json.dumps({"ready": os.getpid()}), flush=True)
        study.optimize(objective, n_trials=n_trials, callbacks=[tell])
    ours = [str(w.message) for w in caught if issubclass(w.category, aelle.AeLLEWarning)]
    print(json.dumps({"warnings": ours}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
