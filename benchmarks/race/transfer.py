"""How well do other tasks' tables rank the networks of a task that they have not seen?

Rank correlation of the final score, over all configurations of a table and within its better half,
with the score so far and with what a forest predicts that has learned from the tables of all other
tasks (`benchmarks.race.forest`): before training, and after 1, 2, 3, 5 and 8 epochs. Further, how
many of the ten best configurations stand among the first 20 and 40 of the order.

    python -m benchmarks.race.transfer
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.race.forest import Feature
from benchmarks.race.forest import FloatArray
from benchmarks.race.forest import Forest
from benchmarks.race.forest import load
from benchmarks.race.forest import past_of
from benchmarks.race.forest import standings_of
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from studies.arguments import positive

EPOCHS = (-1, 1, 2, 3, 5, 8)
SCORE = "score so far"
SIGNALS: dict[str, tuple[Feature, ...]] = {
    "curve": ("curve",),
    "names (+ curve)": ("names", "curve"),
    "spectrum (+ curve)": ("spectrum", "curve"),
    "all": ("names", "spectrum", "curve"),
}
FIRST = (20, 40)


def rank(task: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The correlations of a task's tables, ``[all, better half]`` by signal and epoch."""
    torch.set_num_threads(1)
    past = past_of(task)
    ranked = [Ranked(name) for name in names]
    for epoch in EPOCHS:
        if epoch > 0:
            for own in ranked:
                own.add(SCORE, epoch, own.scores(epoch))
        for signal, features in SIGNALS.items():
            if epoch < 0 and features == ("curve",):
                continue
            forest = Forest(past, features, epoch)
            for own in ranked:
                own.add(signal, epoch, forest.predict_table(own.table))
    return [own.found for own in ranked]


class Ranked:
    """A table, and what has been found of orders of its configurations.

    Args:
        name: Of the table.
    """

    def __init__(self, name: str) -> None:
        self.table = load(name)
        self.found: dict[str, Any] = {"table": name, "correlations": {}, "best_among_first": {}}
        self._standings = standings_of(self.table)

    def scores(self, epoch: int) -> FloatArray:
        """So far, ``(n,)``, more is better."""
        sign = 1.0 if self.table.direction == "maximize" else -1.0
        return np.array([sign * t.intermediate_values[epoch] for t in self.table.trials])

    def add(self, signal: str, epoch: int, scores: FloatArray) -> None:
        """What an order by ``scores``, ``(n,)``, the highest first, is worth."""
        own = self.found["correlations"].setdefault(signal, {})
        own[str(epoch)] = _correlations(scores, self._standings)
        first = self.found["best_among_first"]
        if signal == SCORE and epoch == 1:
            first[f"{SCORE}, epoch 1"] = _found(scores, self._standings)
        elif epoch < 0:
            first[signal.removesuffix(" (+ curve)")] = _found(scores, self._standings)


def _correlations(scores: FloatArray, standings: FloatArray) -> list[float]:
    upper = standings >= np.median(standings)
    known = np.nan_to_num(scores, nan=-np.inf)
    pair = (
        spearmanr(known, standings).statistic,
        spearmanr(known[upper], standings[upper]).statistic,
    )
    return [round(float(x), 3) for x in pair]


def _found(scores: FloatArray, standings: FloatArray) -> list[float]:
    """Shares of the best twentieth that stand among the first tenth, and the first fifth."""
    n = len(scores)
    best = set(np.argsort(-standings, kind="stable")[: n // 20].tolist())
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    return [round(len(best & set(order[: n * k // 200].tolist())) / len(best), 3) for k in FIRST]


def text(tables: Sequence[dict[str, Any]]) -> str:
    """Means over the tables, as Markdown."""
    epochs = [str(e) for e in EPOCHS]
    lines = [
        "| known | untrained | " + " | ".join(f"epoch {e}" for e in epochs[1:]) + " |",
        "|---" * (len(epochs) + 1) + "|",
    ]
    for signal in tables[0]["correlations"]:
        cells = []
        for epoch in epochs:
            pairs = [t["correlations"][signal].get(epoch) for t in tables]
            known = [pair for pair in pairs if pair]
            cells.append("{:.3f} / {:.3f}".format(*np.nanmean(known, axis=0)) if known else "—")
        lines.append(f"| {signal} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| of the best twentieth | among the first tenth | first fifth |",
        "|---" * 3 + "|",
    ]
    for signal in tables[0]["best_among_first"]:
        means = np.mean([t["best_among_first"][signal] for t in tables], axis=0)
        lines.append(f"| {signal} | " + " | ".join(f"{x:.2f}" for x in means) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank every table, write the results, print the means."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = [*REPORT_TABLES, *DEVELOPMENT_TABLES]
    parser.add_argument("--tables", nargs="+", choices=every, default=every, metavar="TABLE")
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    # What other tasks teach is learned once for all tables of a task.
    by_task: dict[str, list[str]] = {}
    for name in options.tables:
        by_task.setdefault(name.rsplit("-", 1)[0], []).append(name)
    with ProcessPoolExecutor(options.workers) as pool:
        ranked = pool.map(rank, by_task, by_task.values())
        tables = [one for own in tqdm(ranked, total=len(by_task), desc="tasks") for one in own]
    results = {
        "command": command_line("python -m benchmarks.race.transfer", given),
        "environment": describe_environment(),
        "tables": tables,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "transfer.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(text(tables))


if __name__ == "__main__":
    main()
