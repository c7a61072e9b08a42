"""What did `benchmarks.live` find? A figure and a table, from its results file alone.

python -m benchmarks.live.figure [RESULTS.json]
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from benchmarks.environment import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FloatArray = npt.NDArray[np.float64]
COLORS = {
    "AeLLE": "#d81b60",
    "Optuna's defaults": "#1e88e5",
    "TPE, Hyperband": "#00897b",
    "TPE, SHA η=2, min 1": "#ffb300",
    "random, none": "#90a4ae",
    "TPE, none": "#5e35b1",
}


def best_until(search: dict[str, Any], points: FloatArray, axis: int, sign: float) -> FloatArray:
    """The best finished value at each point of seconds (0) or epochs (1); NaN before the first."""
    best, values = math.nan, []
    rows = iter(search["rows"])
    row = next(rows, None)
    for point in points:
        while row is not None and row[axis] <= point:
            if row[2] is not None and math.isfinite(row[2]):
                best = row[2] if math.isnan(best) or sign * row[2] > sign * best else best
            row = next(rows, None)
        values.append(best)
    return np.array(values)


def draw(path: Path) -> str:
    """Write ``live.png`` beside the results; the table in words."""
    results = json.loads(path.read_text())
    plans = results["plans"]
    figure, axes = plt.subplots(
        1, len(plans), figsize=(4.2 * len(plans), 3.8), squeeze=False, layout="constrained"
    )
    for axis, (name, plan) in zip(axes[0], plans.items(), strict=True):
        sign = 1.0 if plan["direction"] == "maximize" else -1.0
        by_seconds = plan["seconds"] is not None
        mine = [s for s in results["searches"] if s["plan"] == name]
        end = plan["seconds"] or plan["n_trials"] * plan["n_epochs"]
        points = np.linspace(0.0, end, 161)
        for arm, color in COLORS.items():
            curves = [
                best_until(s, points, 0 if by_seconds else 1, sign)
                for s in mine
                if s["arm"] == arm
            ]
            if not curves:
                continue
            stacked = np.stack(curves)
            # Where most have nothing yet there is no median.
            shown = np.isfinite(stacked).mean(axis=0) > 0.5
            worst = -sign * np.inf
            filled = np.where(np.isfinite(stacked), stacked, worst)
            axis.plot(points[shown], np.median(filled, axis=0)[shown], color=color, label=arm)
            low, high = np.quantile(filled, [0.25, 0.75], axis=0, method="nearest")
            finite = shown & np.isfinite(low) & np.isfinite(high)
            axis.fill_between(points[finite], low[finite], high[finite], color=color, alpha=0.15)
        axis.set_title(name)
        axis.set_xlabel("seconds" if by_seconds else "epochs")
        axis.set_ylabel(f"best {plan['metric']} so far")
        if plan["direction"] == "minimize" and plan["metric"] == "unexplained variance":
            axis.set_yscale("log")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
    return table(results)


def table(results: dict[str, Any]) -> str:
    """A row a task and arm: best values, and how much of its time ours needs for an arm's end."""
    lines = [
        "| task | arm | best, median (each seed) | ours better / worse / equal | "
        "in as many seconds | ours is there after |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, plan in results["plans"].items():
        sign = 1.0 if plan["direction"] == "maximize" else -1.0
        axis = 0 if plan["seconds"] is not None else 1
        found = {(s["arm"], s["seed"]): s for s in results["searches"] if s["plan"] == name}
        limit = plan["seconds"] or math.inf
        arms = list(dict.fromkeys(arm for arm, _ in found))
        seeds = sorted({seed for _, seed in found})
        ends = {
            key: float(best_until(s, np.array([limit]), axis, sign)[0]) for key, s in found.items()
        }
        for arm in arms:
            own = [ends[arm, seed] for seed in seeds if (arm, seed) in ends]
            said, reached = ["", "", ""], []
            if arm != "AeLLE" and all(("AeLLE", seed) in ends for seed in seeds):
                there = [seed for seed in seeds if (arm, seed) in ends]
                theirs = [ends[arm, seed] for seed in there]
                said[0] = _counts([ends["AeLLE", seed] for seed in there], theirs, sign)
                if plan["seconds"] is None:
                    # As many networks need not take as long.
                    until = [
                        best_until(
                            found["AeLLE", seed],
                            np.array([found[arm, seed]["elapsed"]]),
                            0,
                            sign,
                        )
                        for seed in there
                    ]
                    said[1] = _counts([float(best[0]) for best in until], theirs, sign)
                whole = plan["seconds"] or plan["n_trials"] * plan["n_epochs"]
                for seed in there:
                    at = _reaches(found["AeLLE", seed], ends[arm, seed], axis, sign, limit)
                    reached.append(at / whole)
                share = float(np.median(reached))
                said[2] = f"{share:.0%}" if math.isfinite(share) else "not within"
            each = ", ".join(f"{x:.4g}" for x in own)
            middle = f"{float(np.median(own)):.4g} ({each})"
            lines.append(f"| {name} | {arm} | {middle} | {' | '.join(said)} |")
    return "\n".join(lines)


def _counts(ours: list[float], theirs: list[float], sign: float) -> str:
    """On how many seeds ours is better, worse and equal."""
    pairs = list(zip(ours, theirs, strict=True))
    better = sum(_ahead(a, b, sign) for a, b in pairs)
    worse = sum(_ahead(b, a, sign) for a, b in pairs)
    return f"{better} / {worse} / {len(pairs) - better - worse}"


def _ahead(a: float, b: float, sign: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(b) and not math.isnan(a)
    return sign * a > sign * b


def _reaches(search: dict[str, Any], value: float, axis: int, sign: float, limit: float) -> float:
    """Seconds or epochs until a value is reached; infinite where it is not within the limit."""
    for row in search["rows"]:
        if row[0] <= limit and row[2] is not None and sign * row[2] >= sign * value:
            return float(row[axis])
    return math.inf


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "live.json"))
