"""Of long studies, the trials that are asked: a decision must not take longer the more have ended.

Up to `LONG` trials all of them speak. Of more, those do that say most of what is next: the best,
the latest that were trained to their end, the latest, and all that are running.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from collections.abc import Sequence

from optuna.trial import FrozenTrial
from optuna.trial import TrialState

# As many as any result of `benchmarks/results` was measured with.
LONG = 300
# Of a long study so many are held against each other, those that are running aside.
_MOST_COMPARED = 100
# Others may be at work on so many at once.
_MOST_RUNNING = 64
_BEST = 10
# Of a long study a base sampler learns from so many, and from the best, as many as TPE calls good.
# On two test functions of six and four parameters TPE went on finding better ones from the latest
# as from all, from an even choice of all hardly any.
_LATEST_LESSONS = 200
_BEST_LESSONS = 25


def compared(trials: Sequence[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """Those of a long study that networks are held against, in order of number.

    Args:
        trials: That have shown something, in order of number.
        sign: 1 to maximise, −1 to minimise.
    """
    finished = _in_state(trials, TrialState.COMPLETE)
    running = _in_state(trials, TrialState.RUNNING)
    half = _MOST_COMPARED // 2
    best = _best(finished, _BEST, sign)
    return _by_number(
        [*best, *finished[_BEST - half :], *trials[-half:], *running[-_MOST_RUNNING:]]
    )


def lessons(trials: Sequence[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """The best and the latest of a long study, for a base sampler, in order of number.

    Args:
        trials: That have ended, in order of number.
        sign: 1 to maximise, −1 to minimise.
    """
    best = _best(_in_state(trials, TrialState.COMPLETE), _BEST_LESSONS, sign)
    return _by_number([*best, *trials[-_LATEST_LESSONS:]])


def _in_state(trials: Sequence[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [t for t in trials if t.state is state]


def _best(finished: Sequence[FrozenTrial], n: int, sign: float) -> list[FrozenTrial]:
    return heapq.nlargest(n, finished, key=lambda t: sign * t.values[0])


def _by_number(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    chosen = {trial.number: trial for trial in trials}
    return [chosen[number] for number in sorted(chosen)]
