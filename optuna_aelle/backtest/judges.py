"""Arms that judge the judge: no search can be better than the one, none should be worse."""

from __future__ import annotations

import math

import numpy as np

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.trials.table import RecordedTrials


def coin(pool: Pool, seed: int) -> None:
    """Toss a coin after every report whether to go on with a training or to start another one."""
    rng = np.random.default_rng(seed)
    for position in range(len(pool)):
        while not pool.is_over(position):
            pool.train(position)
            if rng.uniform() < 0.5:
                break


class Oracle:
    """Knows where everything ends, and trains it from the best to the worst.

    Args:
        recorded: The table.
    """

    def __init__(self, recorded: RecordedTrials) -> None:
        self._finals = recorded.finals

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        ends = np.nan_to_num(pool.sign * self._finals[pool.indices], nan=-math.inf)
        for position in np.argsort(-ends, kind="stable").tolist():
            while not pool.is_over(position):
                pool.train(position)
