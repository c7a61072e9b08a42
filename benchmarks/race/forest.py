"""What does a plain forest make of other tasks' tables? The knowledge that reference arms act on.

Whoever claims that knowledge carries over from other tasks must beat it. Of configurations it
reads hyperparameters by their names, in natural units; of spectra every third value, mean, spread,
largest exponent and the shares above three levels; of curves the ranks, among all trials of the
table, of the last value and of its last gain.

Notation: n trials; standings are ranks of final values within a table, 0 worst, 1 best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from functools import lru_cache
from typing import Any
from typing import Literal

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.environment import TABLES
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]
Feature = Literal["names", "spectrum", "curve"]

# Past this many the order changes no more; leaves of four trials forget single outliers. Trees
# that may split by a third of the columns rank the better half better, and are made sooner.
_N_TREES, _LEAF, _COLUMNS = 300, 4, 0.33
# An exponent above 0 expands, above −.05 remembers for tens of steps, above −.5 for a few.
_LEVELS = (0.0, -0.05, -0.5)
# A dead direction: further down nothing is told apart.
_LEAST = -50.0


class Forest:
    """A forest over other tasks' tables, which predicts standings.

    Args:
        past: The tables.
        features: What it reads.
        step: Of what it is asked: −1, or a report after which spectra were recorded.

    Attributes:
        tasks: Those that it has learned from.
    """

    def __init__(
        self,
        past: Sequence[RecordedTrials],
        features: Sequence[Feature],
        step: int = UNTRAINED_STEP,
    ) -> None:
        self.tasks = frozenset(str(table.metadata["task"]) for table in past)
        self._features = tuple(features)
        self._step = step
        self._columns = _NamedColumns(past)
        rows = np.concatenate([self.rows(table.trials, table.direction) for table in past])
        standings = np.concatenate([standings_of(table) for table in past])
        self._trees = ExtraTreesRegressor(
            _N_TREES, min_samples_leaf=_LEAF, max_features=_COLUMNS, random_state=0
        )
        self._trees.fit(rows, standings)

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[FloatArray, FloatArray]:
        """Mean standing of untrained trials, and the spread of the trees, ``(n,)`` each."""
        if step != self._step:
            raise ValueError(f"Expected the step that was learned, {self._step}, got {step}.")
        rows = self.rows(trials, "maximize").astype(np.float32)
        each = np.array([tree.predict(rows) for tree in self._trees.estimators_])
        return each.mean(axis=0), each.std(axis=0)

    def predict_table(self, table: RecordedTrials) -> FloatArray:
        """Mean standings of all trials of a table at the step that was learned, ``(n,)``."""
        return np.asarray(self._trees.predict(self.rows(table.trials, table.direction)))

    def rows(self, trials: Sequence[FrozenTrial], direction: str) -> FloatArray:
        """What is read of trials of one study, ``(n, columns)``, NaN where nothing is known."""
        parts = []
        if "names" in self._features:
            parts.append(self._columns.of(trials))
        if "spectrum" in self._features:
            parts.append(np.array([_spectrum_row(trial, self._step) for trial in trials]))
        if "curve" in self._features:
            parts.append(_curve_rows(trials, self._step, direction))
        return np.concatenate(parts, axis=1)


def standings_of(table: RecordedTrials) -> FloatArray:
    """Ranks of the final values, ``(n,)``; 1 is best."""
    sign = 1.0 if table.direction == "maximize" else -1.0
    finals = np.nan_to_num(sign * table.finals, nan=-np.inf)
    return np.asarray((rankdata(finals) - 1.0) / (len(finals) - 1.0))


class _NamedColumns:
    """Hyperparameters by name: logarithms where they are searched so, choices one-hot."""

    def __init__(self, past: Sequence[RecordedTrials]) -> None:
        self._numbers: dict[str, bool] = {}
        choices: dict[str, set[Any]] = {}
        for table in past:
            for trial in table.trials:
                for name, distribution in trial.distributions.items():
                    if isinstance(distribution, CategoricalDistribution):
                        choices.setdefault(name, set()).update(distribution.choices)
                    else:
                        log = bool(getattr(distribution, "log", False))
                        self._numbers[name] = self._numbers.get(name, False) or log
        self._choices = [
            (name, choice) for name in sorted(choices) for choice in sorted(choices[name], key=str)
        ]

    def of(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        rows = []
        for trial in trials:
            row = []
            for name, log in sorted(self._numbers.items()):
                value = trial.params.get(name, math.nan)
                known = isinstance(value, int | float) and (value > 0.0 or not log)
                row.append((math.log(value) if log else float(value)) if known else math.nan)
            for name, choice in self._choices:
                row.append(
                    float(trial.params[name] == choice) if name in trial.params else math.nan
                )
            rows.append(row)
        return np.array(rows, dtype=np.float64)


def _spectrum_row(trial: FrozenTrial, step: int) -> FloatArray:
    spectra = decode_spectra(trial)
    # Of a training that has diverged, the last one before.
    reached = [s for s in spectra if s <= step]
    if not reached:
        return np.full(11 + 3 + len(_LEVELS), math.nan)
    x = np.maximum(spectra[max(reached)], _LEAST)
    shares = [float((x > level).mean()) for level in _LEVELS]
    return np.array([*x[::3], x.mean(), x.std(), x[0], *shares])


def _curve_rows(trials: Sequence[FrozenTrial], step: int, direction: str) -> FloatArray:
    if step == UNTRAINED_STEP:
        return np.zeros((len(trials), 0))
    sign = 1.0 if direction == "maximize" else -1.0
    last, before = (
        np.array([_value_at(trial, s) for trial in trials]) for s in (step, max(step - 1, 1))
    )
    columns = (sign * last, sign * (last - before))
    return np.stack(
        [rankdata(np.nan_to_num(c, nan=-np.inf)) / len(trials) for c in columns], axis=1
    )


def _value_at(trial: FrozenTrial, step: int) -> float:
    return trial.intermediate_values.get(step, math.nan)


@cache
def load(name: str) -> RecordedTrials:
    """A recorded table, read once a process."""
    return RecordedTrials.load(TABLES / f"{name}.npz")


def past_of(task: str) -> list[RecordedTrials]:
    """All recorded tables but those of a task."""
    names = [n for n in (*DEVELOPMENT_TABLES, *REPORT_TABLES) if n.rsplit("-", 1)[0] != task]
    return [load(name) for name in names]


@lru_cache(maxsize=8)
def forest_without(task: str, features: tuple[Feature, ...], step: int = -1) -> Forest:
    """A forest that has seen nothing of a task."""
    return Forest(past_of(task), features, step)
