"""Does a trial stand below another one, or does the metric only say so by chance?

A validation score varies from epoch to epoch, by the size of the validation set and by training
itself. Where the values at a rung differ by less, as on a plateau where all sit at chance, whoever
goes by them throws dice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.prediction.curves import reports
from optuna_aelle.prediction.curves import values_of_peers
from optuna_aelle.trials.storage import every_trial

# Second differences of white noise have 6 times its variance.
_SECOND_DIFFERENCES = math.sqrt(6.0)
# The median of |x| of a standard normal x.
_MEDIAN_ABSOLUTE = 0.6745
# Fewer second differences say nothing.
_LEAST = 4
# Values closer than so many standard deviations are ties.
TIES = 2.0


def noise_of(trials: Sequence[FrozenTrial]) -> float:
    """Standard deviation of a reported value about its curve; 0 where nobody can tell.

    The median of the second differences of all curves, in which trends cancel and the leaps of
    some trainings do not count.
    """
    curves = [np.array(reports(trial)) for trial in trials]
    jitter = [np.abs(np.diff(curve, 2)) for curve in curves if len(curve) > 2]
    if not jitter:
        return 0.0
    found = np.concatenate(jitter)
    found = found[np.isfinite(found)]
    if len(found) < _LEAST:
        return 0.0
    return float(np.median(found)) / (_MEDIAN_ABSOLUTE * _SECOND_DIFFERENCES)


def is_a_tie(study: Study, trial: FrozenTrial) -> bool:
    """Whether the better half of those that came as far is ahead by no more than noise."""
    own = reports(trial)[-1] if trial.intermediate_values else math.nan
    if not math.isfinite(own):
        return False
    # The latest of a long study tell as much as all.
    trials = every_trial(study)[-LONG:]
    peers = [value for value in values_of_peers(trials, trial) if math.isfinite(value)]
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    best_first = sorted([*peers, own], key=lambda value: -sign * value)
    # As successive halving with η = 2 has it, the last one that goes on.
    bar = best_first[max(len(best_first) // 2, 1) - 1]
    return sign * (bar - own) <= TIES * noise_of(trials)
