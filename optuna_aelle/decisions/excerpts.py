"""Of long studies, the trials that are asked: a decision must not take the longer, the more ended.

Up to `LONG` trials all of them speak. Of more, those do that say most of what is next: the best,
those that were trained furthest, the latest, and all that are running.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from optuna.trial import FrozenTrial
from optuna.trial import TrialState

# As many as any result of `benchmarks/results` was measured with.
LONG = 300
# Of a long study so many are held against each other.
_MOST_COMPARED = 100
# Others may be at work on so many at once.
_MOST_RUNNING = 64
# Of a long study a base sampler learns from so many.
_MOST_LESSONS = 150
_BEST = 10


def compared(trials: Sequence[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """Those of a long study that networks are held against, in order of number.

    Args:
        trials: That have shown something, in order of number.
        sign: 1 to maximise, −1 to minimise.
    """
    half = _MOST_COMPARED // 2
    chosen = {t.number for t in trials[-half:]}
    chosen |= {t.number for t in _running(trials)[-_MOST_RUNNING:]}
    chosen |= {t.number for t in _best(trials, _BEST, sign)}
    furthest = heapq.nlargest(
        _MOST_COMPARED, trials, key=lambda t: (len(t.intermediate_values), t.number)
    )
    for trial in furthest:
        if len(chosen) >= _MOST_COMPARED:
            break
        chosen.add(trial.number)
    return [t for t in trials if t.number in chosen]


def lessons(trials: Sequence[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """Those of a long study that a base sampler learns from, in order of number.

    Where the good ones lie the best tell, where the others lie an even choice of all.

    Args:
        trials: That have ended, in order of number.
        sign: 1 to maximise, −1 to minimise.
    """
    chosen = {t.number for t in _best(trials, 2 * _BEST, sign)}
    every = -(-len(trials) // (_MOST_LESSONS - len(chosen)))
    chosen |= {t.number for t in trials[::every]}
    return [t for t in trials if t.number in chosen]


def _running(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state == TrialState.RUNNING]


def _best(trials: Sequence[FrozenTrial], n: int, sign: float) -> list[FrozenTrial]:
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    return heapq.nlargest(n, finished, key=lambda t: (sign * t.values[0], t.number))
