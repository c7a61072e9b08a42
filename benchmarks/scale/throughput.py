"""How many trials a second do so many workers run on one database, and is everything there?"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import numpy as np
import optuna

from benchmarks.scale.arms import PATIENCE
from benchmarks.scale.arms import Cheap
from benchmarks.scale.arms import be_quiet
from benchmarks.scale.arms import fresh_study
from benchmarks.scale.arms import next_result
from benchmarks.scale.arms import open_storage
from benchmarks.scale.arms import parts_of
from benchmarks.scale.arms import peak_mib
from benchmarks.scale.audit import audit

# Studies of unequal length are compared over their first trials.
N_FIRST = 120


def run_workers(
    where: str, arm: str, n_workers: int, n_trials: int, same_work: bool = False
) -> dict[str, Any]:
    """One study by some workers, each a process of its own; and its audit.

    Args:
        where: As in `open_storage`.
        arm: Of `ARMS`.
        n_workers: Processes.
        n_trials: Of all of them together.
        same_work: Whether pruners are asked, but not obeyed, so that all arms report as much.
    """
    shares = [n_trials // n_workers + (i < n_trials % n_workers) for i in range(n_workers)]
    context = multiprocessing.get_context("spawn")
    with fresh_study(where) as name:
        ready, results = context.Barrier(n_workers), context.Queue()
        workers = [
            context.Process(
                target=_work,
                args=(where, name, arm, i, share, same_work, ready, results),
                daemon=True,
            )
            for i, share in enumerate(shares)
        ]
        for worker in workers:
            worker.start()
        found = [next_result(results, workers) for _ in workers]
        for worker in workers:
            worker.join()
        seconds = max(f["ended"] for f in found) - min(f["began"] for f in found)
        storage = open_storage(where)
        study = optuna.load_study(study_name=name, storage=storage)
        notes = [note for f in found for note in f["notes"]]
        # Who is not obeyed contradicts himself.
        checked = {} if same_work else audit(study, notes, n_trials)
        ends = np.array([end for f in found for end in f["ends"]])
    # Seconds after which so many trials had ended, for the growth of costs with the study.
    curve = np.sort(ends - min(f["began"] for f in found))
    first = min(n_trials, N_FIRST)
    n_reports = sum(len(note.values) for note in notes)
    return {
        "seconds": round(seconds, 3),
        "trials_per_second": round(n_trials / seconds, 3),
        "reports_per_second": round(n_reports / seconds, 3),
        "first_per_second": round(first / float(curve[first - 1]), 3),
        "ended_after": [[i + 1, round(float(curve[i]), 2)] for i in _points(n_trials)],
        "reports": n_reports,
        "cpu_seconds": round(sum(f["cpu"] for f in found), 3),
        "largest_mib": max((f["mib"] for f in found if f["mib"]), default=None),
        "audit": checked,
    }


def _points(n_trials: int) -> list[int]:
    return sorted({round(x) for x in np.linspace(0, n_trials - 1, 41)})


def _work(
    where: str,
    name: str,
    arm: str,
    seed: int,
    n_trials: int,
    same_work: bool,
    ready: Any,
    results: Any,
) -> None:
    be_quiet()
    sampler, pruner = parts_of(arm, seed)
    study = optuna.load_study(
        study_name=name, storage=open_storage(where), sampler=sampler, pruner=pruner
    )
    # Of a study beside: what is loaded at the first trial is no matter of throughput.
    warm_sampler, warm_pruner = parts_of(arm, seed)
    optuna.create_study(sampler=warm_sampler, pruner=warm_pruner).optimize(Cheap(arm), n_trials=3)
    objective = Cheap(arm, same_work)
    ends: list[float] = []

    ready.wait(PATIENCE)
    began, cpu = time.time(), time.process_time()
    study.optimize(objective, n_trials, callbacks=[lambda *_: ends.append(time.time())])
    results.put(
        {
            "began": began,
            "ended": time.time(),
            "cpu": time.process_time() - cpu,
            "mib": peak_mib(),
            "notes": objective.notes,
            "ends": ends,
        }
    )
