"""Successive halving of one worker that stops, whose starts someone else chooses."""

from __future__ import annotations

import math

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.promotion import Starter
from optuna_aelle.backtest.promotion import rungs
from optuna_aelle.backtest.promotion import train_to


def stop(pool: Pool, starter: Starter, reduction_factor: int, min_resource: int = 1) -> None:
    """SHA that stops at once until nothing is left; a rung's best 1/η, and at least one, go on."""
    levels = rungs(pool.length, reduction_factor, min_resource)
    came: list[list[float]] = [[] for _ in levels]
    while left := pool.left:
        position = starter.start(left)
        for level, there in zip(levels, came, strict=True):
            score = train_to(pool, starter, position, level)
            there.append(score)
            n_best = max(len(there) // reduction_factor, 1)
            if math.isinf(score) or sum(other > score for other in there) >= n_best:
                break
