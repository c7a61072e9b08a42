"""Fitted predictors that a process shares: its pruner and sampler, its brackets, its threads.

A fit is a function of the lessons that the storage holds, so whoever asks first makes it, and
parallel workers come to the same.
"""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Callable
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.fitted import FittedPredictor
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.prediction.objectives import trials_of_objective
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.prediction.predictor import TooFewLessons
from optuna_aelle.prediction.sharing import Shared
from optuna_aelle.prediction.spectra import SpectrumRegressor
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.storage import study_identity

# Refits wait until there is half as much again to learn from: their cost stays in proportion.
_REFIT_GROWTH = 1.5
# Studies, features and moments that are in use side by side in one storage, generously.
_MAX_FITS = 16

_fits: WeakKeyDictionary[BaseStorage, Shared[FittedPredictor | None]] = WeakKeyDictionary()
_lock = threading.Lock()


def fitted_predictor(
    study: Study,
    features: Sequence[Feature],
    n_startup_trials: int,
    spectrum_regressor: Callable[[int], SpectrumRegressor] | None = None,
    objective: int = 0,
) -> FittedPredictor | None:
    """The predictor that a study's storage calls for; None while nothing can be learned.

    It learns from the trials of all of Hyperband's brackets, in the order in which they ended.

    Args:
        study: Whose trials teach.
        features: As in `PerformancePredictor`.
        n_startup_trials: Lessons of the first fit.
        spectrum_regressor: As in `PerformancePredictor`.
        objective: What is predicted, as a position in ``study.directions``.
    """
    lessons = lessons_of(study, objective)
    lessons = lessons[: _scheduled(len(lessons), n_startup_trials)]
    if not lessons:
        return None
    storage, study_id = study_identity(study)
    key = (
        study_id,
        objective,
        study.directions[objective],
        tuple(features),
        spectrum_regressor,
        tuple(map(_completion, lessons)),
    )

    def fit() -> FittedPredictor | None:
        predictor = PerformancePredictor(
            features,
            direction=study.directions[objective].name.lower(),  # type: ignore[arg-type]
            spectrum_regressor=spectrum_regressor,
        )
        try:
            return predictor.fit(lessons)
        except TooFewLessons:
            return None

    with _lock:
        fits = _fits.setdefault(storage, Shared(_MAX_FITS))
    return fits.get(key, fit)


def lessons_of(study: Study, objective: int = 0) -> list[FrozenTrial]:
    """The trials that teach something, one a network, in the order in which they ended."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    ended = one_a_network(trials_of_objective(study, objective, states))
    return sorted(filter(is_lesson, ended), key=_completion)


def _completion(trial: FrozenTrial) -> tuple[datetime.datetime, int]:
    return trial.datetime_complete or datetime.datetime.min, trial.number


def _scheduled(n: int, first: int) -> int:
    """The largest entry up to ``n`` of first, 1.5 first, 1.5² first ...; 0 if there is none."""
    if n < first:
        return 0
    reached = first
    while (following := math.ceil(reached * _REFIT_GROWTH)) <= n:
        reached = following
    return reached
