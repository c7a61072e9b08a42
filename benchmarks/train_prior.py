"""Learn the prior that the package ships, from all recorded tables; how well does it rank?

Every table is also ranked by a prior that its whole task was left out of, in ``--evaluate``: rank
correlations with the final standings over all networks and within the better half, and how often
intervals of 80 % hold, before training and after 1, 3 and 8 reports; with everything, without
spectra, without names, without the curve. Networks are seen among all others of their table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState
from optuna.trial import create_trial
from scipy.stats import spearmanr
from tqdm import tqdm

import optuna_aelle.prediction
from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.race.forest import load
from benchmarks.race.priors import SETTINGS
from benchmarks.race.priors import every_lesson
from benchmarks.race.priors import prior_without
from benchmarks.race.priors import task_of
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.forecast import CENTRAL_80
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.training import Settings
from optuna_aelle.prediction.training import train_network
from optuna_aelle.prediction.traits import COLUMNS
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP

STUDIES_PRIORS = Path("studies") / "priors"
SHIPPED = Path(str(optuna_aelle.prediction.__file__)).parent / "pretrained.npz"
# What a prior is not told.
HIDDEN: dict[str, tuple[str, ...]] = {
    "everything": (),
    "no spectra": ("untrained", "latest"),
    "no names": ("knobs",),
    "no curve": ("curve",),
}
_MOMENTS = (UNTRAINED_STEP, 1, 3, 8)


def rank(task: str, tables: Sequence[str]) -> list[dict[str, Any]]:
    """How a prior without a task ranks its tables."""
    prior = prior_without(task)
    assert prior.network is not None
    results = []
    for name in tables:
        table = load(name)
        sign = 1.0 if table.direction == "maximize" else -1.0
        places, _ = standings(table.trials, sign)
        found: dict[str, dict[str, list[float]]] = {what: {} for what in HIDDEN}
        for step in _MOMENTS:
            traits = Traits.read(table.trials, step, sign)
            population = Population.of(table.trials, step, sign)
            for what, groups in HIDDEN.items():
                columns = traits.among(population)
                for group in groups:
                    columns[:, COLUMNS[group]] = np.nan
                mean, std = prior.network.predict(columns)
                found[what][str(step)] = _figures(mean, std, places)
        results.append({"table": name, "figures": found})
    return results


def _figures(
    mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> list[float]:
    """Rank correlation over all, within the better half, coverage of the 80 % interval."""
    better = places > np.median(places)
    inside = float((np.abs(mean - places) < CENTRAL_80 * std).mean())
    pair = (spearmanr(mean, places)[0], spearmanr(mean[better], places[better])[0])
    return [round(float(x), 4) for x in (*pair, inside)]


def speed(prior_path: Path) -> dict[str, float]:
    """Megabytes of the file, milliseconds to load it and to ask it of 64 candidates."""
    key = f"{SPECTRUM_PREFIX}{UNTRAINED_STEP}"
    trials = [
        create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={key: trial.system_attrs[key]},
        )
        for trial in load(DEVELOPMENT_TABLES[0]).trials[:64]
    ]
    loads, asks = [], []
    for _ in range(7):
        started = time.perf_counter()
        prior = Prior.load(prior_path)
        loads.append(time.perf_counter() - started)
        started = time.perf_counter()
        prior.predict(trials, UNTRAINED_STEP)
        asks.append(time.perf_counter() - started)
    return {
        "file_mb": round(prior_path.stat().st_size / 1e6, 3),
        "load_ms": round(float(np.median(loads)) * 1e3, 2),
        "ask_64_ms": round(float(np.median(asks)) * 1e3, 2),
    }


def evaluate(workers: int | None) -> list[dict[str, Any]]:
    """All tables, ranked by priors that their tasks were left out of."""
    by_task: dict[str, list[str]] = {}
    for name in (*DEVELOPMENT_TABLES, *REPORT_TABLES):
        by_task.setdefault(task_of(name), []).append(name)
    with ProcessPoolExecutor(workers) as pool:
        ranked = pool.map(rank, by_task, by_task.values())
        return [one for own in tqdm(ranked, total=len(by_task), desc="tasks") for one in own]


def text(tables: Sequence[dict[str, Any]]) -> str:
    """Means over report and development tables, as Markdown."""
    heads = ["untrained", *(f"after {m}" for m in _MOMENTS[1:])]
    lines = []
    for title, names in (("report", REPORT_TABLES), ("development", DEVELOPMENT_TABLES)):
        own = [t["figures"] for t in tables if t["table"] in names]
        lines += [f"| {len(own)} {title} tables | " + " | ".join(heads) + " |", "|---" * 5 + "|"]
        for what in HIDDEN:
            cells = [np.mean([t[what][str(m)] for t in own], axis=0) for m in _MOMENTS]
            row = " | ".join(f"{a:.3f} / {b:.3f} ({c:.0%})" for a, b, c in cells)
            lines.append(f"| {what} | {row} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, save, and say how well it ranks."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_prior",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = sorted({task_of(name) for name in (*DEVELOPMENT_TABLES, *REPORT_TABLES)})
    parser.add_argument("--without", choices=tasks, metavar="TASK", help="leave a task out")
    parser.add_argument(
        "--output", type=Path, help="file of the prior; by default the shipped one, or a study's"
    )
    parser.add_argument("--evaluate", action="store_true", help="rank tasks that were left out")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.output is None:
        left_out = STUDIES_PRIORS / f"without_{options.without}.npz"
        options.output = SHIPPED if options.without is None else left_out
    if options.evaluate:
        tables = evaluate(options.workers)
        results = {
            "command": command_line("python -m benchmarks.train_prior", given),
            "environment": describe_environment(),
            "settings": asdict(SETTINGS),
            "speed": speed(options.output),
            "tables": tables,
        }
        path = RESULTS / "prior.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(text(tables))
        print(results["speed"])
        return
    lessons = every_lesson(options.without)
    settings = Settings()
    with tqdm(total=settings.steps, desc="steps") as bar:
        network = train_network(lessons, settings, progress=bar.update)
    Prior(network, tasks=lessons).save(options.output)
    print(f"{options.output}: {len(lessons)} tasks, {speed(options.output)}")


if __name__ == "__main__":
    main()
