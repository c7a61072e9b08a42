"""Successive halving of one worker, whose starts someone else chooses.

With promotion, whoever is among the best of a rung goes on later, from its checkpoint; with
stopping, who is not among the best so far ends for good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Protocol

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.promotion import rungs


class Starter(Protocol):
    """Says which configuration starts next, and hears of everything that is reported."""

    def start(self, left: Sequence[int]) -> int:
        """One of the positions in ``left``, which have not been trained yet."""

    def told(self, position: int, n_reports: int, score: float) -> None:
        """A report, higher is better; not finite where the training diverged."""


class InOrder:
    """Starts configurations in a fixed order.

    Args:
        order: Positions, the first starts first; asked of no more than are started. What is not
            in it comes after, in the order of the pool.
    """

    def __init__(self, order: Iterable[int]) -> None:
        self._order = iter(order)

    def start(self, left: Sequence[int]) -> int:
        """The next one."""
        return next((position for position in self._order if position in left), left[0])

    def told(self, position: int, n_reports: int, score: float) -> None:
        """Nothing changes the order."""


def promote(pool: Pool, starter: Starter, reduction_factor: int, min_resource: int = 1) -> None:
    """ASHA with promotion until nothing is left: Li et al. (arXiv 1810.05934), algorithm 2."""
    levels = rungs(pool.length, reduction_factor, min_resource)
    came: list[dict[int, float]] = [{} for _ in levels]
    promoted: list[set[int]] = [set() for _ in levels]
    while True:
        position, rung = _promotable(came, promoted, reduction_factor)
        if position is not None:
            promoted[rung].add(position)
        elif left := pool.left:
            position, rung = starter.start(left), -1
        else:
            return
        came[rung + 1][position] = _train_to(pool, starter, position, levels[rung + 1])


def stop(pool: Pool, starter: Starter, reduction_factor: int, min_resource: int = 1) -> None:
    """SHA that stops at once until nothing is left; a rung's best 1/η, and at least one, go on."""
    levels = rungs(pool.length, reduction_factor, min_resource)
    came: list[list[float]] = [[] for _ in levels]
    while left := pool.left:
        position = starter.start(left)
        for level, there in zip(levels, came, strict=True):
            score = _train_to(pool, starter, position, level)
            there.append(score)
            n_best = max(len(there) // reduction_factor, 1)
            if math.isinf(score) or sum(other > score for other in there) >= n_best:
                break


def _train_to(pool: Pool, starter: Starter, position: int, level: int) -> float:
    """Train until so many reports; the last one's score."""
    while not pool.is_over(position) and len(pool.values(position)) < level:
        value = pool.train(position)
        starter.told(position, len(pool.values(position)), pool.sign * value)
    score = float(pool.sign * pool.values(position)[-1])
    return score if math.isfinite(score) else -math.inf


def _promotable(
    came: Sequence[dict[int, float]], promoted: Sequence[set[int]], reduction_factor: int
) -> tuple[int | None, int]:
    """Who can go on, and from which rung, the highest first."""
    for rung in reversed(range(len(came) - 1)):
        there = came[rung]
        best = sorted(there, key=lambda position: -there[position])
        for position in best[: len(there) // reduction_factor]:
            # What has diverged does not go on, even if nobody else is there.
            if position not in promoted[rung] and math.isfinite(there[position]):
                return position, rung
    return None, -1
