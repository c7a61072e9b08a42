"""What did `benchmarks.scale` find? A figure and a table, from its results file alone.

python -m benchmarks.scale.figure [RESULTS.json]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.environment import RESULTS
from benchmarks.environment import results_file
from benchmarks.scale.arms import ARMS
from benchmarks.scale.arms import OURS
from benchmarks.scale.arms import PEER
from benchmarks.scale.audit import is_clean

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLORS = {OURS: "#d81b60", PEER: "#1e88e5"}
STORES = {"postgresql": "PostgreSQL", "grpc": "gRPC proxy over PostgreSQL", "memory": "memory"}
# What is asked of a decision, in milliseconds, and of threads on busy cores.
MEDIAN, P99, BUSY = 20.0, 250.0, 1.3
Rows = list[dict[str, Any]]


def draw(path: Path) -> str:
    """Write ``scale.png`` beside the results; the tables in words."""
    results = json.loads(path.read_text())
    figure, axes = plt.subplots(2, 3, figsize=(14.0, 7.6), layout="constrained")
    _throughput(axes[0, 0], results["throughput"])
    _course(axes[0, 1], results["throughput"])
    _busy(axes[0, 2], results["busy"])
    _latency(axes[1, 0], results["latency"], "ask", "Sampler: ask and suggest")
    _latency(axes[1, 1], results["latency"], "prune", "Pruner: should_prune")
    _memory(axes[1, 2], results["latency"])
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
    return table(results)


def _throughput(axis: Any, rows: Rows) -> None:
    axis.set_title("Trials that train nothing, the first ones")
    axis.set_xlabel("worker processes")
    axis.set_ylabel("trials a second")
    for store, style in (("postgresql", "-"), ("grpc", "--")):
        for arm in ARMS:
            mine = [r for r in rows if r["store"] == store and r["arm"] == arm]
            if mine:
                axis.plot(
                    [r["workers"] for r in mine],
                    [r["first_per_second"] for r in mine],
                    style,
                    marker="o",
                    color=COLORS[arm],
                    label=f"{arm}, {STORES[store]}",
                )
    axis.set_ylim(bottom=0.0)
    _ticks(axis, sorted({r["workers"] for r in rows}))
    _legend(axis)


def _course(axis: Any, rows: Rows) -> None:
    most = max((r["workers"] for r in rows), default=0)
    axis.set_title(f"{most} workers")
    axis.set_xlabel("seconds")
    axis.set_ylabel("trials that have ended")
    for row in rows:
        if row["workers"] == most:
            ended, seconds = zip(*row["ended_after"], strict=True)
            style = "-" if row["store"] == "postgresql" else "--"
            label = f"{row['arm']}, {STORES[row['store']]}"
            axis.plot(seconds, ended, style, color=COLORS[row["arm"]], label=label)
    _legend(axis)


def _busy(axis: Any, rows: Rows) -> None:
    axis.set_title("The same training on busy cores")
    axis.set_xlabel("n_jobs")
    axis.set_ylabel("seconds, as a multiple of TPE + Median")
    positions = range(len(rows))
    axis.bar(positions, [r["ratio"] for r in rows], color=COLORS[OURS], width=0.5)
    for position, row in enumerate(rows):
        ratios = row["ratios"]
        axis.plot([position] * len(ratios), ratios, "k_", label="runs" if not position else None)
    axis.axhline(1.0, color=COLORS[PEER])
    axis.axhline(BUSY, color="#666666", linestyle=":", label=f"target {BUSY:g}")
    axis.set_xticks(list(positions), [str(r["n_jobs"]) for r in rows])
    axis.set_xlim(-0.6, len(rows) - 0.4)
    _legend(axis)


def _latency(axis: Any, rows: Rows, kind: str, title: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("ended trials")
    axis.set_ylabel("milliseconds")
    for arm in ARMS:
        mine = [r for r in rows if r["arm"] == arm and r["store"] == "memory"]
        if mine:
            ended = [r["ended"] for r in mine]
            medians = [r[kind]["median_ms"] for r in mine]
            axis.plot(ended, medians, marker="o", color=COLORS[arm], label=f"{arm}, median")
            p99 = [r[kind]["p99_ms"] for r in mine]
            axis.plot(ended, p99, ":", marker=".", color=COLORS[arm], label=f"{arm}, 99 %")
    axis.axhline(MEDIAN, color="#666666", linewidth=0.8)
    axis.axhline(P99, color="#666666", linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_yscale("log")
    _ticks(axis, sorted({r["ended"] for r in rows}))
    _legend(axis)


def _memory(axis: Any, rows: Rows) -> None:
    axis.set_title("Memory of a process")
    axis.set_xlabel("ended trials")
    axis.set_ylabel("MiB at most")
    for arm in ARMS:
        mine = [r for r in rows if r["arm"] == arm and r["store"] == "memory"]
        ended = [r["ended"] for r in mine]
        axis.plot(ended, [_mib(r) for r in mine], marker="o", color=COLORS[arm], label=arm)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0.0)
    _ticks(axis, sorted({r["ended"] for r in rows}))
    _legend(axis)


def _mib(row: dict[str, Any]) -> float:
    return math.nan if row["mib"] is None else float(row["mib"])


def _ticks(axis: Any, places: list[int]) -> None:
    axis.set_xticks(places, [f"{place:,}" for place in places], minor=False)
    axis.set_xticks([], minor=True)


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)


def _pairs(rows: Rows) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Storage and number of workers, as two cells, and the rows of both arms."""
    known = {(r["store"], r["workers"], r["arm"]): r for r in rows}
    for store, workers in dict.fromkeys((s, w) for s, w, _ in known):
        ours, peer = (known[store, workers, arm] for arm in ARMS)
        yield f"{STORES[store]} | {workers}", ours, peer


