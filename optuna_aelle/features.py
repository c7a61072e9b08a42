"""From trials to what a predictor learns from: standings, curves, hyperparameters.

A *lesson* is a trial that teaches something: a finished one with a finite value, or a pruned one
that reported at least one. Its *standing* is where it came out in the study: finished trials
first, by value, then pruned ones by how far they came and their last value (the order of Optuna's
TPE), as the normal score of that rank. A standing is known for every lesson, has unit spread
whatever the metric's scale, and no single bad loss can distort it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm

FloatArray = npt.NDArray[np.float64]

# How uncertain the standing of a trial is that was pruned at once, as a variance of the standing.
_PRUNED_VARIANCE = 0.3


def reports(trial: FrozenTrial, step: float = math.inf) -> list[float]:
    """The values reported up to ``step``, in order of step, NaN included."""
    return [value for s, value in sorted(trial.intermediate_values.items()) if s <= step]


def is_lesson(trial: FrozenTrial) -> bool:
    """Whether the trial has ended in a way that others can be compared with."""
    if trial.state == TrialState.COMPLETE:
        return trial.values is not None and math.isfinite(trial.values[0])
    return trial.state == TrialState.PRUNED and any(map(math.isfinite, reports(trial)))


def went_past(trial: FrozenTrial, step: int) -> bool:
    """Whether what the trial came to lies after ``step``."""
    return trial.state == TrialState.COMPLETE or (trial.last_step or 0) > step


def normal_scores(values: npt.ArrayLike) -> FloatArray:
    """Normal scores of the ranks, ties sharing theirs: larger is larger."""
    array = np.asarray(values, dtype=np.float64)
    return score_against(array, array)


def score_against(values: npt.ArrayLike, reference: FloatArray) -> FloatArray:
    """Where ``values (m,)`` would rank within ``reference (n,)``, as normal scores."""
    array = np.asarray(values, dtype=np.float64)
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, array, "left") + np.searchsorted(ordered, array, "right")
    return np.asarray(norm.ppf((below / 2.0 + 0.5) / (len(ordered) + 1.0)), dtype=np.float64)


def standings(lessons: Sequence[FrozenTrial], sign: float) -> tuple[FloatArray, FloatArray]:
    """The standing of each lesson ``(n,)``, higher is better, and its variance ``(n,)``.

    Args:
        lessons: Ended trials (`is_lesson`).
        sign: +1 to maximise, −1 to minimise.
    """

    def key(trial: FrozenTrial) -> tuple[float, float, float]:
        if trial.state == TrialState.COMPLETE:
            return 1.0, 0.0, sign * float(trial.values[0])
        last = [v for v in reports(trial) if math.isfinite(v)][-1]
        return 0.0, float(trial.last_step or 0), sign * last

    keys = [key(trial) for trial in lessons]
    position = {k: i for i, k in enumerate(sorted(set(keys)))}
    lengths = np.array([len(trial.intermediate_values) for trial in lessons], dtype=np.float64)
    finished = np.array([trial.state == TrialState.COMPLETE for trial in lessons])
    doubt = 1.0 - np.log1p(lengths) / np.log1p(max(lengths.max(), 1.0))
    variance = np.where(finished, 0.0, _PRUNED_VARIANCE * doubt)
    return normal_scores([position[k] for k in keys]), variance


def curve_statistics(trials: Sequence[FrozenTrial], step: int, sign: float) -> FloatArray:
    """Last value and mean of all values up to ``step``, higher is better: ``(n, 2)``.

    What is missing or not a number counts as worse than anything.
    """
    rows = np.full((len(trials), 2), -np.inf)
    for row, trial in zip(rows, trials, strict=True):
        values = sign * np.asarray(reports(trial, step), dtype=np.float64)
        if len(values) and not np.isnan(values).any():
            row[:] = values[-1], values.mean()
    return rows


class ParameterEncoder:
    """Hyperparameters as columns of about unit spread: logarithms where searched so, one-hot.

    A parameter that a trial does not have (a conditional one) takes the mean.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._distributions: dict[str, BaseDistribution] = {}
        for trial in trials:
            self._distributions.update(trial.distributions)
        raw = self._raw(trials)
        with np.errstate(invalid="ignore"):
            missing = np.isnan(raw)
            count = np.maximum((~missing).sum(axis=0), 1)
            self._center = np.where(missing, 0.0, raw).sum(axis=0) / count
            centred = np.where(missing, 0.0, raw - self._center)
        spread = np.sqrt((centred**2).sum(axis=0) / count)
        self._varies = spread > 1e-12
        self._scale = np.where(self._varies, spread, 1.0)

    @property
    def n_columns(self) -> int:
        return int(self._varies.sum())

    def encode(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        """Shape ``(n, n_columns)``."""
        raw = self._raw(trials)
        scaled = np.where(np.isnan(raw), 0.0, (raw - self._center) / self._scale)
        return np.asarray(scaled[:, self._varies])

    def _raw(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        columns = []
        for name, distribution in sorted(self._distributions.items()):
            internal = np.array([_internal(trial.params, name, distribution) for trial in trials])
            if isinstance(distribution, CategoricalDistribution):
                for choice in range(len(distribution.choices)):
                    hit = (internal == choice).astype(np.float64)
                    columns.append(np.where(np.isnan(internal), np.nan, hit))
            elif getattr(distribution, "log", False):
                columns.append(np.log(internal))
            else:
                columns.append(internal)
        return np.stack(columns, axis=1) if columns else np.zeros((len(trials), 0))


def _internal(params: Mapping[str, object], name: str, distribution: BaseDistribution) -> float:
    if name not in params:
        return math.nan
    try:
        return float(distribution.to_internal_repr(params[name]))
    except (TypeError, ValueError):
        # Another trial searched this name over another space.
        return math.nan
