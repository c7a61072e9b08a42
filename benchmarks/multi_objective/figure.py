"""What did `benchmarks.multi_objective` find? A figure and a table, from its results file alone.

python -m benchmarks.multi_objective.figure [RESULTS.json]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.environment import RESULTS
from benchmarks.environment import results_file

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = {
    "NSGA-II": ("#90a4ae", "--"),
    "TPE": ("#1e88e5", "--"),
    "random": ("#ffb300", "--"),
    "random, should_prune": ("#ffb300", "-"),
    "TPE, should_prune": ("#1e88e5", "-"),
    "AeLLE": ("#d81b60", "--"),
    "AeLLE, should_prune": ("#d81b60", "-"),
}


def draw(path: Path) -> str:
    """Write the figure beside the results; the means as a table."""
    results = json.loads(path.read_text())
    rows = results["rows"]
    tables = list(dict.fromkeys(row["table"] for row in rows))
    names = [name for name in STYLES if any(row["arm"] == name for row in rows)]
    figure, axes = plt.subplots(
        1,
        len(tables),
        figsize=(3.4 * len(tables) + 1.0, 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, table in zip(axes[0], tables, strict=True):
        for name in names:
            shares = _shares(rows, name, table)
            mean = shares.mean(axis=0)
            color, line = STYLES[name]
            x = np.arange(1, len(mean) + 1)
            axis.plot(x, mean, color=color, linestyle=line, label=name, linewidth=1.6)
            if len(shares) > 1:
                error = shares.std(axis=0, ddof=1) / np.sqrt(len(shares))
                axis.fill_between(x, mean - error, mean + error, color=color, alpha=0.12, lw=0)
        axis.set_title(table, fontsize=10)
        axis.set_xlabel("epochs spent, in whole trainings")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("hypervolume, share of the pool's")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), fontsize=9)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)
    return _table(rows, names, results["budgets"])


def _shares(rows: list[dict[str, Any]], name: str, table: str | None = None) -> Any:
    """``(R, T)`` of an arm: repeats by whole trainings."""
    return np.array(
        [
            list(row["share"].values())
            for row in rows
            if row["arm"] == name and table in (None, row["table"])
        ]
    )


def _table(rows: list[dict[str, Any]], names: list[str], budgets: list[int]) -> str:
    heads = [f"after {budget}" for budget in budgets]
    lines = [
        f"| arm | {' | '.join(heads)} | started | finished | seconds |",
        f"|---|{'---|' * (len(budgets) + 3)}",
    ]
    for name in names:
        shares = _shares(rows, name)
        own = [row for row in rows if row["arm"] == name]
        cells = [f"{shares[:, budget - 1].mean():.3f}" for budget in budgets]
        cells += [f"{np.mean([row[key] for row in own]):.0f}" for key in ("started", "finished")]
        cells.append(f"{np.mean([row['seconds'] for row in own]):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw(results_file("figure", __doc__, RESULTS / "multi_objective.json")))
