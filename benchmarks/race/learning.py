"""How soon does a forecast know a study that it has never seen? Ranks of what has not started.

Of each table 4, 8, 16 or 32 networks drawn at random have been trained to their end; all others
are ranked by `optuna_aelle.prediction.process`, with a prior that the table's whole task was left
out of, with the same prior without its ways, and without any prior.

    python -m benchmarks.race.learning
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.race.ablations import Rigid
from benchmarks.race.forest import load
from benchmarks.race.priors import prior_without
from benchmarks.race.priors import task_of
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.process import forecast_field
from optuna_aelle.prediction.reading import Reader
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from studies.arguments import positive

KNOWN = (0, 4, 8, 16, 32)
WITH, WITHOUT, NONE = "prior with its ways", "prior without ways", "no prior"


def run(table: str, repeats: int) -> pd.DataFrame:
    """Rows of known, knowledge, rank correlation over all that is left and in its better half."""
    recorded = load(table)
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    places, _ = standings(recorded.trials, sign)
    prior = prior_without(task_of(table))
    assert prior.network is not None
    priors = {WITH: prior, WITHOUT: Prior(Rigid(**vars(prior.network))), NONE: Prior()}
    rows: list[tuple[Any, ...]] = []
    with threadpool_limits(1):
        for repeat in range(repeats):
            order = np.random.default_rng([2, repeat]).permutation(len(recorded))
            for n_known in KNOWN:
                known, rest = order[:n_known], order[n_known:]
                started = [recorded.trials[i] for i in known]
                untried = [_untrained(recorded.trials[i]) for i in rest]
                better = places[rest] > np.median(places[rest])
                for name, own in priors.items():
                    found = forecast_field(own, started, untried, Reader(sign)).mean[n_known:]
                    pair = (
                        _correlation(found, places[rest]),
                        _correlation(found[better], places[rest][better]),
                    )
                    rows.append((table, repeat, n_known, name, *pair))
    return pd.DataFrame(rows, columns=["table", "repeat", "known", "knowledge", "all", "better"])


def _untrained(trial: FrozenTrial) -> FrozenTrial:
    """As it was before anything was trained."""
    before = copy.copy(trial)
    before.state = TrialState.RUNNING
    before.values = None
    before.intermediate_values = {}
    key = f"{SPECTRUM_PREFIX}{UNTRAINED_STEP}"
    before.system_attrs = {k: x for k, x in trial.system_attrs.items() if k == key}
    return before


def _correlation(found: Any, truth: Any) -> float:
    return float(spearmanr(found, truth)[0]) if np.ptp(found) > 0.0 else 0.0


def table_of(frame: pd.DataFrame) -> str:
    """Means over the tables, as Markdown."""
    lines = ["| finished | " + " | ".join(map(str, KNOWN)) + " |", "|---" * (len(KNOWN) + 1) + "|"]
    means = frame.groupby(["knowledge", "known"])[["all", "better"]].mean()
    for name in (NONE, WITHOUT, WITH):
        cells = [means.loc[(name, n)] for n in KNOWN]
        row = " | ".join(f"{c['all']:.3f} / {c['better']:.3f}" for c in cells)
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tables", nargs="+", choices=REPORT_TABLES, default=REPORT_TABLES)
    parser.add_argument("--repeats", type=positive, default=10)
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(given)
    repeats = [options.repeats] * len(options.tables)
    with ProcessPoolExecutor(options.workers) as pool:
        found = pool.map(run, options.tables, repeats)
        frame = pd.concat(tqdm(found, total=len(repeats), unit="table"), ignore_index=True)
    means = frame.groupby(["table", "known", "knowledge"])[["all", "better"]].mean().round(4)
    results = {
        "command": command_line("python -m benchmarks.race.learning", given),
        "environment": describe_environment(),
        "n_repeats": options.repeats,
        "rows": means.reset_index().to_dict("records"),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path: Path = options.output / "learning.json"
    path.write_text(json.dumps(results, ensure_ascii=False) + "\n")
    print(table_of(frame))


if __name__ == "__main__":
    main()
