"""How far the members' predictions are to be believed, from scores that they never saw.

Notation: M fold members, n spectra, G groups (networks) that have a score.
"""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from optuna_aelle.aelle.autoencoder import FloatArray

# Scores that the spectra do not explain shrink predictions to the mean, but never quite: the order
# of the predictions is what a sampler uses.
_LEAST_SLOPE = 0.1
# Half-width of the central 68.27 % of a normal distribution: one standard deviation.
_ONE_SIGMA = 0.6827


class Calibration(NamedTuple):
    """What out-of-fold predictions say about all of them.

    Attributes:
        slope: Shrinkage of the predictions towards the mean.
        residual_std: Of the out-of-fold residuals, in units of the score; infinite if unknown.
        out_of_fold: ``(n,)``, the prediction of each row by who did not see its score.

    Example:
        >>> Calibration(slope=0.5, residual_std=0.1, out_of_fold=np.zeros(3)).slope
        0.5
    """

    slope: float
    residual_std: float
    out_of_fold: FloatArray


def assign_folds(
    group: npt.NDArray[Any],
    scored: npt.NDArray[np.bool_],
    n_members: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.intp], int]:
    """Return the fold of each row, -2 where none hides it, and the number of scored groups.

    Example:
        >>> group, scored = np.array([0, 0, 1, 2]), np.array([True, True, True, False])
        >>> fold, n_groups = assign_folds(group, scored, 2, np.random.default_rng(0))
        >>> bool(fold[0] == fold[1] != fold[2]), int(fold[3]), n_groups
        (True, -2, 2)
    """
    _, index = np.unique(group, return_inverse=True)
    with_score = np.unique(index[scored])
    fold = np.full(int(index.max()) + 1, -2, dtype=np.intp)
    # One network cannot be held out: nothing would be left to learn from.
    if len(with_score) > 1:
        fold[rng.permutation(with_score)] = np.arange(len(with_score)) % n_members
    return fold[index], len(with_score)


def calibrate(
    mean: FloatArray,
    deviation: FloatArray,
    scores: FloatArray,
    scored: npt.NDArray[np.bool_],
    weight: FloatArray,
    fold: npt.NDArray[np.intp],
    n_groups: int,
) -> Calibration:
    """The shrinkage, the spread of the out-of-fold residuals, and those predictions.

    Args:
        mean: Each member's mean score, ``(M, 1)``.
        deviation: Its predictions' deviations from that, ``(M, n)``.
        scores: ``(n,)``.
        scored: Where there is one.
        weight: How much each counts, ``(n,)``.
        fold: Which member does not see a row, ``(n,)``.
        n_groups: G.

    Example:
        >>> scores, fold = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 1, 0, 1])
        >>> deviation = np.tile(scores - 1.5, (2, 1))
        >>> mean, every = np.full((2, 1), 1.5), np.ones(4, dtype=bool)
        >>> calibrate(mean, deviation, scores, every, np.ones(4), fold, 4).slope
        1.0
    """
    out_of_fold = np.asarray((mean + deviation).mean(axis=0))
    if n_groups < 2:
        out_of_fold[scored] = scores[scored].mean()
        return Calibration(1.0, np.inf, out_of_fold)
    rows = np.flatnonzero(scored)
    own_deviation = deviation[fold[rows], rows]
    # From one mean for all: the mean that a member has seen is low where the hidden scores are
    # high, and would make noise look like a (reversed) prediction.
    common_mean = np.average(scores[rows], weights=weight[rows])
    root = np.sqrt(weight[rows])
    slope = _shrinkage(root * own_deviation, root * (scores[rows] - common_mean))
    out_of_fold = np.asarray((mean + slope * deviation).mean(axis=0))
    out_of_fold[rows] = common_mean + slope * own_deviation
    residuals = np.abs(scores[rows] - out_of_fold[rows])
    # Student's t widens one sigma as few networks demand; epochs of one network count once.
    small_sample = stats.t.ppf(0.5 + _ONE_SIGMA / 2, n_groups - 1)
    residual_std = float(np.quantile(residuals, _ONE_SIGMA) * small_sample)
    return Calibration(slope, residual_std, out_of_fold)


def _shrinkage(predicted: FloatArray, actual: FloatArray) -> float:
    """Return the least-squares slope of actual on predicted deviations, within its bounds."""
    power = float(predicted @ predicted)
    slope = float(predicted @ actual) / power if power > 0 else 1.0
    return float(np.clip(slope, _LEAST_SLOPE, 1.0))
