"""Which search reaches the best network for an equal budget of training?

Every arm (`benchmarks.race.arms`) races over every table of `benchmarks/tables` that is reported
on (`optuna_aelle.backtest.race`): twelve whole trainings' worth of epochs, a random four fifths of
the table, the same for all arms. Settings were fixed on the development tables, which hold no task
of the others. Finished races are kept, so an interrupted run goes on where it stopped.

    python -m benchmarks.race                       # under an hour on two cores
    python -m benchmarks.race --everything          # every arm, every table, 20 repeats: a night
    python -m benchmarks.race --development         # every arm where settings were chosen: an hour
    python -m benchmarks.race --quick               # what CI runs
    python -m benchmarks.race --development --arms "ASHA η=3" AeLLE --repeats 4
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from optuna.exceptions import ExperimentalWarning
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.environment import PACKAGES
from benchmarks.environment import RESULTS
from benchmarks.environment import TABLES
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.race.arms import HOUR
from benchmarks.race.arms import QUICK
from benchmarks.race.arms import all_arms
from benchmarks.race.arms import chosen
from benchmarks.race.arms import needs_syne_tune
from benchmarks.race.arms import planned_arms
from benchmarks.race.arms import slow_arms
from benchmarks.race.figure import draw_all
from benchmarks.race.figure import summary_text
from benchmarks.race.forest import load
from benchmarks.race.priors import prior_without
from benchmarks.race.priors import task_of
from benchmarks.race.results import MEASURES
from benchmarks.race.results import merge
from benchmarks.race.results import pack
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.race import race
from optuna_aelle.backtest.race import run_arm
from studies.arguments import positive

KEPT = Path("cache/race")
# Budgets that are reported, in whole trainings.
TRAININGS = (3, 6, 12)
# Of a table, in a pool: another one for every repeat, and still more than any arm starts.
POOL_SHARE = 0.8
N_REPEATS, N_REPEATS_OF_EVERYTHING = 10, 20
# As in `benchmarks.decisions.pruning`: spectra change fast at first, and each costs a part of an
# epoch.
SPECTRUM_EPOCHS = (-1, 3, 8, 21, 55)
# One of each kind that takes long to load.
_WARMED = ("TPE, none", "GP, none", "CQR, ASHA η=3", "DyHPO", "freeze-thaw", "zero-shot, ASHA η=3")
# What the course of a race depends on.
_SOURCES = (
    *(f"optuna_aelle/{package}" for package in ("aelle", "backtest", "decisions")),
    *(f"optuna_aelle/{package}" for package in ("prediction", "trials")),
    "benchmarks/race",
)


@dataclass(frozen=True)
class Job:
    """One repeat of some arms over one table."""

    table: str
    repeat: int
    arms: tuple[str, ...] | None
    kept: Path

    @property
    def path(self) -> Path:
        """Where the result is kept: another place for other code, arms, tables or versions."""
        digest = hashlib.sha256("|".join(self.arms or ("all",)).encode())
        name = f"{self.table}-{self.repeat:02d}-{digest.hexdigest()[:8]}.csv.gz"
        return self.kept / code_version() / name


def run(job: Job) -> pd.DataFrame:
    """The rows of `race`, with the table; read where they have been made before."""
    if job.path.exists():
        return pd.read_csv(job.path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # One process a core: what a decision costs is measured, and threads would blur it.
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warm_up()
        frame = _run(job)
    if frame[list(MEASURES)].isna().any().any():
        # Not kept: what has failed is tried again.
        return frame
    job.path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a run may be stopped at any moment.
    unfinished = job.path.with_name(f"unfinished-{os.getpid()}.csv.gz")
    frame.to_csv(unfinished, index=False)
    unfinished.rename(job.path)
    return frame


def run_all(jobs: Sequence[Job]) -> list[pd.DataFrame]:
    """The repeats of one table."""
    return [run(job) for job in jobs]


def _run(job: Job) -> pd.DataFrame:
    recorded = load(job.table)
    longest = int(max(recorded.trained_steps))
    settings: dict[str, Any] = {
        "n_repeats": 1,
        "n_configs": round(POOL_SHARE * len(recorded)),
        "seed": job.repeat,
        "spectrum_steps": SPECTRUM_EPOCHS,
    }
    frames = []
    arms = chosen(job.arms, all_arms(recorded)) | chosen(job.arms or (), slow_arms())
    if OURS in arms:
        settings["prior"] = prior_without(task_of(job.table))
    if arms:
        frames.append(race(recorded, arms, budget=TRAININGS[-1] * longest, **settings))
    planned = chosen(job.arms, planned_arms())
    before = 0
    for trainings in TRAININGS if planned else ():
        frame = race(recorded, planned, budget=trainings * longest, **settings)
        frames.append(frame[frame["epochs"] > before * longest + 1e-9])
        before = trainings
    whole = pd.concat(frames, ignore_index=True)
    whole["trainings"] = (whole["epochs"] / longest).round(6)
    return whole.assign(table=job.table, repeat=job.repeat)


@cache
def code_version() -> str:
    """A hash of everything that decides how a race ends: code, tables, versions."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps([version(name) for name in PACKAGES]).encode())
    for source in _SOURCES:
        for file in sorted((root / source).rglob("*.py")):
            if file.name not in ("figure.py", "results.py"):
                digest.update(file.read_bytes())
    # All tables: what is raced over one, others have taught.
    for name in (*REPORT_TABLES, *DEVELOPMENT_TABLES):
        digest.update((TABLES / f"{name}.npz").read_bytes())
    return digest.hexdigest()[:12]


