"""Pareto fronts: who is behind whom where several things count.

Notation: points ``(n, k)`` of n trials and k objectives, higher is better in each. A point
*dominates* another one if it is nowhere worse and somewhere better. The first front holds those
that nobody dominates, each further one those that are dominated by earlier fronts alone
(non-dominated sorting; Deb et al. 2002, NSGA-II).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def dominance(points: FloatArray) -> BoolArray:
    """``(n, n)``: whether the row's point dominates the column's."""
    not_worse = np.ones((len(points), len(points)), dtype=bool)
    better = np.zeros_like(not_worse)
    for column in points.T:
        not_worse &= column[:, None] >= column
        better |= column[:, None] > column
    return not_worse & better


def non_dominated(points: FloatArray) -> BoolArray:
    """``(n,)``: whether a point lies on the first front; equal points all do."""
    kept = np.ones(len(points), dtype=bool)
    for i, point in enumerate(points):
        if kept[i]:
            behind = (points <= point).all(axis=1) & (points < point).any(axis=1)
            kept &= ~behind
    return kept


def front_ranks(points: FloatArray) -> npt.NDArray[np.intp]:
    """``(n,)``: the front that each point lies on, counted from 0."""
    over = dominance(points)
    left = over.sum(axis=0)
    ranks = np.full(len(points), -1, dtype=np.intp)
    rank = 0
    while (ranks < 0).any():
        front = (left == 0) & (ranks < 0)
        ranks[front] = rank
        left = left - over[front].sum(axis=0)
        rank += 1
    return ranks


def is_clearly_behind(point: FloatArray, others: FloatArray, tolerances: FloatArray) -> bool:
    """Whether one of ``others (n, k)`` dominates a point by more than ``tolerances (k,)``.

    It must be ahead by more than its tolerance in some objective and by no less in any other.
    """
    with np.errstate(invalid="ignore"):
        # Infinities of the same sign are equal.
        ahead = np.where(others == point, 0.0, others - point)
    clearly = (ahead >= tolerances).all(axis=1) & (ahead > tolerances).any(axis=1)
    return bool(clearly.any())
