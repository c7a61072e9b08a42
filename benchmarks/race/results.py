"""What is kept of races, and read again: the results file of `python -m benchmarks.race`.

``curves``: regret by measure, arm and table over ``trainings``, means over the repeats; three
points for each whole training. ``at``: the same at the budgets that are reported, each repeat.
``counts``: configurations started and finished, and epochs spent on the method itself, there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.decisions.statistics import bootstrap_means

FloatArray = npt.NDArray[np.float64]

MEASURES = ("regret_final", "regret_seen", "regret_final_long", "regret_seen_long")
COUNTS = ("n_started", "n_finished", "overhead")
_POINTS_A_TRAINING = 3


def pack(frame: pd.DataFrame, budgets: Sequence[int]) -> dict[str, Any]:
    """Races, one row an arm, table, repeat and number of epochs, as what JSON holds."""
    kept = frame[_is_multiple(frame["trainings"] * _POINTS_A_TRAINING)]
    trainings = sorted(kept["trainings"].unique().tolist())
    reported = frame[frame["trainings"].isin([float(b) for b in budgets])]
    curves: dict[str, Any] = {}
    at: dict[str, Any] = {}
    for measure in MEASURES:
        means = kept.groupby(["arm", "table", "trainings"], sort=False)[measure].mean()
        for (arm, table), curve in means.groupby(level=["arm", "table"], sort=False):
            values = curve.droplevel(["arm", "table"]).reindex(trainings)
            curves.setdefault(measure, {}).setdefault(arm, {})[table] = _rounded(values)
        for (arm, table), part in reported.groupby(["arm", "table"], sort=False):
            wide = part.pivot(index="trainings", columns="repeat", values=measure)
            at.setdefault(measure, {}).setdefault(arm, {})[table] = {
                str(int(budget)): _rounded(row) for budget, row in wide.iterrows()
            }
    counts = reported.groupby(["arm", "trainings"], sort=False)[list(COUNTS)].mean()
    return {
        "trainings": trainings,
        "budgets": list(budgets),
        "n_repeats": int(frame["repeat"].nunique()),
        "failed": failures(frame),
        "curves": curves,
        "at": at,
        "counts": {
            name: {
                arm: {str(int(b)): round(float(x), 2) for (_, b), x in part.items()}
                for arm, part in counts[name].groupby(level="arm", sort=False)
            }
            for name in COUNTS
        },
    }


def merge(content: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """The results of a race with the arms of another one, of the same pools, put in or replaced.

    Raises:
        ValueError: The other one had other tables, pools or budgets.
    """
    for name in ("pool_share", "trainings", "budgets", "n_repeats"):
        if content[name] != newer[name]:
            raise ValueError(
                f"Expected a race with the same {name}, {content[name]}, got {newer[name]}."
            )
    tables, others = (
        {t for arm in c["curves"][MEASURES[0]].values() for t in arm} for c in (content, newer)
    )
    if tables != others:
        raise ValueError(f"Expected a race over the same tables, got {sorted(tables ^ others)}.")
    merged: dict[str, Any] = json.loads(json.dumps(content))
    arms = list(newer["counts"]["n_started"])
    for group in ("curves", "at", "counts"):
        for measure, own in newer[group].items():
            merged[group][measure] |= own
    merged["failed"] = [f for f in content["failed"] if f.split(", ")[0] not in arms]
    merged["failed"] += newer["failed"]
    earlier = [run for run in content.get("reruns", []) if not set(run["arms"]) <= set(arms)]
    head = {name: newer[name] for name in ("command", "environment")}
    merged["reruns"] = [*earlier, {"arms": arms, **head}]
    merged.pop("rerun", None)
    return merged


def failures(frame: pd.DataFrame) -> list[str]:
    """Arm, table and repeat of every race in which an arm has raised."""
    failed = frame[frame[MEASURES[0]].isna()]
    runs = failed[["arm", "table", "repeat"]].drop_duplicates().itertuples(index=False)
    return [f"{arm}, {table}, repeat {repeat}" for arm, table, repeat in runs]


def _is_multiple(values: pd.Series) -> pd.Series:
    return (values - values.round()).abs() < 1e-3


def _rounded(values: pd.Series) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), 4) for x in values]


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        content: As it is in the file.
    """

    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Results:
        """The file's."""
        return cls(json.loads(path.read_text()))

    @property
    def arms(self) -> list[str]:
        """In the order of the races."""
        return list(self.content["curves"][MEASURES[0]])

    @property
    def tables(self) -> list[str]:
        """All that were raced over, in order of name."""
        return sorted({t for arm in self.content["curves"][MEASURES[0]].values() for t in arm})

    @property
    def budgets(self) -> list[int]:
        """Those that are reported, in whole trainings."""
        return list(self.content["budgets"])

    @property
    def trainings(self) -> FloatArray:
        """Where the curves have their points."""
        return np.array(self.content["trainings"])

    def is_complete(self, arm: str) -> bool:
        """Whether an arm has a result for every table, repeat and budget, and can be ranked."""
        return all(
            np.isfinite(self.at(measure, arm, budget)).all()
            for measure in MEASURES
            for budget in self.budgets
        )

    def curves(self, measure: str, arm: str) -> FloatArray:
        """``(tables, points)``, means over the repeats."""
        own = self.content["curves"][measure][arm]
        nothing = [math.nan] * len(self.trainings)
        return np.array([own.get(table, nothing) for table in self.tables], dtype=np.float64)

    def at(self, measure: str, arm: str, budget: int) -> FloatArray:
        """``(tables, repeats)`` at a budget."""
        own = self.content["at"][measure][arm]
        nothing = [math.nan] * self.content["n_repeats"]
        rows = [own.get(table, {}).get(str(budget), nothing) for table in self.tables]
        return np.array(rows, dtype=np.float64)

    def mean(self, measure: str, arm: str, budget: int) -> tuple[float, float, float]:
        """Over repeats, then over tables, with the ends of a 95 % interval."""
        values = self.at(measure, arm, budget)
        draws = bootstrap_means(values, self.tasks, np.random.default_rng(0))
        low, high = np.nanpercentile(draws, [2.5, 97.5])
        return float(np.nanmean(np.nanmean(values, axis=1))), float(low), float(high)

    def difference(
        self, measure: str, arm: str, other: str, budget: int
    ) -> tuple[float, float, float, int, int]:
        """Arm minus other, pool by pool: mean, 95 % interval, tables won and lost."""
        values = self.at(measure, arm, budget) - self.at(measure, other, budget)
        draws = bootstrap_means(values, self.tasks, np.random.default_rng(0))
        low, high = np.nanpercentile(draws, [2.5, 97.5])
        by_table = np.nanmean(values, axis=1)
        won, lost = int((by_table < -5e-4).sum()), int((by_table > 5e-4).sum())
        return float(np.nanmean(by_table)), float(low), float(high), won, lost

    @property
    def tasks(self) -> list[str]:
        """Of each table."""
        return [table.rsplit("-", 1)[0] for table in self.tables]