@cache
def warm_up() -> None:
    """Let every kind of arm run once for nothing: no race should pay for what is loaded."""
    recorded = load(DEVELOPMENT_TABLES[0])
    indices = range(min(len(recorded), 40))
    for name, factory in all_arms(recorded).items():
        if name in _WARMED:
            budget = 2 * int(max(recorded.trained_steps))
            run_arm(factory, Pool(recorded, indices, budget=budget), 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Race, write the results, draw the figures, print the means."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    # Of the development tables every arm is of interest: settings are chosen there.
    every = options.everything or options.development
    arms = tuple(options.arms) if options.arms else None if every else HOUR
    if options.quick:
        arms = QUICK
    if importlib.util.find_spec("syne_tune") is None:
        arms = tuple(_without_syne_tune(arms or _every_unasked()))
    # Reports and development apart: their means must not mix.
    sets = {"race": REPORT_TABLES, "race_development": DEVELOPMENT_TABLES}
    if options.tables or options.quick or options.arms:
        names = options.tables or (DEVELOPMENT_TABLES if options.development else REPORT_TABLES)
        sets = {"race_partial": tuple(names[:2] if options.quick else names)}
    elif not options.everything:
        kept = "race_development" if options.development else "race"
        sets = {kept: sets[kept]}
    # Table by table: what other tasks teach is learned once for all repeats of a table.
    jobs = [
        [Job(name, repeat, arms, options.cache) for repeat in range(options.repeats)]
        for names in sets.values()
        for name in names
    ]
    frames = []
    with ProcessPoolExecutor(options.workers) as pool:
        runs = [pool.submit(run_all, own) for own in jobs]
        for done in tqdm(as_completed(runs), total=len(runs), desc="races", unit="table"):
            frames += done.result()
    frame = pd.concat(frames, ignore_index=True)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, tables in sets.items():
        results = {
            "command": command_line("python -m benchmarks.race", given),
            "environment": describe_environment(),
            "pool_share": POOL_SHARE,
            **pack(frame[frame["table"].isin(tables)], TRAININGS),
        }
        path = options.output / f"{name}.json"
        if options.into is not None:
            path = options.into
            results = merge(json.loads(path.read_text()), results)
        path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
        draw_all(path)
        print(summary_text(path))


def _every_unasked() -> list[str]:
    return [*all_arms(load(REPORT_TABLES[0])), *planned_arms()]


def _every_name() -> list[str]:
    return [*_every_unasked(), *slow_arms()]


def _without_syne_tune(names: Sequence[str]) -> list[str]:
    missing = [name for name in names if needs_syne_tune(name)]
    if missing:
        print(
            f"Left out, since syne-tune is not installed (pip install -e .[race]): "
            f"{', '.join(missing)}"
        )
    return [name for name in names if name not in missing]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = [*REPORT_TABLES, *DEVELOPMENT_TABLES]
    parser.add_argument(
        "--tables", nargs="+", choices=every, metavar="TABLE", help="by default: reported on"
    )
    parser.add_argument("--development", action="store_true", help="those that designs come from")
    parser.add_argument("--arms", nargs="+", choices=_every_name(), metavar="ARM", help="names")
    parser.add_argument("--repeats", type=positive, help=f"{N_REPEATS} by default")
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--everything", action="store_true", help="all arms and tables: a night")
    parser.add_argument("--quick", action="store_true", help="few arms, tables and repeats")
    parser.add_argument("--cache", type=Path, default=KEPT, help="of finished races")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="results of the same pools to put the arms into"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.repeats is None:
        options.repeats = N_REPEATS_OF_EVERYTHING if options.everything else N_REPEATS
        if options.quick:
            options.repeats = 2
    return options


if __name__ == "__main__":
    main()
