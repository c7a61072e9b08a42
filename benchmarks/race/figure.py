"""What did `python -m benchmarks.race` find? Figures and tables, from its results file alone.

python -m benchmarks.race.figure [RESULTS.json]
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from benchmarks.decisions.statistics import bootstrap_means
from benchmarks.environment import RESULTS
from benchmarks.environment import results_file
from benchmarks.race.arms import COIN
from benchmarks.race.arms import ORACLE
from benchmarks.race.arms import is_judge
from benchmarks.race.arms import knows_other_tasks
from benchmarks.race.results import MEASURES
from benchmarks.race.results import Results
from optuna_aelle.backtest.arms import DEFAULTS
from optuna_aelle.backtest.arms import OURS

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

FloatArray = npt.NDArray[np.float64]

TITLES = {
    "regret_final": "best network trained to its end",
    "regret_seen": "best score seen at any epoch",
    "regret_final_long": "best network trained to its end, epochs of 100 fingerprints",
    "regret_seen_long": "best score seen, epochs of 100 fingerprints",
}
# What a page can show at once: doing nothing, Optuna's defaults, and the best of each family.
SHOWN = {
    "random, none": ("#b0bec5", ":"),
    DEFAULTS: ("#607d8b", "--"),
    "TPE, none": ("#607d8b", ":"),
    "TPE, SHA η=2, min 1": ("#1e88e5", "-"),
    "GP, SHA η=2, min 1": ("#3949ab", "-"),
    "ASHA η=3": ("#fb8c00", "-"),
    "CQR, ASHA η=3": ("#8d6e63", "-"),
    "DyHPO": ("#00897b", "-"),
    "freeze-thaw": ("#7cb342", "-"),
    "zero-shot, SHA η=2": ("#c0ca33", "--"),
    "forest on names + spectrum, SHA η=2": ("#8e24aa", "--"),
    "forest on names + spectrum, ASHA η=3": ("#8e24aa", "-"),
    OURS: ("#d81b60", "-"),
}
_FEWER = (
    DEFAULTS,
    "TPE, SHA η=2, min 1",
    "ASHA η=3",
    "zero-shot, SHA η=2",
    "forest on names + spectrum, SHA η=2",
    OURS,
)


# What docs/benchmarks/who-wins.md shows: the least that there is, of each kind the best, and ours.
_ON_THE_PAGE = {
    "random, none": "doing nothing: random, no pruner",
    DEFAULTS: "Optuna's defaults: TPE, Median",
    "TPE, Hyperband, min 1": "TPE, Hyperband",
    "TPE, SHA η=2, min 1": "TPE, SHA η=2",
    "TPE, SHA η=3, min 1": "TPE, SHA η=3",
    "GP, SHA η=2, min 1": "GP, SHA η=2",
    "top 1 after 1": "all one epoch, then the best",
    "ASHA η=2": "ASHA η=2, with promotion",
    "freeze-thaw": "freeze–thaw",
    "DyHPO": "DyHPO",
    "CQR, ASHA η=3": "CQR, ASHA η=3",
    OURS: "**AeLLE: ours**",
    "zero-shot, SHA η=2": "*zero-shot portfolio, SHA η=2*",
    "quantile transfer, SHA η=2": "*quantile transfer, SHA η=2*",
    "forest on names, SHA η=2": "*forest on names, SHA η=2*",
    "forest on spectrum, SHA η=2": "*forest on spectrum, SHA η=2*",
    "forest on names + spectrum, SHA η=2": "*forest on both, SHA η=2*",
}


def draw_curves(results: Results, figure: Path) -> None:
    """Regret against epochs spent, all tables together, with bands: both measures and readings."""
    fig, axes = plt.subplots(2, 2, figsize=(14, 10), sharex=True, layout="constrained")
    for axis, measure in zip(axes.flat, MEASURES, strict=True):
        for name in _there(results, SHOWN):
            shade, style = SHOWN[name]
            curves = results.curves(measure, name)
            mean = curves.mean(axis=0)
            axis.plot(results.trainings, mean, style, color=shade, lw=2, label=name)
            if name in (OURS, "ASHA η=3"):
                low, high = _band(curves, results.tasks)
                axis.fill_between(results.trainings, low, high, color=shade, alpha=0.12, lw=0)
        _tidy(axis)
        axis.set_title(TITLES[measure], fontsize=11)
    axes[0, 0].legend(frameon=False, fontsize=9, loc="upper right")
    fig.supxlabel("epochs spent, in whole trainings; the method's own cost included")
    fig.supylabel("regret (0: the best of the pool, 1: its median)")
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def draw_tables(results: Results, figure: Path) -> None:
    """The final regret, table by table."""
    tables = results.tables
    n_columns = min(5, len(tables))
    n_rows = -(-len(tables) // n_columns)
    fig, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(3.0 * n_columns, max(2.6 * n_rows, 4.0)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for number, (axis, table) in enumerate(zip(axes.flat, tables, strict=False)):
        for name in _there(results, _FEWER):
            shade, style = SHOWN[name]
            curve = results.curves("regret_final", name)[number]
            axis.plot(results.trainings, curve, style, color=shade, lw=1.6, label=name)
        _tidy(axis)
        axis.set_title(table, fontsize=10)
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, ncols=len(labels), frameon=False, loc="outside upper center")
    fig.supxlabel("epochs spent, in whole trainings")
    fig.supylabel("regret of the best network trained to its end")
    fig.savefig(figure, dpi=100, bbox_inches="tight")
    plt.close(fig)


def draw_speedups(results: Results, figure: Path) -> None:
    """How soon each arm has the regret that the best peer has after so many trainings."""
    names = [
        n
        for n in results.arms
        if not is_judge(n) and not _is_planned(n) and results.is_complete(n)
    ]
    fig, axes = plt.subplots(
        1, 2, figsize=(15, 0.3 * len(names) + 2.6), sharey=True, layout="constrained"
    )
    for axis, measure in zip(axes, ("regret_final", "regret_seen"), strict=True):
        height = 0.8 / len(results.budgets)
        for number, budget in enumerate(results.budgets):
            peer, bar = best_peer(results, measure, budget)
            reached = [_first_at(results, measure, name, bar) / budget for name in names]
            shown = [min(x, 1.5) for x in reached]
            places = np.arange(len(names)) + (number - 1) * height
            label = f"{budget} trainings ({peer}: {bar:.3f})"
            axis.barh(places, shown, height, label=label, color=f"C{number}")
        axis.axvline(1.0, color="#37474f", lw=1)
        axis.set_xlim(0.0, 1.5)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("share of the epochs that the best peer needs; 1.5: more or never")
        axis.set_title(TITLES[measure], fontsize=11)
        axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.06))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.margins(y=0.01)
    axes[0].invert_yaxis()
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def draw_ranks(results: Results, figure: Path) -> None:
    """Mean ranks over tables at each budget."""
    names = [n for n in results.arms if not is_judge(n) and results.is_complete(n)]
    fig, axes = plt.subplots(1, 2, figsize=(15, 0.27 * len(names) + 1.4))
    for axis, measure in zip(axes, ("regret_final", "regret_seen"), strict=True):
        ranks = {b: _mean_ranks(results, measure, names, b) for b in results.budgets}
        order = np.argsort(ranks[results.budgets[-1]])
        for number, (budget, mean) in enumerate(ranks.items()):
            axis.plot(
                mean[order], np.arange(len(names)), "o", color=f"C{number}", label=f"{budget}"
            )
        axis.set_yticks(range(len(names)), [names[i] for i in order])
        axis.invert_yaxis()
        axis.set_xlabel("mean rank over tables, after so many trainings")
        axis.set_title(TITLES[measure], fontsize=11)
        axis.legend(frameon=False, fontsize=9, title="trainings", loc="lower left")
        axis.grid(color="#eceff1")
        axis.set_axisbelow(True)
    fig.tight_layout()
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def best_peer(results: Results, measure: str, budget: int) -> tuple[str, float]:
    """Who of those that know nothing of other tasks has the least mean regret at a budget.

    One that plans for its budget may be it; where nobody of that kind has raced, anybody.
    """
    racers = [n for n in results.arms if not is_judge(n) and results.is_complete(n)]
    peers = [n for n in racers if n != OURS and not knows_other_tasks(n)]
    means = {n: results.mean(measure, n, budget)[0] for n in peers or racers or results.arms}
    name = min(means, key=lambda n: means[n])
    return name, means[name]


def summary_text(path: Path) -> str:
    """Mean regret of every arm at the budgets, as Markdown, in the reading as recorded."""
    return regret_text(Results.read(path), ("regret_final", "regret_seen"))


def regret_text(results: Results, measures: tuple[str, str]) -> str:
    """Two measures at the budgets, with intervals."""
    head = [f"{kind} {budget}" for kind in ("final", "seen") for budget in results.budgets]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in results.arms:
        cells = []
        for measure in measures:
            for budget in results.budgets:
                mean, low, high = results.mean(measure, name, budget)
                cells.append(f"{mean:.3f} ({low:.2f}–{high:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page_table(results: Results) -> str:
    """The table of `who-wins.md`: both readings, as recorded / where epochs are long."""
    head = [f"{kind} {budget}" for kind in ("final", "seen") for budget in results.budgets]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name, title in _ON_THE_PAGE.items():
        if name not in results.arms:
            continue
        cells = []
        for measure in ("regret_final", "regret_seen"):
            for budget in results.budgets:
                short, long = (
                    f"{results.mean(measure + reading, name, budget)[0]:.3f}".lstrip("0")
                    for reading in ("", "_long")
                )
                cells.append(short if short == long else f"{short} / {long}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired_text(results: Results, arm: str) -> str:
    """Differences of regret over the same pools, with the tables that are won and lost."""
    head = [f"{kind} {budget}" for kind in ("final", "seen") for budget in results.budgets]
    lines = ["| against | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in results.arms:
        if name == arm or is_judge(name):
            continue
        cells = []
        for measure in ("regret_final", "regret_seen"):
            for budget in results.budgets:
                mean, low, high, won, lost = results.difference(measure, arm, name, budget)
                cells.append(f"{mean:+.3f} ({low:+.2f} to {high:+.2f}), {won}–{lost}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def counts_text(results: Results) -> str:
    """What each arm did with the largest budget."""
    budget = str(results.budgets[-1])
    lines = ["| | started | finished | epochs spent on itself |", "|---" * 4 + "|"]
    counts = results.content["counts"]
    for name in results.arms:
        cells = [f"{counts[kind][name][budget]:.1f}" for kind in counts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speedup_text(results: Results) -> str:
    """Trainings until the regret that the best peer has after 3, 6 and 12, as Markdown."""
    head = []
    bars = {}
    for measure in ("regret_final", "regret_seen"):
        for budget in results.budgets:
            peer, bar = best_peer(results, measure, budget)
            bars[measure, budget] = bar
            head.append(f"{measure.removeprefix('regret_')} {bar:.3f} ({peer}, {budget})")
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in results.arms:
        if _is_planned(name) or not results.is_complete(name):
            continue
        reached = [_first_at(results, m, name, bar) for (m, _), bar in bars.items()]
        cells = [f"{x:.1f}" if math.isfinite(x) else "—" for x in reached]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables_text(results: Results, measure: str, budget: int) -> str:
    """One measure at one budget, table by table, for few arms."""
    names = [ORACLE, *_there(results, _FEWER), COIN]
    names = [name for name in names if name in results.arms]
    lines = ["| table | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    columns = [np.nanmean(results.at(measure, name, budget), axis=1) for name in names]
    for table, *row in zip(results.tables, *columns, strict=True):
        lines.append(f"| {table} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
    return "\n".join(lines)


def report(results: Results) -> str:
    """All tables, as a page of Markdown."""
    budgets = ", ".join(map(str, results.budgets))
    note = (
        f"Regret after {budgets} whole trainings' worth of epochs, mean over "
        f"{results.content['n_repeats']} repeats, then over {len(results.tables)} tables; in "
        "brackets 95 % by bootstrap over tasks and repeats. Final: of the best network trained to "
        "its end; seen: of the best score at any epoch. What an arm takes for itself is charged "
        "as epochs. Arms that know other tasks have learned from the tables of all tasks but the "
        "one at hand. An epoch that is begun within a budget is finished; who has spent more than "
        "one on itself finishes a whole training less."
    )
    if results.content["failed"]:
        note += f"\n\nRaised, and left out: {'; '.join(results.content['failed'])}."
    last = results.budgets[-1]
    sections = [
        ("As recorded: epochs of tens of milliseconds", summary(results, "")),
        ("Where an epoch takes as long as 100 fingerprints", summary(results, "_long")),
        *(
            (f"{name} against each, pool by pool", paired_text(results, name))
            for name in (OURS, "zero-shot, SHA η=2", "forest on names + spectrum, SHA η=2")
            if name in results.arms
        ),
        ("Trainings until the best peer's regret", speedup_text(results)),
        (f"What each did with {last} trainings", counts_text(results)),
        *(
            (
                f"Final regret after {b} trainings, by table",
                tables_text(results, "regret_final", b),
            )
            for b in results.budgets
        ),
    ]
    return "\n\n".join(["# Searches, raced", note, *(f"## {t}\n\n{x}" for t, x in sections)])


def summary(results: Results, reading: str) -> str:
    """Both measures of one reading."""
    return regret_text(results, (f"regret_final{reading}", f"regret_seen{reading}"))


def draw_all(path: Path) -> None:
    """All figures and the page, beside the results."""
    results = Results.read(path)
    path.with_suffix(".md").write_text(report(results) + "\n")
    draw_curves(results, path.with_suffix(".png"))
    draw_tables(results, path.with_name(f"{path.stem}_tables.png"))
    draw_speedups(results, path.with_name(f"{path.stem}_speedups.png"))
    draw_ranks(results, path.with_name(f"{path.stem}_ranks.png"))


def _there(results: Results, names: object) -> list[str]:
    assert isinstance(names, dict | tuple)
    return [name for name in names if name in results.arms]


def _is_planned(name: str) -> bool:
    """Top K after i is planned for one budget: it has no curve."""
    return name.startswith("top ")


def _band(curves: FloatArray, tasks: list[str]) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    ends = [
        np.percentile(bootstrap_means(column[:, None], tasks, rng), [2.5, 97.5])
        for column in curves.T
    ]
    low, high = np.array(ends).T
    return low, high


def _first_at(results: Results, measure: str, name: str, bar: float) -> float:
    """Trainings until the mean regret is at most ``bar``; infinite if it never is."""
    mean = results.curves(measure, name).mean(axis=0)
    there = np.flatnonzero(mean <= bar + 5e-4)
    return float(results.trainings[there[0]]) if there.size else math.inf


def _mean_ranks(results: Results, measure: str, names: list[str], budget: int) -> FloatArray:
    columns = [np.nanmean(results.at(measure, name, budget), axis=1) for name in names]
    return np.asarray(rankdata(np.array(columns).round(4), axis=0).mean(axis=1))


def _tidy(axis: Axes) -> None:
    axis.set_ylim(0.0, 1.0)
    axis.set_xlim(0.0, None)
    axis.xaxis.set_major_locator(MultipleLocator(3.0))
    axis.grid(color="#eceff1")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def main() -> None:
    """Redraw the figures and print the tables."""
    path = results_file("python -m benchmarks.race.figure", __doc__, RESULTS / "race.json")
    draw_all(path)
    results = Results.read(path)
    print(report(results))
    print("\n## In docs/benchmarks/who-wins.md\n")
    print(page_table(results))


if __name__ == "__main__":
    main()
