"""What ranks the final scores of a table, and when: hyperparameters, scores, or the spectrum?

Rank correlation with the final score, over all configurations and within the better half, before
training and after the epochs at which spectra were recorded: of the score as it is, and of
predictions from hyperparameters, from spectra, from both, and from all with the curve, for one
half of the configurations by a predictor fitted to the other half (mean over six such splits). A
random forest on the hyperparameters shows what another learner gets from them alone.

    python -m benchmarks.decisions.ranking
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.record.table import TABLES
from benchmarks.record.tables import FIRST_DEVELOPMENT_TABLES
from benchmarks.record.tables import FIRST_REPORT_TABLES
from optuna_aelle.prediction.curves import curve_statistics
from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.trials.table import RecordedTrials
from studies.arguments import positive

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

FloatArray = npt.NDArray[np.float64]
Part = tuple[npt.NDArray[np.intp], FloatArray]

# One split into halves depends on its draw; six take minutes.
_N_SPLITS = 6
SCORE = "score"
FOREST = "hyperparameters, random forest"
SIGNALS: dict[str, tuple[Feature, ...]] = {
    "hyperparameters": ("params",),
    "spectrum": ("spectrum",),
    "hyperparameters + spectrum": ("params", "spectrum"),
    "all": ("params", "spectrum", "curve"),
}
# Those after which spectra were recorded.
EPOCHS = (-1, 1, 2, 3, 5, 8, 13, 21)
_COLORS = {
    SCORE: "#1e88e5",
    "hyperparameters": "#8d6e63",
    FOREST: "#43a047",
    "spectrum": "#d81b60",
    "hyperparameters + spectrum": "#ffb300",
    "all": "#212121",
}


def rank(table: Path) -> dict[str, object]:
    """The correlations of one table: for each signal and epoch ``[all, better half]``."""
    torch.set_num_threads(1)
    recorded = RecordedTrials.load(table)
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    finals = sign * recorded.finals
    upper = finals >= np.median(finals)
    every = np.arange(len(recorded))
    predictions = {
        SCORE: {
            e: [(every, curve_statistics(recorded.trials, e, sign)[:, 0])] for e in EPOCHS if e > 0
        }
    }
    for name, features in SIGNALS.items():
        predictions[name] = _held_out(recorded, features)
    predictions[FOREST] = {-1: _forest(recorded, finals)}

    def correlations(parts: list[Part]) -> list[float]:
        pairs = [
            (
                correlation(p, finals[rows]),
                correlation(p[upper[rows]], finals[rows][upper[rows]]),
            )
            for rows, p in parts
        ]
        return [round(float(x), 3) for x in np.mean(pairs, axis=0)]

    return {
        "table": recorded.name,
        "metric": recorded.metadata["metric"],
        "direction": recorded.direction,
        "quantiles": np.quantile(recorded.finals, [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
        .round(4)
        .tolist(),
        "correlations": {
            name: {str(epoch): correlations(parts) for epoch, parts in by_epoch.items()}
            for name, by_epoch in predictions.items()
        },
    }


def _held_out(recorded: RecordedTrials, features: tuple[Feature, ...]) -> dict[int, list[Part]]:
    """For each epoch and split the held-out rows and what is predicted for them."""
    # Hyperparameters say the same at all times.
    epochs = (-1,) if features == ("params",) else EPOCHS
    parts: dict[int, list[Part]] = {epoch: [] for epoch in epochs}
    for seed in range(_N_SPLITS):
        order = np.random.default_rng(seed).permutation(len(recorded))
        known, hidden = np.array_split(order, 2)
        lessons = [recorded.trials[i] for i in known]
        predictor = PerformancePredictor(features, direction=recorded.direction).fit(lessons)
        queries = [recorded.trials[i] for i in hidden]
        for epoch in epochs:
            parts[epoch].append((hidden, predictor.predict_standings(queries, epoch)[0]))
    return parts


def _forest(recorded: RecordedTrials, finals: FloatArray) -> list[Part]:
    """What a learner of another kind makes of the hyperparameters alone."""
    parts = []
    for seed in range(_N_SPLITS):
        order = np.random.default_rng(seed).permutation(len(recorded))
        known, hidden = np.array_split(order, 2)
        encoder = ParameterEncoder([recorded.trials[i] for i in known])
        rows = encoder.encode(recorded.trials)
        forest = RandomForestRegressor(300, min_samples_leaf=2, random_state=seed)
        forest.fit(rows[known], rankdata(finals[known]))
        parts.append((hidden, np.asarray(forest.predict(rows[hidden]))))
    return parts


def correlation(a: FloatArray, b: FloatArray) -> float:
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def draw(results: Path, figure: Path) -> None:
    """A panel a table: correlation by epoch, over all (solid) and in the better half (dotted)."""
    tables = json.loads(results.read_text())["tables"]
    n_rows = -(-len(tables) // 4)
    fig, axes = plt.subplots(
        n_rows, 4, figsize=(14, 2.9 * n_rows), squeeze=False, sharex=True, sharey=True
    )
    places = {str(epoch): place for place, epoch in enumerate(EPOCHS)}
    for axis, table in zip(axes.flat, tables, strict=False):
        for name, color in _COLORS.items():
            by_epoch = table["correlations"][name]
            x = [places[epoch] for epoch in by_epoch]
            for part, style in enumerate(("-", ":")):
                y = [pair[part] for pair in by_epoch.values()]
                if len(x) == 1:
                    axis.plot(x, y, "s" if part == 0 else "x", color=color, ms=5)
                else:
                    axis.plot(x, y, style, color=color, lw=1.6)
        axis.axhline(0.0, color="#9e9e9e", lw=0.8)
        axis.set_title(table["table"], fontsize=10)
        axis.set_xticks(list(places.values()), ["untrained", *map(str, EPOCHS[1:])], fontsize=8)
        axis.set_ylim(-0.3, 1.0)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    # Nothing stands below the last one of each column.
    for axis in axes.flat[max(len(tables) - 4, 0) : len(tables)]:
        axis.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=color, label=name) for name, color in _COLORS.items()]
    handles += [
        Line2D([], [], color="#9e9e9e", ls=style, label=label)
        for style, label in (("-", "all configurations"), (":", "the better half"))
    ]
    fig.legend(handles=handles, loc="upper center", ncols=4, fontsize=9, frameon=False)
    fig.supxlabel("after epoch", fontsize=10)
    fig.supylabel("rank correlation with the final score", fontsize=10)
    fig.tight_layout(rect=(0.0, 0.0, 1.0, 1.0 - 0.5 / (2.9 * n_rows)))
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def table_text(results: Path) -> str:
    """What there is before training and after the first epoch, as Markdown: all / better half."""
    columns = [
        ("hyperparameters", "-1", "hyperparameters"),
        (FOREST, "-1", "the same, forest"),
        ("spectrum", "-1", "untrained spectrum"),
        ("hyperparameters + spectrum", "-1", "both"),
        (SCORE, "1", "score, epoch 1"),
        ("spectrum", "1", "spectrum, epoch 1"),
        ("all", "1", "all, epoch 1"),
    ]
    lines = [
        "| table (score: best, median) | " + " | ".join(title for *_, title in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for table in json.loads(results.read_text())["tables"]:
        pairs = [table["correlations"][name][epoch] for name, epoch, _ in columns]
        cells = ["{:.2f} / {:.2f}".format(*pair) for pair in pairs]
        ends = table["quantiles"]
        best = ends[-1] if table["direction"] == "maximize" else ends[0]
        score = f"{table['metric']}: {best:.3g}, {ends[3]:.3g}"
        lines.append(f"| {table['table']} ({score}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank every table, write the results, draw the figure, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decisions.ranking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        default=[*FIRST_REPORT_TABLES, *FIRST_DEVELOPMENT_TABLES],
        help="names; by default the first 17, which are equally long",
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    paths = [TABLES / f"{name}.npz" for name in options.tables]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        there = ", ".join(sorted(path.stem for path in TABLES.glob("*.npz")))
        parser.error(f"argument --tables: expected some of {there}, got {', '.join(missing)}")
    with ProcessPoolExecutor(options.workers) as pool:
        tables = list(tqdm(pool.map(rank, paths), total=len(paths), desc="tables"))
    results = {
        "command": command_line("python -m benchmarks.decisions.ranking", given),
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
