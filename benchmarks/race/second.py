"""What is a first study of a task worth to the second one, of another cell or space?

Of each task with two tables that are reported on, 40 random configurations of the one are a past
study, from which `Prior.learn` learns on top of a prior that has not seen the task; the race is
run over the other, and then the other way round. Beside it the same search without that study,
and TPE under successive halving.

    python -m benchmarks.race.second
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.race.__main__ import POOL_SHARE
from benchmarks.race.__main__ import SPECTRUM_EPOCHS
from benchmarks.race.forest import load
from benchmarks.race.priors import prior_without
from benchmarks.race.priors import task_of
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle import race
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import search_arms
from optuna_aelle.decisions.resumption import resume_promising
from studies.arguments import positive

N_PAST = 40
TRAININGS = 12
LEARNED, PEER = "AeLLE, own past study", "TPE, SHA η=2, min 1"


def pairs() -> list[tuple[str, str]]:
    """Past table and next table of the same task."""
    return [
        (first, second)
        for first in REPORT_TABLES
        for second in REPORT_TABLES
        if first != second and task_of(first) == task_of(second)
    ]


def run(first: str, second: str, repeat: int) -> pd.DataFrame:
    """One race; the rows of `optuna_aelle.race`, with both tables."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = prior_without(task_of(second))
        learned = Prior.learn([_past(load(first), repeat)], base)
        # The judge warns of priors that know the task: this one is meant to, from the other table.
        learned.tasks = base.tasks
        recorded = load(second)
        arms = search_arms(Steps.of(recorded))
        frame = race(
            recorded,
            {OURS: arms[OURS], LEARNED: partial(_learned, learned), PEER: arms[PEER]},
            budget=TRAININGS * int(max(recorded.trained_steps)),
            n_repeats=1,
            n_configs=round(POOL_SHARE * len(recorded)),
            seed=repeat,
            prior=base,
            spectrum_steps=SPECTRUM_EPOCHS,
        )
    frame["trainings"] = (frame["epochs"] / max(recorded.trained_steps)).round(6)
    return frame.assign(past=first, table=second, repeat=repeat)


def _past(recorded: RecordedTrials, repeat: int) -> RecordedTrials:
    chosen = np.random.default_rng([1, repeat]).permutation(len(recorded))[:N_PAST]
    return dataclasses.replace(
        recorded,
        trials=tuple(recorded.trials[i] for i in chosen),
        step_seconds=recorded.step_seconds[chosen],
        curves={},
    )


def _learned(prior: Prior) -> tuple[Any, ...]:
    return AeLLESampler(_recorded, prior=prior), AeLLEPruner(), resume_promising


def _recorded(params: dict[str, object]) -> None:
    """A race gives samplers the spectra that were recorded."""


def table(frame: pd.DataFrame) -> str:
    """Mean regrets, and how soon each arm has what the peer ends with, as Markdown."""
    lines = ["| | final 3 / 6 / 12 | seen 3 / 6 / 12 | trainings to the peer's final 3 / 6 / 12 |"]
    lines.append("|---|---|---|---|")
    means = frame.groupby(["arm", "trainings"])[["regret_final", "regret_seen"]].mean()
    for arm in (PEER, OURS, LEARNED):
        own = means.loc[arm]
        cells = [
            " / ".join(f"{own[measure].loc[float(t)]:.3f}" for t in (3, 6, 12))
            for measure in ("regret_final", "regret_seen")
        ]
        reached = []
        for t in (3, 6, 12):
            bar = means.loc[PEER]["regret_final"].loc[float(t)]
            there = own.index[own["regret_final"] <= bar + 5e-4]
            reached.append(f"{there[0]:.1f}" if len(there) else "—")
        lines.append(f"| {arm} | {cells[0]} | {cells[1]} | {' / '.join(reached)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Race and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race.second",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=positive, default=10)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="by default all")
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(given)
    chosen = [pair for pair in pairs() if not options.tasks or task_of(pair[0]) in options.tasks]
    if not chosen:
        parser.error(f"expected tasks with two tables, got {options.tasks}")
    jobs = [(*pair, repeat) for pair in chosen for repeat in range(options.repeats)]
    with ProcessPoolExecutor(options.workers) as pool:
        found = list(tqdm(pool.map(run, *zip(*jobs, strict=True)), total=len(jobs), unit="race"))
    frame = pd.concat(found, ignore_index=True)
    whole = frame[(frame["trainings"] * 3 - (frame["trainings"] * 3).round()).abs() < 1e-3]
    measures = ["regret_final", "regret_seen"]
    means = whole.groupby(["arm", "past", "table", "trainings"])[measures].mean().round(4)
    results = {
        "command": command_line("python -m benchmarks.race.second", given),
        "environment": describe_environment(),
        "n_past": N_PAST,
        "n_repeats": options.repeats,
        "rows": means.reset_index().to_dict("records"),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "second.json"
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
    print(table(whole))


if __name__ == "__main__":
    main()
