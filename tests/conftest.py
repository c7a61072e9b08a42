"""What all tests share: quiet logs, one seed, no warning of another test, small studies.

AELLE_TEST_SEED=1 runs them with other random numbers.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend

from optuna_aelle._warnings import forget_warnings
from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.storage import write_study_system_attribute

# What a shell runs in the background ignores interruptions, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    forget_warnings()
    seed = int(os.environ.get("AELLE_TEST_SEED", "0"))
    torch.manual_seed(seed)
    np.random.seed(seed)
    yield
    forget_warnings()


def skip_unless_required(reason: str) -> NoReturn:
    """Skip what this machine lacks; where everything must run, fail instead."""
    if os.environ.get("AELLE_REQUIRE_ALL"):
        pytest.fail(f"{reason}, and AELLE_REQUIRE_ALL is set")
    pytest.skip(reason)


@pytest.fixture(params=["memory", "sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    if request.param == "memory":
        return InMemoryStorage()
    if request.param == "sqlite":
        return RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    return JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))


def synthetic_spectrum(quality: float, rng: np.random.Generator) -> np.ndarray:
    """A spectrum whose decay tells how good the network will be, with sampling noise."""
    decay = 0.05 * math.exp(1.5 * (1.0 - quality))
    noise = 0.02 * rng.standard_normal()
    return -decay * np.arange(32.0) * (1.0 + noise) - 0.01


def run_synthetic(
    study: optuna.Study,
    n_trials: int,
    *,
    n_steps: int = 20,
    plateau: int = 0,
    spectra: Callable[[int], bool] = lambda number: True,
    seed: int = 0,
    n_jobs: int = 1,
) -> list[int]:
    """Optimise a made-up training whose quality one hidden parameter decides.

    Losses fall from 1 towards 1 − quality, after ``plateau`` steps of saying nothing. Only the
    spectrum sees the quality: the parameters on show are noise. Returns the steps of each trial.
    """
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
    spent: list[int] = []
    first = len(study.trials)
    for number in range(first, first + n_trials) if n_jobs == 1 else ():
        study.enqueue_trial({"noise": np.random.default_rng([seed, number, 1]).uniform()})

    def objective(trial: optuna.Trial) -> float:
        from optuna_aelle import report_spectrum

        trial.suggest_float("noise", 0.0, 1.0)
        rng = np.random.default_rng([seed, trial.number])
        quality = rng.uniform()
        loss = 1.0
        if spectra(trial.number):
            report_spectrum(trial, synthetic_spectrum(quality, rng), step=-1)
            if trial.should_prune():
                spent.append(0)
                raise optuna.TrialPruned
        for step in range(n_steps):
            progress = max(step + 1 - plateau, 0) / (n_steps - plateau)
            loss = 1.0 - quality * progress + 0.005 * rng.standard_normal()
            trial.report(sign * loss, step)
            if trial.should_prune():
                spent.append(step + 1)
                raise optuna.TrialPruned
        spent.append(n_steps)
        return sign * loss

    study.optimize(objective, n_trials=n_trials, n_jobs=n_jobs)
    return spent


def say(study: optuna.Study, moments: dict[int, str]) -> None:
    """Let the study hold what a pruner has said of its predictor at some steps."""
    for step, says in moments.items():
        write_study_system_attribute(study, f"aelle:speech:{step}", {"says": says, "lessons": 1})


def made_trials(
    n: int, *, direction: str = "minimize", seed: int = 0
) -> list[optuna.trial.FrozenTrial]:
    """Finished and pruned trials of a space where ``x`` and the spectrum decide the value."""
    rng = np.random.default_rng(seed)
    trials = []
    for i in range(n):
        x, quality = rng.uniform(), rng.uniform()
        final = 2.0 * x - quality + 0.05 * rng.standard_normal()
        sign = 1.0 if direction == "minimize" else -1.0
        n_steps = 8 if i % 3 == 0 else int(rng.integers(2, 8))
        finished = n_steps == 8
        trials.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE
                if finished
                else optuna.trial.TrialState.PRUNED,
                value=sign * final if finished else sign * (final + 1.0 / n_steps),
                params={"x": x, "cell": ["rnn", "gru"][i % 2]},
                distributions={
                    "x": optuna.distributions.FloatDistribution(0.0, 1.0),
                    "cell": optuna.distributions.CategoricalDistribution(["rnn", "gru"]),
                },
                intermediate_values={s: sign * (final + 1.0 / (s + 1)) for s in range(n_steps)},
                system_attrs=encode_spectrum(synthetic_spectrum(quality, rng), -1),
            )
        )
    return trials
