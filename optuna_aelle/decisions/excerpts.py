"""Of long studies, the trials that are asked: a decision must not take longer the more have ended.

Up to `LONG` trials all of them speak. Of more, those do that say most of what is next: the best,
of several objectives those of the Pareto front, the latest that were trained to their end, the
latest, and all that are running.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.pareto import non_dominated
from optuna_aelle.prediction.objectives import is_feasible
from optuna_aelle.trials.storage import values_of

# As many as any result of `benchmarks/results` was measured with.
LONG = 300
# Of a long study so many are held against each other, those that are running aside.
_MOST_COMPARED = 100
# Others may be at work on so many at once.
_MOST_RUNNING = 64
_BEST = 10
# Of a Pareto front of several objectives at most so many, beside the best of each.
_ON_FRONT = 30
# Of a long study a base sampler learns from so many, and from the best, as many as TPE calls good.
# On two test functions of six and four parameters TPE went on finding better ones from the latest
# as from all, from an even choice of all hardly any.
_LATEST_LESSONS = 200
_BEST_LESSONS = 25


def compared(trials: Sequence[FrozenTrial], signs: Sequence[float]) -> list[FrozenTrial]:
    """Those of a long study that networks are held against, in order of number.

    Args:
        trials: That have shown something, in order of number, with the values of all objectives.
        signs: Of each objective 1 to maximise, −1 to minimise.
    """
    finished = _in_state(trials, TrialState.COMPLETE)
    running = _in_state(trials, TrialState.RUNNING)
    half = _MOST_COMPARED // 2
    n_each = max(_BEST // len(signs), 1)
    best = [t for i, sign in enumerate(signs) for t in _best(finished, n_each, sign, i)]
    if len(signs) > 1:
        best += _front(finished, signs)
    latest = finished[-max(half - len(best), 1) :]
    return _by_number([*best, *latest, *trials[-half:], *running[-_MOST_RUNNING:]])


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


def _best(
    finished: Sequence[FrozenTrial], n: int, sign: float, objective: int = 0
) -> list[FrozenTrial]:
    order = np.argsort(-sign * values_of(finished, objective), kind="stable")
    return [finished[i] for i in order[:n].tolist()]


def _front(finished: Sequence[FrozenTrial], signs: Sequence[float]) -> list[FrozenTrial]:
    """The Pareto front; of a long one some, evenly from one end to the other."""
    # The best first: no other point is then held against all.
    able = sorted(filter(is_feasible, finished), key=lambda t: -signs[0] * t.values[0])
    if not able:
        return []
    on_front = np.flatnonzero(non_dominated(np.array([t.values for t in able]) * signs))
    n = min(len(on_front), _ON_FRONT)
    chosen = on_front[np.linspace(0, len(on_front) - 1, n).round().astype(int)]
    return [able[i] for i in chosen]


def _by_number(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    chosen = {trial.number: trial for trial in trials}
    return [chosen[number] for number in sorted(chosen)]
