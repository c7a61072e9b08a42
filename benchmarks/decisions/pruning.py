"""How much training does each pruner save, and what does it miss?

Every arm replays the same recorded configurations (`optuna_aelle.replay`) of the first tables of
`benchmarks/tables`, whose trainings are equally long: 60 of the 200, in another order each time,
and once more with TPE proposing them, alone or within `AeLLESampler`. Seconds for spectra, fits
and decisions count as epochs.
Settings were fixed on the development tables; the report is on the others, which hold no task of
the former. (That spectra help most in delayed recall was known from earlier prototypes of that
task.)

    python -m benchmarks.decisions.pruning                       # 25 minutes on two cores
    python -m benchmarks.decisions.pruning --quick               # what CI runs
    python -m benchmarks.decisions.pruning --tables digits-rnn recall-mixed --repeats 5
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
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
from optuna.exceptions import ExperimentalWarning
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.decisions.arms import SHUFFLED
from benchmarks.decisions.arms import all_arms
from benchmarks.decisions.arms import resuming_arms
from benchmarks.decisions.arms import sampler_arms
from benchmarks.decisions.figure import draw_all
from benchmarks.decisions.samplers import aelle_sampler
from benchmarks.decisions.samplers import tpe_sampler
from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.record.table import TABLES
from benchmarks.record.tables import FIRST_DEVELOPMENT_TABLES
from benchmarks.record.tables import FIRST_REPORT_TABLES
from optuna_aelle.backtest.arms import NONE
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.outcomes import measure_outcome
from optuna_aelle.backtest.replay import replay
from optuna_aelle.trials.table import RecordedTrials
from studies.arguments import positive

# Of the 200: two orders share 18 configurations on average, so repeats are nearly new studies.
N_TRIALS = 60
# The standard error of our means that is due to orders is then .003 of full training and .008 of
# regret; where TPE proposes, and a replay takes longer, .006 and .017.
N_REPEATS = 30
N_TPE_REPEATS = 10
# Before training and after these epochs, as in `studies`: spectra change fast at first, and each
# costs a part of an epoch.
SPECTRUM_EPOCHS = (-1, 3, 8, 21)
STREAMS = ("random", "tpe")
# In the stream that a sampler decides, only what is closest to the decision.
TPE_ARMS = (
    NONE,
    "Median",
    "SHA η=2, min 1",
    "SHA η=4, min 1",
    "Hyperband, min 1",
    OURS,
    *sampler_arms(),
)
QUICK_ARMS = (NONE, "Median", "SHA η=2, min 1", "Hyperband, min 1", OURS, SHUFFLED)


@dataclasses.dataclass(frozen=True)
class Job:
    """The repeats of one table, some of them."""

    table: Path
    seed: int
    n_repeats: int
    stream: str
    arms: tuple[str, ...] | None


def run(job: Job) -> pd.DataFrame:
    """All arms over a table; the columns of `replay`, with the table and the stream."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # One process a core: what a decision costs is measured, and threads would blur it.
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _run(job)


def _run(job: Job) -> pd.DataFrame:
    recorded = RecordedTrials.load(job.table)
    n_trials = min(N_TRIALS, len(recorded))
    arms = all_arms(Steps.of(recorded))
    arms = {n: f for n, f in arms.items() if job.arms is None or n in job.arms}
    settings: dict[str, Any] = {
        "n_trials": n_trials,
        "n_repeats": job.n_repeats,
        "seed": job.seed,
        "sampler": tpe_sampler if job.stream == "tpe" else None,
        "spectrum_steps": SPECTRUM_EPOCHS,
    }
    frames = []
    seeing = {name: arm for name, arm in arms.items() if name != SHUFFLED}
    if seeing:
        frames.append(replay(recorded, seeing, **settings))
    if SHUFFLED in arms:
        blind = shuffle_spectra(recorded, job.seed)
        frames.append(replay(blind, {SHUFFLED: arms[SHUFFLED]}, **settings))
    if job.stream == "tpe":
        proposed = {n: f for n, f in sampler_arms().items() if job.arms is None or n in job.arms}
        if proposed:
            settings["sampler"] = partial(aelle_sampler, recorded)
            frames.append(replay(recorded, proposed, **settings))
    if job.stream == "random" and job.arms is None:
        frames.append(_resuming(recorded, n_trials, job.n_repeats, job.seed))
    frame = pd.concat(frames, ignore_index=True)
    frame["repeat"] += 1000 * job.seed
    return frame.assign(table=recorded.name, stream=job.stream)


