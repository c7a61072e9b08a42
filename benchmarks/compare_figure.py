"""Figure and table of `benchmarks.compare`, from its results file alone.

python -m benchmarks.compare_figure
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from benchmarks.environment import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Arms that are not named here are drawn, too, in colours of matplotlib's.
_COLORS = {
    "none": "#9e9e9e",
    "Median": "#8d6e63",
    "Hyperband": "#7e57c2",
    "SHA η=2": "#1e88e5",
    "SHA η=3": "#64b5f6",
    "SHA η=4": "#0d47a1",
    "AeLLE": "#d81b60",
    "AeLLE, no spectra": "#f48fb1",
    "AeLLE over SHA η=4": "#880e4f",
    "TPE + SHA η=2": "#00897b",
    "AeLLE sampler + pruner": "#fb8c00",
}
_METRICS = {"digits": ("validation error", True), "recall": ("unexplained variance", False)}


def draw(results: Path, figure: Path) -> None:
    """Best value so far against epochs charged: median over seeds, and quartiles."""
    data = json.loads(results.read_text())
    full = data["n_trials"] * data["n_epochs"]
    tasks = sorted({run["task"] for run in data["runs"]})
    arms = list(dict.fromkeys(run["arm"] for run in data["runs"]))
    colors = {arm: _COLORS.get(arm, f"C{i}") for i, arm in enumerate(arms)}
    grid = np.geomspace(data["n_epochs"], full, 200)
    fig, axes = plt.subplots(1, len(tasks), figsize=(6.2 * len(tasks), 4.6), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        label, from_accuracy = _METRICS[task]
        for arm, color in colors.items():
            runs = [r for r in data["runs"] if r["task"] == task and r["arm"] == arm]
            if not runs:
                continue
            curves = np.array([_best_so_far(run, grid) for run in runs])
            values = 1.0 - curves if from_accuracy else curves
            low, middle, high = np.nanpercentile(values, [25, 50, 75], axis=0)
            spent = np.mean([run["share"] for run in runs]) * full
            style = "--" if arm in ("TPE + SHA η=2", "AeLLE sampler + pruner") else "-"
            seen = grid <= spent
            axis.plot(grid[seen], middle[seen], style, color=color, lw=2.0, label=arm)
            axis.plot(grid[seen][-1:], middle[seen][-1:], "o", color=color, ms=6)
            if arm in ("none", "AeLLE"):
                axis.fill_between(grid[seen], low[seen], high[seen], color=color, alpha=0.12, lw=0)
        axis.set(xscale="log", yscale="log", title=f"{task}: {label}")
        axis.set_xlabel("epochs charged (spectra, fits and ranking included)")
        axis.set_ylabel(f"best {label} so far")
        axis.grid(alpha=0.25, which="both")
    axes[0][0].legend(fontsize=8, frameon=False)
    fig.suptitle(
        f"{data['n_trials']} trials of {data['n_epochs']} epochs, median of "
        f"{len({r['seed'] for r in data['runs']})} seeds (dashed: "
        f"{len({r['seed'] for r in data['runs'] if r['arm'].startswith('TPE')})}); "
        "a dot marks where an arm ends",
        fontsize=10,
    )
    fig.tight_layout()
    fig.savefig(figure, dpi=130)
    plt.close(fig)


def table(results: Path) -> str:
    """Share of epochs and regret of each arm and task, as Markdown."""
    data = json.loads(results.read_text())
    cells: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in data["runs"]:
        cells[run["arm"]][run["task"]].append(run)
    tasks = sorted({run["task"] for run in data["runs"]})
    head = " | ".join(f"{t}: epochs | {t}: regret | {t}: best" for t in tasks)
    lines = [f"| | {head} |", "|---" * (1 + 3 * len(tasks)) + "|"]
    for arm, by_task in cells.items():
        row = []
        for task in tasks:
            runs = by_task[task]
            found = [run["best"] for run in runs if run["best"] is not None]
            row.append(
                f"{np.mean([r['share'] for r in runs]):.1%} | "
                f"{np.mean([r['regret'] for r in runs]):.3f} | {np.mean(found):.4f}"
            )
        lines.append(f"| {arm} | {' | '.join(row)} |")
    return "\n".join(lines)


def _best_so_far(run: dict[str, Any], grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    index = np.searchsorted(run["costs"], grid, side="right") - 1
    bests = np.array([np.nan, *run["bests"]])
    return np.asarray(bests[index + 1])


if __name__ == "__main__":
    draw(RESULTS / "compare.json", RESULTS / "compare.png")
    print(table(RESULTS / "compare.json"))
