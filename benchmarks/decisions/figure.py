"""What did `benchmarks.decisions.pruning` find? Figures and tables, from its results file alone.

python -m benchmarks.decisions.figure [RESULTS.json]
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd

from benchmarks.decisions.arms import ablations
from benchmarks.decisions.arms import resuming_arms
from benchmarks.decisions.arms import sampler_arms
from benchmarks.decisions.statistics import against
from benchmarks.decisions.statistics import cliques
from benchmarks.decisions.statistics import load
from benchmarks.decisions.statistics import mean_ranks
from benchmarks.decisions.statistics import overall
from benchmarks.environment import RESULTS
from benchmarks.environment import results_file
from optuna_aelle.backtest.arms import NONE
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import pruner_arms
from optuna_aelle.backtest.outcomes import BUDGETS
from optuna_aelle.visualization import pareto_front

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_OURS, _VARIANT, _OPTUNA, _RESUMING, _OTHER = (
    "#d81b60",
    "#f48fb1",
    "#1e88e5",
    "#ffb300",
    "#90a4ae",
)
# Beyond lies what hardly prunes; a wider axis would press the others together.
_MOST_SPENT = 0.6
_RANKED = (
    "Median",
    "Median, warm-up 5",
    "Percentile 25",
    "SHA η=2, min 1",
    "SHA η=4, min 1",
    "Hyperband, min 1",
    "loss sum 25",
    "regression 0.05, warm-up 0",
    "top 3 after 2",
    "top 5 after 3",
    OURS,
)
# What ours is tested against was named before the results were there.
_TESTED = tuple(name for name in _RANKED if name != OURS)
_RANKED_BY = {
    "epochs_share": "training spent",
    "regret": "regret at the end",
    "regret_at_20": "regret at 20 % of full training",
}
# As many as a page is wide.
_TABLE_ARMS = (
    "Median",
    "SHA η=2, min 1",
    "SHA η=4, min 1",
    "Hyperband, min 1",
    "top 3 after 2",
    OURS,
)


def color(name: str) -> str:
    """By kind: ours, a variant of it, Optuna's, one that resumes, another peer."""
    if name == OURS:
        return _OURS
    if name in {**ablations(), **sampler_arms()}:
        return _VARIANT
    if name in resuming_arms():
        return _RESUMING
    if name in pruner_arms(Steps()):
        return _OPTUNA
    return _OTHER


def draw_pareto(frame: pd.DataFrame, figure: Path) -> None:
    """Share of training against regret, all tables together: every arm, and the peers' fronts."""
    means = overall(frame, ["epochs_share", "regret"]).drop(index=NONE, errors="ignore")
    fig, axis = plt.subplots(figsize=(9.5, 6.2))
    fronts = _draw_fronts(axis, means)
    if OURS in means.index:
        row = means.loc[OURS]
        x, y = row["epochs_share"], row["regret"]
        axis.plot([row["epochs_share_low"], row["epochs_share_high"]], [y, y], color=_VARIANT)
        axis.plot([x, x], [row["regret_low"], row["regret_high"]], color=_VARIANT)
    kinds = {
        OURS: _OURS,
        "its variants": _VARIANT,
        "Optuna's pruners": _OPTUNA,
        "top K after i epochs (checkpoints)": _RESUMING,
        "other peers": _OTHER,
    }
    for label, shade in kinds.items():
        axis.plot([], [], "o", color=shade, label=label)
    axis.plot([], [], ":", color=_RESUMING, label="Pareto front of all peers")
    axis.plot([], [], "--", color=_OPTUNA, label="of those that keep no checkpoints")
    key = axis.legend(frameon=False, fontsize=9, loc="upper right")
    axis.add_artist(key)
    # Names beside points that lie this close would cover each other.
    for number, name in enumerate(fronts, start=1):
        place = (means.loc[name, "epochs_share"], means.loc[name, "regret"])
        above = (0, 5) if number % 2 else (0, -11)
        axis.annotate(
            str(number), place, above, textcoords="offset points", fontsize=8, ha="center"
        )
    listed = "\n".join(f"{number:>2}  {name}" for number, name in enumerate(fronts, start=1))
    axis.text(1.02, 0.98, listed, transform=axis.transAxes, fontsize=9, va="top")
    axis.set_xlabel("share of full training spent, the method's own cost included")
    axis.set_ylabel("regret (0: the best there was, 1: the median)")
    n_tables, n_repeats = frame["table"].nunique(), frame["repeat"].nunique()
    beyond = [str(name) for name, row in means.iterrows() if row["epochs_share"] > _MOST_SPENT]
    note = f"; beyond the right edge: {', '.join(beyond)}" if beyond else ""
    title = f"{n_tables} tables, {n_repeats} orders of 60 configurations{note}"
    axis.set_title(title, fontsize=11)
    fig.savefig(figure, dpi=130, bbox_inches="tight")
    plt.close(fig)


