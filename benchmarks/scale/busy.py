"""Threads of one process, on cores that others keep busy: who waits for whom?

Each trial trains as long as each other one, whatever its pruner says; so all that differs between
the arms is what they take themselves, and whom they keep waiting.
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
from benchmarks.scale.arms import PEER
from benchmarks.scale.arms import be_quiet
from benchmarks.scale.arms import next_result

_PROBE = torch.randn(40, 4, 8, generator=torch.Generator().manual_seed(0))
_INPUTS = torch.randn(60, 32, 8, generator=torch.Generator().manual_seed(1))


@contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """As many processes that only count."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def build(params: dict[str, Any]) -> torch.nn.GRU:
    """The same weights for the same size, whatever the process has drawn before."""
    return torch.nn.GRU(8, params["hidden_size"])


def _run(arm: str, n_jobs: int, n_trials: int, n_epochs: int, ready: Any, results: Any) -> None:
    be_quiet()
    torch.set_num_threads(1)
    training = 0.0

    def objective(trial: optuna.Trial) -> float:
        nonlocal training
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
            training += time.perf_counter() - started
            trial.report(loss.item(), epoch)
            trial.should_prune()
        return loss.item()

    sampler: Any = TPESampler(seed=0)
    pruner: Any = MedianPruner()
    if arm == OURS:
        sampler = aelle.AeLLESampler(
            lambda params: aelle.spectral_fingerprint(build(params), _PROBE), seed=0
        )
        pruner = aelle.AeLLEPruner()
        # Once on a machine.
        aelle.spectral_fingerprint(build({"hidden_size": 32}), _PROBE)
        warm = optuna.create_study(sampler=aelle.AeLLESampler(seed=1), pruner=aelle.AeLLEPruner())
        warm.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=3)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    ready.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    study.optimize(objective, n_trials=n_trials, n_jobs=n_jobs)
    found = {
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "training_seconds": round(training, 3),
        "trials": len(study.trials),
    }
    results.put((arm, found))


def compared(n_jobs: int, n_trials: int, n_epochs: int) -> dict[str, Any]:
    """Seconds of a study of each arm, both at once: whatever else the machine does hits both.

    Args:
        n_jobs: Trials at once.
        n_trials: Of each study.
        n_epochs: Of each trial.
    """
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(len(ARMS)), context.Queue()
    workers = [
        context.Process(target=_run, args=(arm, n_jobs, n_trials, n_epochs, ready, results))
        for arm in ARMS
    ]
    with busy_cores(os.cpu_count() or 1):
        for worker in workers:
            worker.start()
        found: dict[str, Any] = dict(next_result(results, workers) for _ in workers)
        for worker in workers:
            worker.join()
    ratio = found[OURS]["seconds"] / found[PEER]["seconds"]
    return {arm: found[arm] for arm in ARMS} | {"ratio": round(ratio, 3)}
