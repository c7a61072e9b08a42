"""What ranks the final scores of a table: hyperparameters, the first epoch, or the spectrum?

Rank correlation with the final score, over all configurations and within the better half, of the
score after the first epoch as it is, and of predictions for configurations that the predictor was
not fitted to (ten folds) from hyperparameters, from the spectrum before training and after the
first epoch, and from both before training.

    python -m benchmarks.ranking
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import describe_environment
from benchmarks.record.table import TABLES
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.features import curve_statistics
from optuna_aelle.predictor import Feature
from optuna_aelle.predictor import PerformancePredictor
from optuna_aelle.recorded import RecordedTrials

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FloatArray = npt.NDArray[np.float64]

_N_FOLDS = 10
FIRST_EPOCH = "score, epoch 1"
SIGNALS: dict[str, tuple[tuple[Feature, ...], int]] = {
    "hyperparameters": (("params",), -1),
    "spectrum, untrained": (("spectrum",), -1),
    "both, untrained": (("params", "spectrum"), -1),
    "spectrum, epoch 1": (("spectrum",), 1),
    "all, epoch 1": (("params", "spectrum", "curve"), 1),
}


def rank(table: Path) -> dict[str, object]:
    """The correlations of one table, ``[all, better half]`` each."""
    torch.set_num_threads(1)
    recorded = RecordedTrials.load(table)
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    finals = sign * recorded.finals
    upper = finals >= np.median(finals)
    predictions = {FIRST_EPOCH: curve_statistics(recorded.trials, 1, sign)[:, 0]}
    for name, (features, step) in SIGNALS.items():
        predictions[name] = _held_out(recorded, features, step)
    return {
        "table": recorded.name,
        "metric": recorded.metadata["metric"],
        "quantiles": np.quantile(recorded.finals, [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
        .round(4)
        .tolist(),
        "correlations": {
            name: [_correlation(p, finals), _correlation(p[upper], finals[upper])]
            for name, p in predictions.items()
        },
    }


def _held_out(recorded: RecordedTrials, features: tuple[Feature, ...], step: int) -> FloatArray:
    order = np.random.default_rng(0).permutation(len(recorded))
    predicted = np.zeros(len(recorded))
    for fold in np.array_split(order, _N_FOLDS):
        hidden = set(fold.tolist())
        lessons = [t for i, t in enumerate(recorded.trials) if i not in hidden]
        predictor = PerformancePredictor(features, direction=recorded.direction).fit(lessons)
        queries = [recorded.trials[i] for i in fold]
        predicted[fold] = predictor.predict_standings(queries, step)[0]
    return predicted


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return round(float(spearmanr(a, b).statistic), 3)


def draw(results: Path, figure: Path) -> None:
    """A row of dots a table, one colour a signal."""
    tables = json.loads(results.read_text())["tables"]
    names = [FIRST_EPOCH, *SIGNALS]
    colors = ("#1e88e5", "#8d6e63", "#f48fb1", "#d81b60", "#ffb300", "#212121")
    fig, axes = plt.subplots(1, 2, figsize=(12, 0.42 * len(tables) + 1.8), sharey=True)
    rows = np.arange(len(tables))[::-1]
    for part, (axis, title) in enumerate(
        zip(axes, ("all configurations", "the better half"), strict=True)
    ):
        for i, (name, color) in enumerate(zip(names, colors, strict=True)):
            values = [table["correlations"][name][part] for table in tables]
            offset = 0.25 - 0.1 * i
            axis.plot(values, rows + offset, "o", color=color, ms=6, label=name)
        axis.axvline(0.0, color="#9e9e9e", lw=0.8)
        axis.set_yticks(rows, [table["table"] for table in tables])
        axis.set_xlabel("rank correlation with the final score")
        axis.set_title(title, fontsize=11)
        axis.grid(axis="y", color="#eceff1")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].legend(
        loc="lower center", bbox_to_anchor=(1.0, 1.06), ncols=6, fontsize=9, frameon=False
    )
    fig.savefig(figure, dpi=130, bbox_inches="tight")
    plt.close(fig)


def table_text(results: Path) -> str:
    """The correlations as a Markdown table, all / better half."""
    names = [FIRST_EPOCH, *SIGNALS]
    lines = ["| table | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for table in json.loads(results.read_text())["tables"]:
        cells = ["{:.2f} / {:.2f}".format(*table["correlations"][name]) for name in names]
        lines.append(f"| {table['table']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank every table, write the results, draw the figure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__)
    parser.add_argument("--tables", nargs="+", default=[*REPORT_TABLES, *DEVELOPMENT_TABLES])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    paths = [TABLES / f"{name}.npz" for name in options.tables]
    with ProcessPoolExecutor(options.workers) as pool:
        there = [path for path in paths if path.exists()]
        tables = list(tqdm(pool.map(rank, there), total=len(there), desc="tables"))
    results = {
        "command": "python -m benchmarks.ranking",
        "environment": describe_environment(),
        "tables": tables,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "ranking.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    draw(path, options.output / "ranking.png")
    print(table_text(path))


if __name__ == "__main__":
    main()
