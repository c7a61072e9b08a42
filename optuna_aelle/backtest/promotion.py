"""Arms of a race that stop trainings and take some of them up again, which needs checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import Ranking
from optuna_aelle.backtest.pool import in_order


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


def rungs(length: int, reduction_factor: int, min_resource: int) -> list[int]:
    """Numbers of reports at which halving compares; the last is the whole training."""
    levels = []
    level = min_resource
    while level < length:
        levels.append(level)
        level *= reduction_factor
    return [*levels, length]


@dataclass(frozen=True)
class Promotion:
    """Successive halving with promotion, in the order of a ranking; see `promote`.

    Attributes:
        reduction_factor: η.
        min_resource: Reports until the first rung.
        ranking: In which order configurations start; that of chance by default.
    """

    reduction_factor: int = 3
    min_resource: int = 1
    ranking: Ranking | None = None

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        starter = InOrder(in_order(pool, self.ranking))
        promote(pool, starter, self.reduction_factor, self.min_resource)


def promote(pool: Pool, starter: Starter, reduction_factor: int, min_resource: int = 1) -> None:
    """ASHA of one worker with promotion, until nothing is left.

    Whenever one of a rung's best 1/η can go on, it does, from the highest rung down; else the next
    configuration starts. Source: Li et al. (arXiv 1810.05934), algorithm 2.
    """
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
        came[rung + 1][position] = train_to(pool, starter, position, levels[rung + 1])


@dataclass(frozen=True)
class TopK:
    """``n_first`` reports for as many as the budget has room for, then the ``k`` best to the end.

    Source: Egele, Mohr, Viering and Balaprakash (arXiv 2404.04111), "i-Epoch".
    """

    n_first: int
    k: int

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until the best have ended."""
        n_reports = pool.budget * pool.length / pool.longest
        rest = self.k * max(pool.length - self.n_first, 0)
        n_tried = int(min(len(pool), max((n_reports - rest) / self.n_first, self.k)))
        for position in range(n_tried):
            while not pool.is_over(position) and len(pool.values(position)) < self.n_first:
                pool.train(position)
        last = [pool.sign * pool.values(i)[-1] for i in range(n_tried)]
        ranked = np.argsort(-np.nan_to_num(last, nan=-math.inf), kind="stable")
        for position in ranked[: self.k]:
            while not pool.is_over(int(position)):
                pool.train(int(position))


def train_to(pool: Pool, starter: Starter, position: int, level: int) -> float:
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
