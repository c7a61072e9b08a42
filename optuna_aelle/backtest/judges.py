"""Arms that judge the judge: no search can be better than the one, none should be worse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.streams import key_of
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
        finals: Final values by the key of a configuration (`optuna_aelle.backtest.streams`).
    """

    def __init__(self, finals: Mapping[str, float]) -> None:
        self._finals = finals

    @classmethod
    def of(cls, recorded: RecordedTrials) -> Oracle:
        """One that has seen a table."""
        ends = zip(recorded.trials, recorded.finals.tolist(), strict=True)
        return cls({key_of(trial.params): end for trial, end in ends})

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        ends = [pool.sign * self._finals[key_of(t.params)] for t in pool.configurations]
        for position in np.argsort(-np.nan_to_num(ends, nan=-math.inf), kind="stable").tolist():
            while not pool.is_over(position):
                pool.train(position)
