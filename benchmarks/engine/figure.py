"""What did `benchmarks.engine` find, in four panels? From its results file alone.

python -m benchmarks.engine.figure [RESULTS.json]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from benchmarks.engine.table import SPEED_TARGETS
from benchmarks.environment import RESULTS
from benchmarks.environment import results_file

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLORS = {
    "LSTM hidden": "#d81b60",
    "LSTM full": "#fb8c00",
    "GRU": "#1e88e5",
    "RNN": "#00897b",
}
_ERRORS = {
    "QR float32": ("s", "#9e9e9e"),
    "QR float64": ("D", "#546e7a"),
    "ours float32": ("v", "#f48fb1"),
    "ours float64": ("o", "#d81b60"),
}
# Errors below are rounding, and a logarithm needs something to show.
_FLOOR = 1e-17


def draw(results: Path, figure: Path) -> None:
    """Four panels; one whose section has not been measured says so."""
    data = json.loads(results.read_text())
    panels: list[tuple[str, str, Callable[[Axes, Any], None]]] = [
        ("speed", "times faster than QR at every step", _speed),
        ("gemm_cost", "cost of a step in matrix products", _gemm_cost),
        ("fingerprint", "a fingerprint's share of one training epoch", _fingerprint),
        ("accuracy", "error at gain 10, tanh RNN", _saturated),
    ]
    fig, axes = plt.subplots(2, 2, figsize=(11.5, 8.6))
    for axis, (section, title, panel) in zip(axes.flat, panels, strict=True):
        axis.set_title(title, fontsize=11)
        if section in data:
            panel(axis, data[section])
        else:
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
    fig.tight_layout()
    fig.savefig(figure, dpi=130)
    plt.close(fig)


def _speed(axis: Axes, section: Any) -> None:
    for name, color in _COLORS.items():
        rows = [row for row in section["rows"] if row["architecture"] == name]
        sizes = [row["hidden_size"] for row in rows]
        axis.plot(sizes, [r["public_over_ours"] for r in rows], "-o", color=color, label=name)
        axis.plot(sizes, [r["plain_over_ours"] for r in rows], ":", color=color, lw=1.5)
        targets = {h: r for h, r in SPEED_TARGETS.get(name, {}).items() if h in sizes}
        axis.plot(list(targets), list(targets.values()), "_", color=color, ms=16, mew=1.2)
    axis.plot([], [], "-", color="#424242", label="the public way")
    axis.plot([], [], ":", color="#424242", label="plain float32 QR")
    axis.plot([], [], "_", color="#424242", ms=12, label="target (public way)")
    axis.axhline(1.0, color="#bdbdbd", lw=0.8)
    _sizes(axis, section)
    ratios = [r[f"{way}_over_ours"] for r in section["rows"] for way in ("public", "plain")]
    low, high = min(0.9, 0.8 * min(ratios)), 4.0 * max(ratios)
    ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high / 3.0]
    axis.set(yscale="log", ylim=(low, high), ylabel="their seconds / ours")
    axis.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")


def _gemm_cost(axis: Axes, section: Any) -> None:
    for name, color in _COLORS.items():
        rows = [row for row in section["rows"] if row["architecture"] == name]
        if rows:
            sizes = [row["hidden_size"] for row in rows]
            axis.plot(sizes, [r["gemms_per_step"] for r in rows], "-o", color=color, label=name)
    _sizes(axis, section)
    axis.set(ylabel="one step, in float32 products (15, H, H)")
    axis.set_ylim(bottom=0.0)
    axis.legend(fontsize=8, frameon=False)


def _fingerprint(axis: Axes, section: Any) -> None:
    for name, color in _COLORS.items():
        rows = [row for row in section["rows"] if row["architecture"] == name]
        sizes = [row["hidden_size"] for row in rows]
        axis.plot(sizes, [r["share_of_epoch"] for r in rows], "-o", color=color, label=name)
    _sizes(axis, section)
    axis.set(ylabel=f"{section['exponents']} exponents / one epoch")
    axis.set_ylim(bottom=0.0)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(fontsize=8, frameon=False)


def _saturated(axis: Axes, section: Any) -> None:
    part = section["saturated"]
    index = np.arange(1, part["hidden_size"] + 1)
    for name, (marker, color) in _ERRORS.items():
        errors = np.array([[float(e) for e in row["errors"][name]] for row in part["rows"]])
        errors = np.maximum(errors, _FLOOR)
        lost = int(np.isinf(errors).sum())
        label = f"{name} ({lost} of {errors.size} infinite, not drawn)" if lost else name
        errors = np.where(np.isinf(errors), np.nan, errors)
        shown = np.isfinite(errors).any(axis=0)
        errors, at = errors[:, shown], index[shown]
        middle = np.nanmedian(errors, axis=0)
        axis.plot(at, middle, marker=marker, color=color, label=label, ms=5)
        if len(errors) > 1:
            low, high = np.nanmin(errors, axis=0), np.nanmax(errors, axis=0)
            axis.fill_between(at, low, high, color=color, alpha=0.12, lw=0)
    axis.set(yscale="log", ylim=(1e-18, 1e6), xlabel="index of the exponent")
    axis.set_ylabel(f"|error| against {part['digits']} digits, nats per step")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)


def _sizes(axis: Axes, section: Any) -> None:
    """A logarithmic axis of hidden sizes, with those that were measured named."""
    sizes = sorted({row["hidden_size"] for row in section["rows"]})
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xticks([], minor=True)
    axis.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    axis.set_xlabel("hidden size")
    axis.grid(alpha=0.25)


if __name__ == "__main__":
    default = RESULTS / "engine.json"
    source = results_file("python -m benchmarks.engine.figure", __doc__, default)
    draw(source, source.with_suffix(".png"))
