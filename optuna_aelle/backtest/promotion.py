"""Arms of a race that stop trainings and take some of them up again, which needs checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import Ranking
from optuna_aelle.backtest.pool import in_order


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
    """Successive halving with promotion: ASHA of one worker.

    Whenever one in η of those that have come to a rung can go on, the best of them does, from the
    highest rung down; else the next configuration starts. Source: Li et al. (arXiv 1810.05934),
    algorithm 2.

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
        levels = rungs(pool.length, self.reduction_factor, self.min_resource)
        waiting = in_order(pool, self.ranking)
        came: list[dict[int, float]] = [{} for _ in levels]
        promoted: list[set[int]] = [set() for _ in levels]
        while True:
            position, rung = self._promotable(came, promoted)
            if position is None:
                if not waiting:
                    return
                position, rung = waiting.pop(0), -1
            else:
                promoted[rung].add(position)
            value = math.nan
            while not pool.is_over(position) and len(pool.values(position)) < levels[rung + 1]:
                value = pool.train(position)
            # A training that broke off early has been judged before.
            came[rung + 1][position] = pool.sign * value if math.isfinite(value) else -math.inf

    def _promotable(
        self, came: Sequence[dict[int, float]], promoted: Sequence[set[int]]
    ) -> tuple[int | None, int]:
        for rung in reversed(range(len(came) - 1)):
            there = came[rung]
            n_best = len(there) // self.reduction_factor
            best = sorted(there, key=lambda position: -there[position])[:n_best]
            for position in best:
                if position not in promoted[rung]:
                    return position, rung
        return None, -1


@dataclass(frozen=True)
class TopK:
    """``n_first`` reports for as many as the budget has room for, then the ``k`` best to the end.

    Source: Bohdal et al. and Egele et al. (arXiv 2207.06940), "one epoch is often enough".
    """

    n_first: int
    k: int

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until the best have ended."""
        rest = self.k * max(pool.length - self.n_first, 0)
        n_tried = int(min(len(pool), max((pool.budget - rest) / self.n_first, self.k)))
        for position in range(n_tried):
            while not pool.is_over(position) and len(pool.values(position)) < self.n_first:
                pool.train(position)
        last = [pool.sign * pool.values(i)[-1] for i in range(n_tried)]
        ranked = np.argsort(-np.nan_to_num(last, nan=-math.inf), kind="stable")
        for position in ranked[: self.k]:
            while not pool.is_over(int(position)):
                pool.train(int(position))
