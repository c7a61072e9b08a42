"""From standings back to values of the objective.

Notation: n lessons with their standings; a lesson that finished has one end, one that was pruned
may have had any of several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm
from sklearn.isotonic import isotonic_regression

FloatArray = npt.NDArray[np.float64]

# An even grid of probabilities, as standard scores.
_NORMAL_QUANTILES = norm.ppf((np.arange(40) + 0.5) / 40)
# Ends so many times as far below the median as the best is above it are all alike.
_WILD = 10.0
# Ends that are known count as if they were uncertain by this share of all that there are, lest the
# map run through each of them.
_LEAST_DOUBT = 0.03
# Beyond the best that was seen, of its distance from the median.
_BEYOND = 0.25


@dataclass(frozen=True, eq=False)
class ValueMap:
    """Mean and standard deviation of the values that belong to the lessons' standings.

    Attributes:
        standings: ``(m,)`` those that there are, ascending.
        means: ``(m,)``, in units of the objective; monotone.
        stds: ``(m,)``.
        slope: Of values by standings, beyond the lessons.
        reach: How far beyond the best of ``means`` a value can lie.
    """

    standings: FloatArray
    means: FloatArray
    stds: FloatArray
    slope: float
    reach: float

    def value(self, standing: npt.ArrayLike) -> FloatArray:
        """The final value that belongs to a standing: between lessons, interpolated."""
        x = np.asarray(standing, dtype=np.float64)
        inside = np.interp(x, self.standings, self.means)
        worse = self.slope * np.minimum(x - self.standings[0], 0.0)
        # Scores end somewhere: nobody is promised more than a little beyond what there has been.
        better = np.abs(self.slope) * np.maximum(x - self.standings[-1], 0.0)
        better = self.reach * np.tanh(better / self.reach) if self.reach > 0.0 else 0.0
        return np.asarray(inside + worse + np.sign(self.slope) * better)

    def distribution(self, mean: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the value where the standing is uncertain, ``(n,)``."""
        possible = mean[:, None] + std[:, None] * _NORMAL_QUANTILES
        values = self.value(possible)
        own = np.interp(possible, self.standings, self.stds)
        return values.mean(axis=1), np.sqrt(values.var(axis=1) + (own**2).mean(axis=1))


def fit_values(lessons: Sequence[FrozenTrial], standings: FloatArray, sign: float) -> ValueMap:
    """Learn which values belong to which standings, by isotonic regression.

    Args:
        lessons: Ended trials.
        standings: ``(n,)`` theirs.
        sign: +1 to maximise, −1 to minimise.
    """
    return _fit(_possible_ends(lessons, sign), standings, sign)


def _fit(ends: list[FloatArray], standings: FloatArray, sign: float) -> ValueMap:
    places, members = np.unique(standings, return_inverse=True)
    shared = [
        np.concatenate([ends[i] for i in np.flatnonzero(members == place)])
        for place in range(len(places))
    ]
    means = np.array([values.mean() for values in shared])
    stds = np.array([values.std() for values in shared])
    # Ends that are known say more of what belongs to their standing.
    relative = stds / (float(np.ptp(means)) or 1.0)
    weights = 1.0 / (relative**2 + max(float(np.median(relative)), _LEAST_DOUBT) ** 2)
    means = isotonic_regression(means, sample_weight=weights, increasing=sign > 0.0)
    # Beyond the lessons, go on as in their middle half: ends may be wild.
    middle_half = float(np.ptp(np.percentile(means, [25, 75])))
    slope = sign * middle_half / max(float(np.ptp(places)) / 2.0, 0.5)
    best = float(means[-1])
    reach = _BEYOND * abs(best - float(np.median(means)))
    return ValueMap(places, means, stds, slope, reach)


def expected_value(
    lessons: Sequence[FrozenTrial],
    standings: FloatArray,
    sign: float,
    trial: FrozenTrial,
    standing: tuple[float, float],
) -> tuple[ValueMap, float, float]:
    """The map of `fit_values`, and the value that a trial in training is expected to end with.

    What its standing says, and what its curve says if it gains from here as finished ones did, are
    weighted by how certain each of them is.

    Args:
        lessons: Ended trials.
        standings: ``(n,)`` theirs.
        sign: +1 to maximise, −1 to minimise.
        trial: With what it has reported.
        standing: Mean and standard deviation of its own.

    Returns:
        The map, mean and standard deviation of the value.
    """
    told = [v for _, v in sorted(trial.intermediate_values.items()) if np.isfinite(v)]
    # One that has reported nothing finite has no curve to read.
    ends = _possible_ends([*lessons, trial] if told else lessons, sign)
    values = _fit(ends[: len(lessons)], standings, sign)
    means, stds = values.distribution(*(np.array([x]) for x in standing))
    mean, variance = float(means[0]), float(stds[0]) ** 2
    # Where none that finished has reported at this step, nobody knows what is gained from here.
    if told and len(ends[-1]) > 1:
        by_curve = float(ends[-1].mean())
        # It may gain half as much, or half as much again; and its curve has moved of late.
        doubt = float(ends[-1].var() + np.var(told[len(told) // 2 :]))
        doubt += (0.5 * (by_curve - told[-1])) ** 2
        if 0.0 < doubt < math.inf:
            # Of a single end all standings are mapped to it: that is no knowledge.
            weight = variance / (variance + doubt) if variance > 0.0 else 1.0
            mean = weight * by_curve + (1.0 - weight) * mean
            variance = weight * doubt
    return values, mean, math.sqrt(variance)


def _possible_ends(lessons: Sequence[FrozenTrial], sign: float) -> list[FloatArray]:
    """The final values that each lesson may have, all as likely; one where it finished.

    What a pruned trial would have come to is not known: two times in three it would have gained
    what a finished trial gained from there, and else nothing more.
    """
    finished = [t for t in lessons if t.state == TrialState.COMPLETE]
    gains: dict[int, FloatArray] = {}
    seen: list[float] = []
    ends = []
    for trial in lessons:
        if trial.state == TrialState.COMPLETE:
            seen.append(trial.values[0])
            ends.append(np.array([trial.values[0]]))
            continue
        steps = [s for s, v in sorted(trial.intermediate_values.items()) if np.isfinite(v)]
        if steps[-1] not in gains:
            left = [
                t.values[0] - t.intermediate_values[steps[-1]]
                for t in finished
                if np.isfinite(t.intermediate_values.get(steps[-1], np.nan))
            ]
            gains[steps[-1]] = np.array([*left, *left, *[0.0] * max(len(left), 1)])
        seen.append(trial.intermediate_values[steps[-1]])
        ends.append(seen[-1] + gains[steps[-1]])
    # A wild value says "bad" and no more. How far values reach, those tell that were seen.
    known = sign * np.array(seen)
    reach = known.max() - np.median(known) or np.ptp(known)
    low, high = np.median(known) - _WILD * reach, known.max() + reach
    return [sign * np.clip(sign * values, low, high) for values in ends]
