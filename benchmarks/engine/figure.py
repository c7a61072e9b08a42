"""What did `benchmarks.engine` find, in eight panels? From its results file alone.

python -m benchmarks.engine.figure [RESULTS.json]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from benchmarks.engine.table import SHARE_OF_EPOCH
from benchmarks.engine.table import STEP_IN_PRODUCTS
from benchmarks.environment import RESULTS
from benchmarks.environment import results_file

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLORS = {
    "LSTM hidden": "#d81b60",
    "LSTM full": "#fb8c00",
    "GRU": "#1e88e5",
    "RNN": "#00897b",
    "MinGRU": "#8e24aa",
    "S6": "#6d4c41",
}
_PEERS = {"chaotax": "#5e35b1", "clvlib": "#757575", "lyapax": "#c0a000"}
_ERRORS = {
    "QR float32": ("s", "#9e9e9e"),
    "QR float64": ("D", "#546e7a"),
    "ours float32": ("v", "#f48fb1"),
    "ours float64": ("o", "#d81b60"),
}
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
# Errors below are rounding, and a logarithm needs something to show.
_FLOOR = 1e-17


def draw(results: Path, figure: Path) -> None:
    """Eight panels; one whose section has not been measured says so."""
    data = json.loads(results.read_text())
    panels: list[tuple[tuple[str, ...], str, Callable[[Axes, Any], None]]] = [
        (("speed",), "times faster than a careful user's QR", partial(_speed, way="plain")),
        (("speed",), "times faster than the paper's own code", partial(_speed, way="public")),
        (("speed",), "times faster than without compiled code", partial(_speed, way="general")),
        (("peers",), "time of other packages over ours", _peers),
        (("gemm_cost",), "cost of a step in float64 matrix products", _gemm_cost),
        (("fingerprint",), "a fingerprint's share of one training epoch", _fingerprint),
        (("candidates", "diagonal", "first_call"), "seconds of one call", _seconds),
        (("accuracy",), "error at gain 10, tanh RNN", _saturated),
    ]
    fig, axes = plt.subplots(4, 2, figsize=(11.5, 16.5))
    for axis, (sections, title, panel) in zip(axes.flat, panels, strict=True):
        axis.set_title(title, fontsize=11)
        found = {name: data[name] for name in sections if name in data}
        if not found or (sections == ("peers",) and not found["peers"].get("rows")):
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        else:
            panel(axis, found if len(sections) > 1 else found[sections[0]])
    fig.tight_layout(h_pad=2.0)
    fig.savefig(figure, dpi=130)
    plt.close(fig)


def _of(section: Any, name: str, key: str) -> list[Any]:
    """Rows of an architecture that have ``key``, by size."""
    rows = [r for r in section["rows"] if r["architecture"] == name and key in r]
    return sorted(rows, key=lambda row: int(row["hidden_size"]))


def _speed(axis: Axes, section: Any, *, way: str) -> None:
    key, drawn = f"{way}_over_ours", []
    for name, color in _COLORS.items():
        rows = _of(section, name, key)
        if rows:
            sizes, ratios = [r["hidden_size"] for r in rows], [r[key] for r in rows]
            axis.plot(sizes, ratios, "-o", color=color, label=name)
            drawn += ratios
        rows = [row for row in rows if way == "public" and "other_allocator" in row]
        if rows:
            ratios = [row["other_allocator"][key] for row in rows]
            axis.plot([r["hidden_size"] for r in rows], ratios, "--", color=color, lw=1.3)
            drawn += ratios
    if way == "public":
        axis.plot([], [], "-", color="#424242", label="glibc's allocator by default")
        axis.plot([], [], "--", color="#424242", label="told to keep memory")
    _sizes(axis, section)
    _ratios(axis, drawn, "their seconds / ours")
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")


def _peers(axis: Axes, section: Any) -> None:
    drawn: list[float] = []
    for name, color in _PEERS.items():
        by_size: dict[int, list[float]] = {}
        for row in section["rows"]:
            if name in row["over_ours"]:
                by_size.setdefault(row["hidden_size"], []).append(row["over_ours"][name])
        sizes = sorted(by_size)
        if not sizes:
            continue
        low, middle, high = (
            [float(f(by_size[size])) for size in sizes] for f in (np.min, np.median, np.max)
        )
        axis.plot(sizes, middle, "-o", color=color, label=f"{name} {section['peers'][name]}")
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, lw=0)
        drawn += low + high
    _sizes(axis, section)
    _ratios(axis, drawn, "median, least and most of 3 cells, 2 dtypes")
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def _gemm_cost(axis: Axes, section: Any) -> None:
    most = STEP_IN_PRODUCTS[0]
    for name, color in _COLORS.items():
        rows = _of(section, name, "step_in")
        if not rows:
            continue
        sizes = [row["hidden_size"] for row in rows]
        ways = {"-o": [row["step_in_best_float64"] for row in rows]}
        ways[":"] = [row["step_in"]["torch.bmm float64"] for row in rows]
        for style, ratios in ways.items():
            axis.plot(sizes, ratios, style, color=color, label=name if style == "-o" else None)
            most = max(most, *ratios)
    axis.plot([], [], "-o", color="#424242", label="of the fastest library")
    axis.plot([], [], ":", color="#424242", label="of torch.bmm")
    _sizes(axis, section)
    _targets(axis, STEP_IN_PRODUCTS, "{:g}")
    axis.set(ylabel="one step / one product (15, N, N)", ylim=(0.0, 1.45 * most))
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")


def _fingerprint(axis: Axes, section: Any) -> None:
    drawn = [*SHARE_OF_EPOCH]
    for name, color in _COLORS.items():
        rows = _of(section, name, "share_of_epoch")
        if rows:
            shares = [row["share_of_epoch"] for row in rows]
            axis.plot([r["hidden_size"] for r in rows], shares, "-o", color=color, label=name)
            drawn += shares
    _sizes(axis, section)
    _targets(axis, SHARE_OF_EPOCH, "{:.0%}")
    low, high = 0.6 * min(drawn), 8.0 * max(drawn)
    axis.set(yscale="log", ylim=(low, high), ylabel="all exponents / one epoch")
    ticks = [tick for tick in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) if low <= tick <= high]
    axis.set_yticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper left")


def _seconds(axis: Axes, sections: Mapping[str, Any]) -> None:
    """Bars of what is measured in one size only."""
    ours, others = "#d81b60", "#9e9e9e"
    bars: list[tuple[str, float, str]] = []
    if "candidates" in sections:
        part = sections["candidates"]
        told = f"{part['models']} candidates"
        middle = part["median_seconds"]
        bars += [(f"{told}, at once", middle["together"], ours)]
        bars += [(f"{told}, one by one", middle["one_by_one"], ours)]
        bars += [(f"{told}, not compiled", middle["general"], others)]
    for row in sections.get("diagonal", {}).get("rows", ()):
        told, middle = f"{row['architecture']}, N = {row['state_size']:,}", row["median_seconds"]
        bars += [(f"{told}: exponents", middle["exponents"], ours)]
        bars += [(f"{told}: forward", middle["forward"], others)]
        bars += [(f"{told}: step by step", middle["loop"], others)]
    if "first_call" in sections:
        part = sections["first_call"]
        bars += [("import", part["warm_cache"]["import"], ours)]
        bars += [("first spectrum", part["warm_cache"]["first GRU"], ours)]
        bars += [("first spectrum, empty cache", part["empty_cache"]["first GRU"], ours)]
    labels, seconds, colors = zip(*bars[::-1], strict=True)
    axis.barh(range(len(bars)), seconds, color=colors, height=0.7)
    for at, value in enumerate(seconds):
        axis.text(1.15 * value, at, f"{value:.2g} s", va="center", fontsize=8)
    axis.set_yticks(range(len(bars)), labels, fontsize=8)
    axis.bar(0, 0, color=ours, label="ours")
    axis.bar(0, 0, color=others, label="compared with")
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    axis.set(xscale="log", xlabel="seconds", xlim=(0.3 * min(seconds), 6.0 * max(seconds)))
    axis.grid(alpha=0.25, axis="x")


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


def _ratios(axis: Axes, ratios: list[float], label: str) -> None:
    """A logarithmic axis of ratios, with room for the legend and a line at 1."""
    axis.axhline(1.0, color="#bdbdbd", lw=0.8)
    low, high = min([0.9, *(0.8 * r for r in ratios)]), 3.0 * max([1.0, *ratios])
    ticks = [tick for tick in _TICKS if low <= tick <= high / 2.0]
    axis.set(yscale="log", ylim=(low, high), ylabel=label)
    axis.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.set_yticks([], minor=True)


def _targets(axis: Axes, targets: tuple[float, float], form: str) -> None:
    """What is to be reached, and what is aimed at, named where no curve is."""
    axis.set_xlim(right=1.5 * axis.get_xlim()[1])
    kinds = (("-", "at most", "bottom"), ("--", "aim", "top"))
    for value, (style, word, side) in zip(targets, kinds, strict=True):
        axis.axhline(value, color="#616161", lw=0.9, ls=style)
        axis.annotate(
            f"{word} {form.format(value)}",
            (0.995, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va=side,
            fontsize=7.5,
            color="#616161",
        )


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
