"""Who finds the small networks that err little, for equal epochs of training?

Objectives are the error and the number of weights. Of each repeat all arms are given the same
random four fifths of a table; what is measured is the hypervolume of the finished trials, as a
share of that of the pool's own Pareto front, where trainings worth 6, 12 and 24 whole ones are
spent. Priors are learned without the task at hand, and kept in ``cache/priors``: the first run
takes some minutes longer.

    python -m benchmarks.multi_objective                  # ten minutes on one core
    python -m benchmarks.multi_objective --development    # where settings were chosen
    python -m benchmarks.multi_objective --quick          # what the tests run
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.multi_objective.figure import draw
from benchmarks.multi_objective.searches import arms
from benchmarks.multi_objective.searches import hypervolume
from benchmarks.multi_objective.searches import losses_of
from benchmarks.multi_objective.searches import search
from benchmarks.multi_objective.searches import sizes_of
from benchmarks.race.forest import load
from benchmarks.race.priors import prior_without
from benchmarks.race.priors import task_of
from optuna_aelle import Prior
from optuna_aelle.backtest.pool import Pool
from studies.arguments import positive

# No task is in both.
DEVELOPMENT = ("digits-mixed", "lorenz-gru")
REPORT = ("fashion-mixed", "charlm-lstm", "sines-rnn")
POOL_SHARE = 0.8
BUDGETS = (6, 12, 24)
N_REPEATS = 10
# Spectra change fast at first, and each costs a part of an epoch.
SPECTRUM_EPOCHS = (-1, 3, 8, 21)


def run(
    table: str, repeat: int, names: Sequence[str], *, without_task: bool
) -> list[dict[str, Any]]:
    """All arms over one pool: a row an arm."""
    recorded = load(table)
    sizes, losses = sizes_of(recorded), losses_of(recorded)
    n_configs = round(POOL_SHARE * len(recorded))
    indices = np.random.default_rng(repeat).permutation(len(recorded))[:n_configs].tolist()
    longest = int(max(recorded.trained_steps))
    whole = hypervolume(losses[indices])
    rows = []
    for name in names:
        prior = prior_without(task_of(table)) if without_task and "AeLLE" in name else Prior()
        pool = Pool(
            recorded,
            indices,
            # Epochs alone are counted: seconds are told beside them.
            budget=math.inf,
            prior=prior,
            spectrum_steps=SPECTRUM_EPOCHS,
        )
        started = time.process_time()
        ended = search(recorded, pool, sizes, arms()[name], repeat, BUDGETS[-1] * longest)
        reached = {}
        for trainings in range(1, BUDGETS[-1] + 1):
            found = [indices[p] for epochs, p in ended if epochs <= trainings * longest]
            reached[str(trainings)] = round(hypervolume(losses[found]) / whole, 4)
        rows.append(
            {
                "table": table,
                "repeat": repeat,
                "arm": name,
                "share": reached,
                "started": sum(bool(pool.steps(p)) for p in range(len(pool))),
                "finished": len(ended),
                "seconds": round(time.process_time() - started, 2),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, write the results, draw the figure, print the means."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    tables = DEVELOPMENT if options.development else REPORT
    jobs = [(t, r) for t in tables for r in range(options.repeats)]
    if options.quick:
        jobs = jobs[:1]
    rows = []
    with threadpool_limits(1):
        for table, repeat in tqdm(jobs, desc="searches", unit="pool"):
            rows += run(table, repeat, options.arms, without_task=not options.quick)
    results = {
        "command": command_line("python -m benchmarks.multi_objective", given),
        "environment": describe_environment(),
        "pool_share": POOL_SHARE,
        "budgets": list(BUDGETS),
        "rows": rows,
    }
    name = "multi_objective"
    name += "_development" if options.development else "_partial" if options.quick else ""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{name}.json"
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
    print(draw(path))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.multi_objective",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arms", nargs="+", choices=[*arms()], default=[*arms()], metavar="ARM")
    parser.add_argument("--repeats", type=positive, default=N_REPEATS)
    parser.add_argument("--development", action="store_true", help="tables of the settings")
    parser.add_argument("--quick", action="store_true", help="one pool, without priors")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
