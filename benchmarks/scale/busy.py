"""Threads of one process, on cores that others keep busy: who waits for whom?

Each trial trains as long as each other one, whatever its pruner says; so all that differs between
the arms is what they take themselves, and whom they keep waiting. Both run at once, and whoever is
first goes on until the other has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import torch
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler

import optuna_aelle as aelle
from benchmarks.scale.arms import ARMS
from benchmarks.scale.arms import OURS
from benchmarks.scale.arms import PATIENCE
from benchmarks.scale.arms import PEER
from benchmarks.scale.arms import be_quiet
from benchmarks.scale.arms import next_result

_PROBE = torch.randn(40, 4, 8, generator=torch.Generator().manual_seed(0))
_INPUTS = torch.randn(60, 32, 8, generator=torch.Generator().manual_seed(1))


# Ends with whoever has started it.
_COUNT = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """As many processes that only count."""
    counting = [subprocess.Popen([sys.executable, "-c", _COUNT]) for _ in range(n)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def build(params: dict[str, Any]) -> torch.nn.GRU:
    """The untrained network of a configuration."""
    return torch.nn.GRU(8, params["hidden_size"])


def _run(
    arm: str, n_jobs: int, n_trials: int, n_epochs: int, ready: Any, over: Any, results: Any
) -> None:
    be_quiet()
    torch.set_num_threads(1)
    training: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        rnn = build({"hidden_size": trial.suggest_int("hidden_size", 32, 64)})
        # All sizes cost the same: the network that is trained is not the one that is searched.
        trained = torch.nn.GRU(8, 48)
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        optimizer = torch.optim.Adam(trained.parameters(), rate)
        if arm == OURS:
            aelle.report_network(trial, rnn, _PROBE, step=-1)
        loss = torch.tensor(0.0)
        for epoch in range(n_epochs):
            started = time.perf_counter()
            for _ in range(8):
                loss = (trained(_INPUTS)[0].mean(-1) - _INPUTS[..., 0]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            training.append(time.perf_counter() - started)
            trial.report(loss.item(), epoch)
            trial.should_prune()
        return loss.item()

    # What is imported and compiled at the first trial comes once on a machine.
    optuna.create_study(**_parts(arm, 1)).optimize(objective, n_trials=2)
    training.clear()
    study = optuna.create_study(**_parts(arm, 0))
    ready.wait(PATIENCE)
    wall, cpu = time.perf_counter(), time.process_time()
    study.optimize(objective, n_trials=n_trials, n_jobs=n_jobs)
    found = {
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "training_seconds": round(sum(training), 3),
        "trials": len(study.trials),
    }
    results.put((arm, found))
    # The other one is not to have more of the cores for coming in last.
    while not over.is_set():
        study.optimize(objective, n_trials=n_jobs, n_jobs=n_jobs)


def _parts(arm: str, seed: int) -> dict[str, Any]:
    if arm != OURS:
        return {"sampler": TPESampler(seed=seed), "pruner": MedianPruner()}

    def of_untrained(params: dict[str, Any]) -> Any:
        return aelle.spectral_fingerprint(build(params), _PROBE)

    sampler = aelle.AeLLESampler(of_untrained, seed=seed)
    return {"sampler": sampler, "pruner": aelle.AeLLEPruner()}


def repeated(n_jobs: int, n_trials: int, n_epochs: int, n_repeats: int) -> dict[str, Any]:
    """As `compared`, so many times; the run whose ratio is the median one, and all ratios."""
    runs = [compared(n_jobs, n_trials, n_epochs) for _ in range(n_repeats)]
    runs.sort(key=lambda run: run["ratio"])
    return {**runs[n_repeats // 2], "ratios": [run["ratio"] for run in runs]}


def compared(n_jobs: int, n_trials: int, n_epochs: int) -> dict[str, Any]:
    """Seconds of a study of each arm, both at once: whatever else the machine does hits both.

    Args:
        n_jobs: Trials at once.
        n_trials: Of each study.
        n_epochs: Of each trial.
    """
    context = multiprocessing.get_context("spawn")
    ready, over, results = context.Barrier(len(ARMS)), context.Event(), context.Queue()
    asked = n_jobs, n_trials, n_epochs, ready, over, results
    workers = [context.Process(target=_run, args=(arm, *asked), daemon=True) for arm in ARMS]
    with busy_cores(os.cpu_count() or 1):
        for worker in workers:
            worker.start()
        found: dict[str, Any] = dict(next_result(results, workers) for _ in workers)
        over.set()
        for worker in workers:
            worker.join()
    ratio = found[OURS]["seconds"] / found[PEER]["seconds"]
    return {arm: found[arm] for arm in ARMS} | {"ratio": round(ratio, 3)}
