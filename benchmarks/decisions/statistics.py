"""Which differences between pruners are more than chance?

From the results file of `benchmarks.decisions.pruning` alone; `benchmarks.decisions.figure` prints
them.

Means are taken over the repeats of a table first, then over tables, so that every table counts
the same. Intervals are bootstrapped over tasks, whose tables are not independent, and over repeats
within tables. Tests pair tables: Wilcoxon's signed ranks, corrected by Holm, measure by measure,
for the peers that are named beforehand (Demšar, JMLR 7, 2006). They take tables of one task for
independent, so their p is on the small side.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import studentized_range
from scipy.stats import wilcoxon

FloatArray = npt.NDArray[np.float64]

# Enough that the ends of a 95 % interval, the 50th draws from either side, are steady.
N_BOOTSTRAP = 2000
# By convention.
SIGNIFICANCE = 0.05


def load(results: Path) -> pd.DataFrame:
    """The replays, one row a table, pruner and repeat."""
    return pd.DataFrame(json.loads(results.read_text())["runs"])


def overall(frame: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Mean, and the ends of a 95 % interval, of each measure: one row a pruner."""
    rng = np.random.default_rng(0)
    rows = {}
    for name, part in frame.groupby("pruner", sort=False):
        row = {}
        for measure in measures:
            values = part.pivot(index="table", columns="repeat", values=measure)
            tasks = [str(table).rsplit("-", 1)[0] for table in values.index]
            row[measure] = float(np.nanmean(np.nanmean(values.to_numpy(float), axis=1)))
            draws = bootstrap_means(values.to_numpy(float), tasks, rng)
            row[f"{measure}_low"], row[f"{measure}_high"] = np.nanpercentile(draws, [2.5, 97.5])
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def bootstrap_means(values: FloatArray, tasks: list[str], rng: np.random.Generator) -> FloatArray:
    """Means of ``values (tables, repeats)``, tables drawn by task and repeats within each."""
    n_tables, n_repeats = values.shape
    own = [np.flatnonzero(np.array(tasks) == task) for task in dict.fromkeys(tasks)]
    drawn = rng.integers(len(own), size=(N_BOOTSTRAP, len(own)))
    # How often each table is in a draw.
    counts = np.zeros((N_BOOTSTRAP, n_tables))
    for task, tables in enumerate(own):
        counts[:, tables] = (drawn == task).sum(axis=1)[:, None]
    repeats = rng.integers(n_repeats, size=(N_BOOTSTRAP, n_tables, n_repeats))
    sampled = np.take_along_axis(values[None], repeats, axis=2)
    means = np.nanmean(sampled, axis=2)
    known = counts * ~np.isnan(means)
    return np.asarray((known * np.nan_to_num(means)).sum(axis=1) / known.sum(axis=1))


def against(frame: pd.DataFrame, ours: str, measure: str, peers: list[str]) -> pd.DataFrame:
    """Ours against each peer over tables: mean difference, wins, losses, Holm's p.

    Less is better. Differences below 5e-4 count as ties: costs are measured in seconds.
    """
    means = frame.groupby(["pruner", "table"], sort=False)[measure].mean().unstack()
    rows = {}
    for name in peers:
        difference = (means.loc[ours] - means.loc[name]).dropna().to_numpy(float)
        decided = np.where(np.abs(difference) < 5e-4, 0.0, difference)
        p = 1.0
        if decided.any():
            p = float(wilcoxon(decided, zero_method="zsplit").pvalue)
        rows[name] = {
            "difference": float(difference.mean()),
            "wins": int((decided < 0).sum()),
            "losses": int((decided > 0).sum()),
            "p": p,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table


def holm(p_values: FloatArray) -> FloatArray:
    """Holm's step-down correction."""
    order = np.argsort(p_values)
    n = len(p_values)
    stepped = np.maximum.accumulate(p_values[order] * (n - np.arange(n)))
    corrected = np.empty(n)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def mean_ranks(frame: pd.DataFrame, measure: str, pruners: list[str]) -> tuple[pd.Series, float]:
    """Mean rank of each pruner over tables, and Nemenyi's critical difference."""
    means = frame.groupby(["table", "pruner"], sort=False)[measure].mean().unstack()[pruners]
    ranks = np.apply_along_axis(rankdata, 1, means.round(4).to_numpy(float))
    n_tables, n_pruners = ranks.shape
    q = studentized_range.ppf(1.0 - SIGNIFICANCE, n_pruners, np.inf) / np.sqrt(2.0)
    difference = q * np.sqrt(n_pruners * (n_pruners + 1) / (6.0 * n_tables))
    return pd.Series(ranks.mean(axis=0), index=pruners), float(difference)


def cliques(ranks: pd.Series, difference: float) -> list[tuple[int, int]]:
    """First and last place of the groups, in order of rank, that are not told apart."""
    ordered = np.sort(ranks.to_numpy(float))
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ordered):
        last = int(np.flatnonzero(ordered <= rank + difference)[-1])
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
