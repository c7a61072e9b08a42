"""How long does a decision take, the more trials have ended, and how much memory?"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import numpy as np
import optuna

from benchmarks.scale.arms import OURS
from benchmarks.scale.arms import be_quiet
from benchmarks.scale.arms import curve
from benchmarks.scale.arms import fresh_study
from benchmarks.scale.arms import made
from benchmarks.scale.arms import next_result
from benchmarks.scale.arms import open_storage
from benchmarks.scale.arms import parts_of
from benchmarks.scale.arms import peak_mib
from benchmarks.scale.arms import spectrum
from benchmarks.scale.arms import suggested
from benchmarks.scale.arms import timed
from optuna_aelle import report_spectrum


def measure(where: str, arm: str, n_ended: int, n_decisions: int) -> dict[str, Any]:
    """Seconds of a sampler's and a pruner's decisions, in a process of their own.

    Args:
        where: As in `open_storage`.
        arm: Of `ARMS`.
        n_ended: Trials that have ended before.
        n_decisions: Trials that are asked for, trained and told after them, one after the other.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(
        target=_measure, args=(where, arm, n_ended, n_decisions, results), daemon=True
    )
    worker.start()
    found: dict[str, Any] = next_result(results, [worker])
    worker.join()
    return found


def _measure(where: str, arm: str, n_ended: int, n_decisions: int, results: Any) -> None:
    be_quiet()
    if where == "memory":
        study = optuna.create_study()
        results.put(_decide(study, arm, n_ended, n_decisions))
        return
    with fresh_study(where) as name:
        study = optuna.load_study(study_name=name, storage=open_storage(where))
        results.put(_decide(study, arm, n_ended, n_decisions))


def _decide(study: optuna.Study, arm: str, n_ended: int, n_decisions: int) -> dict[str, Any]:
    # What is loaded and compiled at the first trial belongs to no length of a study.
    beside = optuna.create_study()
    beside.sampler, beside.pruner = parts_of(arm, 1)
    for _ in range(3):
        _trial(beside, arm, {"ask": [], "prune": []})
    study.add_trials(made(n_ended, arm))
    study.sampler, study.pruner = parts_of(arm, 0)
    started = time.perf_counter()
    _trial(study, arm, {"ask": [], "prune": []})
    seconds = time.perf_counter() - started
    taken: dict[str, list[tuple[float, float]]] = {"ask": [], "prune": []}
    for _ in range(n_decisions):
        _trial(study, arm, taken)
    return {
        **{kind: _summary(times) for kind, times in taken.items()},
        "first_trial_seconds": round(seconds, 3),
        "mib": peak_mib(),
    }


def _trial(study: optuna.Study, arm: str, taken: dict[str, list[tuple[float, float]]]) -> None:
    def ask() -> tuple[optuna.Trial, dict[str, Any]]:
        trial = study.ask()
        return trial, suggested(trial)

    (trial, params), *seconds = timed(ask)
    taken["ask"].append((seconds[0], seconds[1]))
    if arm == OURS:
        report_spectrum(trial, spectrum(params), -1)
    losses = curve(params, trial.number)
    for step, loss in enumerate(losses):
        trial.report(loss, step)
        stop, *seconds = timed(trial.should_prune)
        taken["prune"].append((seconds[0], seconds[1]))
        if stop:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
    study.tell(trial, losses[-1])


def _summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, and how many."""
    wall, cpu = (1e3 * np.array(column) for column in zip(*times, strict=True))
    return {
        "median_ms": round(float(np.median(wall)), 3),
        "p99_ms": round(float(np.quantile(wall, 0.99)), 3),
        "median_cpu_ms": round(float(np.median(cpu)), 3),
        "p99_cpu_ms": round(float(np.quantile(cpu, 0.99)), 3),
        "n": len(wall),
    }