def _beside(ours: dict[str, Any], peer: dict[str, Any], key: str) -> str:
    return f"{ours[key]:.2f}, {peer[key]:.2f}, {ours[key] / peer[key]:.2f}"


def table(results: dict[str, Any]) -> str:
    """All numbers in words, with what was asked of them."""
    lines = []
    if results["throughput"]:
        lines += [
            "| storage | workers | trials | trials a second: AeLLE, TPE + Median, ratio | "
            "of the first ones | reports a second | lost, doubled or unlike | "
            "decisions, that do not follow |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for where, ours, peer in _pairs(results["throughput"]):
            rates = [
                _beside(ours, peer, key)
                for key in ("trials_per_second", "first_per_second", "reports_per_second")
            ]
            clean = is_clean(ours["audit"]) and is_clean(peer["audit"])
            lines.append(
                f"| {where} | {ours['trials']} | {' | '.join(rates)} | "
                f"{'none' if clean else 'yes, see audit'} | {ours['audit']['decisions']}, "
                f"{ours['audit']['not_following']} |"
            )
        lines.append("")
    if results["same_work"]:
        lines += [
            "| storage | workers | trials of the same length | trials a second: AeLLE, "
            "TPE + Median, ratio | processor seconds a trial |",
            "| --- | --- | --- | --- | --- |",
        ]
        for where, ours, peer in _pairs(results["same_work"]):
            rate = _beside(ours, peer, "trials_per_second")
            cpu = [row["cpu_seconds"] / row["trials"] for row in (ours, peer)]
            lines.append(f"| {where} | {ours['trials']} | {rate} | {cpu[0]:.3f}, {cpu[1]:.3f} |")
        lines.append("")
    if results["latency"]:
        lines += [
            "| storage | ended | arm | sampler: median, 99 % (ms) | of processor time | "
            "pruner: median, 99 % (ms) | first trial (s) | MiB |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for r in results["latency"]:
            ask, prune = r["ask"], r["prune"]
            lines.append(
                f"| {STORES[r['store']]} | {r['ended']:,} | {r['arm']} | {ask['median_ms']:.1f}, "
                f"{ask['p99_ms']:.0f} | {ask['median_cpu_ms']:.1f} | {prune['median_ms']:.2f}, "
                f"{prune['p99_ms']:.0f} | {r['first_trial_seconds']:.2f} | {_mib(r):.0f} |"
            )
        lines.append("")
    if results["busy"]:
        lines += ["| n_jobs on busy cores | AeLLE (s) | TPE + Median (s) | ratio | of all runs |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for r in results["busy"]:
            seconds = f"{r[OURS]['seconds']:.1f} | {r[PEER]['seconds']:.1f}"
            all_runs = ", ".join(f"{ratio:.2f}" for ratio in r["ratios"])
            lines.append(f"| {r['n_jobs']} | {seconds} | {r['ratio']:.2f} | {all_runs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw(results_file("python -m benchmarks.scale.figure", __doc__, RESULTS / "scale.json")))
