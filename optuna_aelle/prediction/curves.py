"""Where trials stand within their study, and what their learning curves say of it.

A *lesson* is a trial that teaches something: a finished one with a finite value, or a pruned one
that reported at least one. Its *standing* is where it came out in the study, as the normal score
of its rank: a finished trial by its value, a pruned one where its last value would place it among
those that went on from there, with the doubt that this step's values left about where those ended.
A standing is known for every lesson, has unit spread whatever the metric's scale, and no single
bad loss can distort it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.special import ndtri
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]

# How values on the way rank where trials end is taken as if so many more trials had shown so much:
# few that went on say little, and losses of most tasks are neither blind nor oracles.
_PRIOR_TRIALS = 3
_PRIOR_CORRELATION = 0.5


def reports(trial: FrozenTrial, step: float = math.inf) -> list[float]:
    """The values reported up to ``step``, in order of step, NaN included."""
    return [value for s, value in sorted(trial.intermediate_values.items()) if s <= step]


def values_of_peers(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> list[float]:
    """What the other trials had reported when they had reported as often as ``trial`` has."""
    n_reports = len(trial.intermediate_values)
    return [
        reports(other)[n_reports - 1]
        for other in trials
        if len(other.intermediate_values) >= n_reports > 0 and other.number != trial.number
    ]


def is_lesson(trial: FrozenTrial) -> bool:
    """Whether the trial has ended in a way that others can be compared with."""
    if trial.state == TrialState.COMPLETE:
        return trial.values is not None and math.isfinite(trial.values[0])
    told = trial.intermediate_values.values()
    return trial.state == TrialState.PRUNED and any(map(math.isfinite, told))


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
    return np.asarray(ndtri((below / 2.0 + 0.5) / (len(ordered) + 1.0)), dtype=np.float64)


def standings(lessons: Sequence[FrozenTrial], sign: float) -> tuple[FloatArray, FloatArray]:
    """The standing of each lesson ``(n,)``, higher is better, and its variance ``(n,)``.

    Args:
        lessons: Ended trials. Those that are no lessons (`is_lesson`) come last, unknown.
        sign: +1 to maximise, −1 to minimise.
    """
    silent = [i for i, t in enumerate(lessons) if not is_lesson(t)]
    if silent:
        # Of a trial that showed nothing nothing is known; it may not stand before any that did.
        told = [i for i in range(len(lessons)) if i not in set(silent)]
        scores, doubts = standings([lessons[i] for i in told], sign)
        places, variance = np.zeros(len(lessons)), np.ones(len(lessons))
        places[told], variance[told] = rankdata(scores), doubts
        return normal_scores(places), variance
    finished = [i for i, t in enumerate(lessons) if t.state == TrialState.COMPLETE]
    pruned = [i for i, t in enumerate(lessons) if t.state != TrialState.COMPLETE]
    variance = np.zeros(len(lessons))
    ends = [sign * float(lessons[i].values[0]) for i in finished]
    place = dict(zip(finished, rankdata(ends).tolist(), strict=True)) if finished else {}
    # From the longest to the shortest: those who went on are placed before those who did not.
    for step in sorted({lessons[i].last_step or 0 for i in pruned}, reverse=True):
        stopped = [i for i in pruned if (lessons[i].last_step or 0) == step]
        own = curve_statistics([lessons[i] for i in stopped], step, sign)[:, 0]
        ahead = list(place)
        theirs = curve_statistics([lessons[i] for i in ahead], step, sign)[:, 0]
        ranks = np.array([place[i] for i in ahead])
        below = np.searchsorted(np.sort(theirs), own, "left")
        above = np.searchsorted(np.sort(theirs), own, "right")
        # Only as far as it is known where those ended who went on.
        known = 1.0 - variance[ahead]
        variance[stopped] = 1.0 - _informativeness(theirs, ranks, known) ** 2
        # Sort by place first; those who fall between the same two, by their own values.
        at = np.concatenate([ranks, (below + above) / 2.0 + 0.5])
        within = np.concatenate([np.zeros(len(ahead)), rankdata(own)])
        both = [(a, w) for a, w in zip(at.tolist(), within.tolist(), strict=True)]
        dense = {pair: rank for rank, pair in enumerate(sorted(set(both)), start=1)}
        joint = rankdata([dense[pair] for pair in both])
        place = dict(zip(ahead + stopped, joint.tolist(), strict=True))
    return normal_scores([place[i] for i in range(len(lessons))]), variance


def _informativeness(values: FloatArray, ranks: FloatArray, weights: FloatArray) -> float:
    """Rank correlation of values at one step with where the trials ended, shrunk if few."""
    n = float(weights.sum())
    seen = rank_correlation(values, ranks, weights) if n >= 3.0 else _PRIOR_CORRELATION
    return max(seen * n + _PRIOR_CORRELATION * _PRIOR_TRIALS, 0.0) / (n + _PRIOR_TRIALS)


def rank_correlation(a: FloatArray, b: FloatArray, weights: FloatArray) -> float:
    """Spearman correlation in which each pair counts by its weight; 0 where nothing varies."""
    ranks = np.stack([rankdata(a), rankdata(b)])
    if weights.sum() <= 0.0:
        return 0.0
    ranks -= np.average(ranks, axis=1, weights=weights)[:, None]
    covariance = (weights * ranks) @ ranks.T
    scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(covariance[0, 1] / scale) if scale > 0.0 else 0.0


def curve_statistics(trials: Sequence[FrozenTrial], step: int, sign: float) -> FloatArray:
    """Last value and mean of all values up to ``step``, higher is better: ``(n, 2)``.

    A curve that is missing or ends in NaN counts as worse than anything; a NaN on the way that
    the training recovered from is passed over.
    """
    rows = np.full((len(trials), 2), -np.inf)
    for row, trial in zip(rows, trials, strict=True):
        values = sign * np.asarray(reports(trial, step), dtype=np.float64)
        if len(values) and not np.isnan(values[-1]):
            row[:] = values[-1], np.nanmean(values)
    return rows