def shuffle_spectra(recorded: RecordedTrials, seed: int) -> RecordedTrials:
    """The same trials, each with the spectra of another one: what a learner makes of nothing."""
    order = np.random.default_rng([seed, 7]).permutation(len(recorded))
    trials = []
    for trial, other in zip(recorded.trials, order.tolist(), strict=True):
        changed = optuna.trial.create_trial(
            state=trial.state,
            value=trial.value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            system_attrs=recorded.trials[other].system_attrs,
        )
        changed.number = trial.number
        trials.append(changed)
    return dataclasses.replace(recorded, trials=tuple(trials))


def _resuming(recorded: RecordedTrials, n_trials: int, n_repeats: int, seed: int) -> pd.DataFrame:
    rows = []
    for repeat in range(n_repeats):
        order = np.random.default_rng([seed, repeat]).permutation(len(recorded)).tolist()
        indices = order[:n_trials]
        for name, arm in resuming_arms().items():
            costs, ended = arm.run(recorded, indices)
            finished = list(zip(costs, ended, strict=True))
            row = measure_outcome(recorded, indices, finished, spent=costs[-1])
            row["seconds_share"] = arm.seconds_share(recorded, indices, ended)
            rows.append({"pruner": name, "repeat": repeat, **row})
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay, write the results, draw the figures, print the table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    names = options.tables or (
        FIRST_DEVELOPMENT_TABLES if options.development else FIRST_REPORT_TABLES
    )
    missing = [name for name in names if not (TABLES / f"{name}.npz").exists()]
    if missing:
        print(f"Not recorded, left out: {', '.join(missing)}")
        names = [name for name in names if name not in missing]
    arms = QUICK_ARMS if options.quick else tuple(options.arms) if options.arms else None
    jobs = [
        Job(TABLES / f"{name}.npz", seed, options.chunk, stream, streams_arms)
        for name in names
        for stream, streams_arms in (("random", arms), ("tpe", arms or TPE_ARMS))
        if stream in options.streams
        for seed in range(
            math.ceil(
                (options.tpe_repeats if stream == "tpe" else options.repeats) / options.chunk
            )
        )
    ]
    with ProcessPoolExecutor(options.workers) as pool:
        frames = list(tqdm(pool.map(run, jobs), total=len(jobs), desc="replays"))
    frame = pd.concat(frames, ignore_index=True)
    results = {
        "command": command_line("python -m benchmarks.decisions.pruning", given),
        "environment": describe_environment(),
        "n_trials": N_TRIALS,
        "n_repeats": frame.groupby("stream")["repeat"].nunique().to_dict(),
        "development": options.development,
        "runs": _columns(frame),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    settings = (options.repeats, options.tpe_repeats, options.streams)
    usual = settings == (N_REPEATS, N_TPE_REPEATS, list(STREAMS))
    whole = usual and not (options.quick or options.tables or options.arms or missing)
    name = "pruning_development" if options.development else "pruning"
    path = options.output / f"{name if whole else 'pruning_partial'}.json"
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
    print(summary(frame).to_string())
    if whole:
        draw_all(path, options.output, name)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the repeats of a table, then over tables."""
    shown = [
        "epochs_share",
        "seconds_share",
        "overhead_share",
        "regret",
        "best_kept",
        "regret_at_10",
        "regret_at_20",
    ]
    shown += ["untrained_share", "coverage", "brier"]
    by_table = frame.groupby(["stream", "pruner", "table"], sort=False)[shown].mean()
    return by_table.groupby(level=["stream", "pruner"], sort=False).mean().round(4)


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Column by column, four digits, which JSON holds in a third of the space."""
    columns: dict[str, list[Any]] = {}
    for name in frame:
        values = frame[name].tolist()
        if frame[name].dtype.kind == "f":
            values = [None if math.isnan(x) else float(f"{x:.4g}") for x in values]
        columns[str(name)] = values
    return columns


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decisions.pruning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {*all_arms(Steps()), *sampler_arms()}
    parser.add_argument("--tables", nargs="+", help="names; by default all that are reported on")
    parser.add_argument("--development", action="store_true", help="those that designs come from")
    parser.add_argument("--arms", nargs="+", help="names; by default all")
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--repeats", type=positive, default=N_REPEATS)
    parser.add_argument("--tpe-repeats", type=positive, default=N_TPE_REPEATS)
    parser.add_argument("--chunk", type=positive, default=5, help="repeats of a process at a time")
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="few arms and repeats")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.arms or () if name not in known]
    if unknown:
        parser.error(f"argument --arms: expected some of {sorted(known)}, got {unknown}")
    unknown = [n for n in options.tables or () if not (TABLES / f"{n}.npz").exists()]
    if unknown:
        there = ", ".join(sorted(path.stem for path in TABLES.glob("*.npz")))
        parser.error(f"argument --tables: expected some of {there}, got {', '.join(unknown)}")
    if options.quick:
        options.repeats, options.streams = 5, ["random"]
    return options


if __name__ == "__main__":
    main()
