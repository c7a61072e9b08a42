"""Where a trial will end, from what is known of it so far.

Three groups of features — the hyperparameters, the Lyapunov spectrum read through AeLLE, and the
learning curve — enter one regression of the trials' standings, in which each group weighs as much
as the evidence for it within this study (`optuna_aelle.prediction.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from sklearn.exceptions import NotFittedError

from optuna_aelle._warnings import warn_once
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.prediction.fitted import LEAST_KNOWN
from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.prediction.fitted import FittedPredictor
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.spectra import SpectralScores
from optuna_aelle.prediction.spectra import SpectrumRegressor
from optuna_aelle.prediction.spectra import fit_spectra
from optuna_aelle.prediction.values import fit_values
from optuna_aelle.trials.continuation import one_a_network

FloatArray = npt.NDArray[np.float64]
Direction = Literal["minimize", "maximize"]

FEATURES: tuple[Feature, ...] = ("curve", "params", "spectrum")
# Fits cost the cube of the number of lessons; the latest so many say enough.
_MAX_LESSONS = 300


class TooFewLessons(ValueError):
    """There is too little to learn from: wait for more trials to end."""


class PerformancePredictor:
    """Predict final values of trials from curve, hyperparameters and spectrum.

    Args:
        features: Which groups to use. A group without data (no spectra, no parameters) drops out.
        direction: ``"minimize"`` or ``"maximize"``, as in the study.
        random_state: Of the AeLLE ensemble; the same lessons give the same predictions.
        spectrum_regressor: Makes, of a random state, what reads a score from spectra:
            `AeLLERegressor`, or another `SpectrumRegressor`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> predictor = PerformancePredictor(direction="maximize")
        >>> fitted = predictor.fit(study.trials)
        >>> mean, std = fitted.predict(study.trials, step=3)
    """

    def __init__(
        self,
        features: Sequence[Feature] = FEATURES,
        *,
        direction: Direction = "minimize",
        random_state: int = 0,
        spectrum_regressor: Callable[[int], SpectrumRegressor] | None = None,
    ) -> None:
        unknown = [name for name in features if name not in FEATURES]
        if unknown or not features:
            raise ValueError(f"features must be some of {FEATURES}, but got {tuple(features)!r}.")
        if direction not in ("minimize", "maximize"):
            raise ValueError(f"direction must be minimize or maximize, but got {direction!r}.")
        self.features = tuple(features)
        self.direction = direction
        self.random_state = random_state
        self.spectrum_regressor = spectrum_regressor
        self._fitted: FittedPredictor | None = None

    def fit(self, trials: Sequence[FrozenTrial]) -> FittedPredictor:
        """Learn from the trials that have ended; others are passed over.

        Of a network that was stopped and went on, the trial in which it went furthest teaches. Of
        more than 300, from the best, then the last that finished, then the last pruned.

        Returns:
            What predicts; ``predict`` and ``forecast`` of this object ask the latest one.

        Raises:
            TooFewLessons: Fewer than 4 trials have ended with a value, or all with the same one.
        """
        self._fitted = None
        sign = 1.0 if self.direction == "maximize" else -1.0
        lessons = _latest(one_a_network(list(filter(is_lesson, trials))), sign)
        if len(lessons) < MIN_LESSONS:
            raise TooFewLessons(
                f"Expected at least {MIN_LESSONS} trials that finished or were pruned with a "
                f"finite value, got {len(lessons)} among {len(trials)}. Predict later."
            )
        scores, doubts = standings(lessons, sign)
        if np.ptp(scores) == 0.0:
            raise TooFewLessons(
                "Expected trials that differ in their values, got equal ones only."
            )
        self._fitted = FittedPredictor(
            features=self.features,
            sign=sign,
            lessons=tuple(lessons),
            standings=scores,
            known=1.0 - doubts,
            values=fit_values(lessons, scores, sign),
            encoder=ParameterEncoder(lessons),
            spectra=self._fit_spectra(lessons, scores, 1.0 - doubts),
        )
        return self._fitted

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[FloatArray, FloatArray]:
        """As `FittedPredictor.predict`, by the latest fit.

        Raises:
            sklearn.exceptions.NotFittedError: There is none.
        """
        return self._latest_fit().predict(trials, step)

    def forecast(self, trial: FrozenTrial, step: int, *, share: float | None = None) -> Forecast:
        """As `FittedPredictor.forecast`, by the latest fit.

        Raises:
            sklearn.exceptions.NotFittedError: There is none.
        """
        return self._latest_fit().forecast(trial, step, share=share)

    def _latest_fit(self) -> FittedPredictor:
        if self._fitted is None:
            raise NotFittedError(
                "This PerformancePredictor has not learned from any trials yet. Call "
                "`fit(study.trials)` first, once some have ended."
            )
        return self._fitted

    def _fit_spectra(
        self, lessons: Sequence[FrozenTrial], scores: FloatArray, known: FloatArray
    ) -> SpectralScores | None:
        if "spectrum" not in self.features:
            return None
        try:
            return fit_spectra(
                lessons,
                scores,
                known,
                self._make_regressor,
                least_known=LEAST_KNOWN,
                min_lessons=MIN_LESSONS,
            )
        except Exception as error:  # curve and hyperparameters can do without
            warn_once(
                "spectra not learned",
                f"Nothing could be learned from the spectra of {len(lessons)} trials "
                f"({type(error).__name__}: {error}); predictions go on without them.",
                error,
            )
            return None

    def _make_regressor(self) -> SpectrumRegressor:
        if self.spectrum_regressor is not None:
            return self.spectrum_regressor(self.random_state)
        from optuna_aelle.aelle import AeLLERegressor

        return AeLLERegressor(random_state=self.random_state)


def _latest(lessons: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """At most `_MAX_LESSONS`: the best, then finished ones, then the last that were pruned."""
    if len(lessons) <= _MAX_LESSONS:
        return lessons
    finished = [i for i, t in enumerate(lessons) if t.state == TrialState.COMPLETE]
    best = sorted(finished, key=lambda i: sign * lessons[i].values[0])[-1:]
    pruned = [i for i, t in enumerate(lessons) if t.state != TrialState.COMPLETE]
    preferred = dict.fromkeys([*best, *reversed(finished), *reversed(pruned)])
    kept = set(list(preferred)[:_MAX_LESSONS])
    return [t for i, t in enumerate(lessons) if i in kept]