def draw_tables(frame: pd.DataFrame, figure: Path) -> None:
    """The same, table by table."""
    tables = list(dict.fromkeys(frame["table"]))
    n_rows = -(-len(tables) // 4)
    fig, axes = plt.subplots(n_rows, 4, figsize=(14, 3.1 * n_rows), squeeze=False)
    for axis, table in zip(axes.flat, tables, strict=False):
        part = frame[frame["table"] == table]
        means = part.groupby("pruner", sort=False)[["epochs_share", "regret"]].mean()
        _draw_fronts(axis, means.drop(index=NONE, errors="ignore"))
        axis.set_title(table, fontsize=10)
    for axis in axes.flat[len(tables) :]:
        axis.axis("off")
    fig.supxlabel("share of full training spent")
    fig.supylabel("regret")
    fig.tight_layout()
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def _draw_fronts(axis: Axes, means: pd.DataFrame) -> list[str]:
    """All arms as points, and two fronts of the peers; who is on either, from left to right."""
    peers = _peers(means)
    alone = peers.drop(index=list(resuming_arms()), errors="ignore")
    there: set[str] = set()
    highest = 0.0
    for part, style, shade in ((peers, ":", _RESUMING), (alone, "--", _OPTUNA)):
        cost, loss = part["epochs_share"].to_numpy(float), part["regret"].to_numpy(float)
        front = _front(part)
        axis.step(cost[front], loss[front], style, where="post", color=shade, lw=1.3, zorder=1)
        there |= {str(part.index[i]) for i in front}
        highest = max(highest, float(loss[front].max()))
    for name, row in means.iterrows():
        size = 70 if name == OURS else 26
        place = 4 if name == OURS else 2
        axis.scatter(
            row["epochs_share"], row["regret"], s=size, color=color(str(name)), zorder=place
        )
    axis.set_xlim(0.0, _MOST_SPENT)
    axis.set_ylim(0.0, max(0.3, min(1.0, 1.1 * highest)))
    axis.grid(color="#eceff1")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return sorted(there, key=lambda name: float(means.loc[name, "epochs_share"]))


def draw_ranks(frame: pd.DataFrame, figure: Path) -> None:
    """Mean ranks over tables; bars join those that are not significantly different (Nemenyi)."""
    pruners = [name for name in _RANKED if name in set(frame["pruner"])]
    fig, axes = plt.subplots(1, len(_RANKED_BY), figsize=(15, 0.42 * len(pruners) + 1.2))
    for axis, (measure, title) in zip(axes, _RANKED_BY.items(), strict=True):
        ranks, difference = mean_ranks(frame, measure, pruners)
        ranks = ranks.sort_values()
        for row, (name, rank) in enumerate(ranks.items()):
            axis.plot(rank, row, "o", color=color(str(name)), ms=8, zorder=3)
        groups = cliques(ranks, difference)
        for place, (first, last) in enumerate(groups):
            y = len(ranks) - 0.2 + 0.35 * place
            ends = (ranks.iloc[first] - 0.07, ranks.iloc[last] + 0.07)
            axis.plot(ends, (y, y), color="#455a64", lw=4, solid_capstyle="butt")
        axis.set_ylim(len(ranks) + 0.35 * len(groups), -0.7)
        axis.set_yticks(range(len(ranks)), [str(name) for name in ranks.index])
        axis.set_xlabel(f"mean rank; critical difference {difference:.2f}")
        axis.set_title(title, fontsize=11)
        axis.grid(color="#eceff1", axis="x")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    fig.tight_layout()
    fig.savefig(figure, dpi=110, bbox_inches="tight")
    plt.close(fig)


def _peers(means: pd.DataFrame) -> pd.DataFrame:
    """Without ours, and without the one that prunes nothing."""
    return means.drop(index=[NONE, OURS, *ablations(), *sampler_arms()], errors="ignore")


def _front(means: pd.DataFrame) -> list[int]:
    """Costs are measured in seconds: what differs by less than rounding is equal."""
    cost, loss = means["epochs_share"].to_numpy(float), means["regret"].to_numpy(float)
    return [int(i) for i in pareto_front(cost.round(4), loss.round(4))]


def overall_text(frame: pd.DataFrame) -> str:
    """All arms as a Markdown table, with intervals and the tests against ours."""
    means = overall(frame, ["epochs_share", "regret", "best_kept", "seconds_share"])
    peers_there = [name for name in _TESTED if name in means.index]
    tests = {m: against(frame, OURS, m, peers_there) for m in ("epochs_share", "regret")}
    peers = _peers(means)
    on_front = {peers.index[i] for i in _front(peers)}
    lines = [
        "| | share of training | regret | best one kept | share of seconds | AeLLE against it: "
        "training (wins–losses, p) | regret (wins–losses, p) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in means.iterrows():
        cells = [f"{name} ◆" if name in on_front else str(name)]
        for measure in ("epochs_share", "regret"):
            low, high = row[f"{measure}_low"], row[f"{measure}_high"]
            cells.append(f"{row[measure]:.3f} ({low:.3f}–{high:.3f})")
        cells += [f"{row['best_kept']:.2f}", f"{row['seconds_share']:.3f}"]
        for test in tests.values():
            if name not in test.index:
                cells.append("")
            else:
                t = test.loc[name]
                cells.append(f"{t['wins']:.0f}–{t['losses']:.0f}, {t['p_holm']:.2g}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def budgets_text(frame: pd.DataFrame) -> str:
    """Regret once so much of full training is spent, all arms, as Markdown."""
    columns = [f"regret_at_{round(100 * budget)}" for budget in BUDGETS]
    means = frame.groupby(["pruner", "table"], sort=False)[columns].mean()
    means = means.groupby(level="pruner", sort=False).mean()
    lines = [
        "| | " + " | ".join(f"{round(100 * budget)} %" for budget in BUDGETS) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in means.iterrows():
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
    return "\n".join(lines)


def predictions_text(frame: pd.DataFrame) -> str:
    """How good the predictions of ours were, table by table, as Markdown."""
    part = frame[frame["pruner"] == OURS]
    shown = ["untrained_share", "overhead_share", "coverage", "brier"]
    means = part.groupby("table", sort=False)[shown].mean()
    lines = [
        "| table | pruned before training | own cost, share of training | in the 80 % interval | "
        "Brier score of the chances |",
        "|---|---|---|---|---|",
    ]
    for table, row in means.iterrows():
        cells = [f"{row['untrained_share']:.2f}", f"{row['overhead_share']:.4f}"]
        cells += [f"{row[name]:.2f}" for name in ("coverage", "brier")]
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables_text(frame: pd.DataFrame, first: str, second: str) -> str:
    """Two measures of a few arms, table by table, as Markdown."""
    means = frame.groupby(["table", "pruner"], sort=False)[[first, second]].mean()
    arms = [name for name in _TABLE_ARMS if name in set(frame["pruner"])]
    lines = ["| table | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for table in dict.fromkeys(frame["table"]):
        pairs = [means.loc[(table, arm)] for arm in arms]
        cells = [f"{pair[first]:.3f} / {pair[second]:.3f}" for pair in pairs]
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(results: Path) -> str:
    """All tables, as a page of Markdown."""
    frame = load(results)
    random, proposed = (frame[frame["stream"] == stream] for stream in ("random", "tpe"))
    sections = [
        ("Every arm, configurations in random order", overall_text(random)),
        (
            "Share of training / regret, table by table",
            tables_text(random, "epochs_share", "regret"),
        ),
        (
            "Validation / test score of the chosen network, table by table",
            tables_text(random, "best_value", "chosen_test"),
        ),
        ("Regret once a share of full training is spent", budgets_text(random)),
        ("Predictions of AeLLE", predictions_text(random)),
    ]
    if len(proposed):
        title = "Configurations proposed by TPE, or by AeLLESampler over it"
        sections.append((title, overall_text(proposed)))
    note = (
        "Mean over orders, then over tables; in brackets 95 % by bootstrap over tasks and orders. "
        "◆: on the Pareto front of the peers. p: Wilcoxon over tables, Holm's correction within a "
        "column, against the peers that were named beforehand; tables of one task are not "
        "independent, so p is on the small side. Where TPE proposes, each proposal is moved to "
        "the nearest recorded configuration that is left, which takes from TPE some of its aim, "
        "and regret counts from the best of the whole table, not of the 60 that were tried."
    )
    return "\n\n".join(["# Pruners, replayed", note, *(f"## {t}\n\n{x}" for t, x in sections)])


def draw_all(results: Path, folder: Path, name: str = "pruning") -> None:
    """All figures of the random stream, and the tables as a page."""
    (folder / f"{name}.md").write_text(report(results) + "\n")
    frame = load(results)
    frame = frame[frame["stream"] == "random"]
    draw_pareto(frame, folder / f"{name}.png")
    draw_tables(frame, folder / f"{name}_tables.png")
    draw_ranks(frame, folder / f"{name}_ranks.png")


def main() -> None:
    """Redraw the figures and print the tables."""
    default = RESULTS / "pruning.json"
    results = results_file("python -m benchmarks.decisions.figure", __doc__, default)
    draw_all(results, results.parent, results.stem)
    print(report(results))


if __name__ == "__main__":
    main()
