"""What a predictor has learned from some lessons: one regression a step, and its forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm

from optuna_aelle._threads import one_thread
from optuna_aelle.prediction.curves import curve_statistics
from optuna_aelle.prediction.curves import rank_correlation
from optuna_aelle.prediction.curves import score_against
from optuna_aelle.prediction.curves import went_past
from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.prediction.evidence import EvidenceRegression
from optuna_aelle.prediction.evidence import fit_evidence
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.kernels import CONSTANT
from optuna_aelle.prediction.kernels import LINEAR
from optuna_aelle.prediction.kernels import PAIRWISE
from optuna_aelle.prediction.kernels import Kernel
from optuna_aelle.prediction.sharing import Shared
from optuna_aelle.prediction.spectra import SpectralScores
from optuna_aelle.prediction.values import ValueMap

FloatArray = npt.NDArray[np.float64]

MIN_LESSONS = 4
# Steps that are asked for between two fits, generously; each holds a matrix of all lessons.
_MAX_MODELS = 32
# A standing that is known less than this teaches nothing.
LEAST_KNOWN = 0.05
# A group that explains less than this share of the prediction has not spoken.
_SPOKE = 0.1


@dataclass(frozen=True, eq=False)
class FittedPredictor:
    """What was learned from some lessons; it does not change any more.

    Attributes:
        features: The groups that it may use.
        sign: +1 to maximise, −1 to minimise.
        lessons: The n ended trials.
        standings: ``(n,)`` theirs.
        known: ``(n,)`` how far each is known, in [0, 1].
        values: From standings to values.
        encoder: Of hyperparameters.
        spectra: What AeLLE reads from spectra; None where there is nothing to read.

    Example:
        >>> fitted = PerformancePredictor().fit(study.trials)
        >>> may_speak_of_untrained_networks = fitted.skill(step=-1).speaks
    """

    features: tuple[Feature, ...]
    sign: float
    lessons: tuple[FrozenTrial, ...]
    standings: FloatArray
    known: FloatArray
    values: ValueMap
    encoder: ParameterEncoder
    spectra: SpectralScores | None
    # One regression a step, fitted when the step is first asked for: most never are.
    _models: Shared[_Model] = field(
        default_factory=lambda: Shared(_MAX_MODELS), init=False, repr=False
    )

    @property
    def best_standing(self) -> float:
        """The standing of the best finished lesson, of any lesson if none has finished."""
        finished = np.array([t.state == TrialState.COMPLETE for t in self.lessons])
        return float(self.standings[finished if finished.any() else slice(None)].max())

    @property
    def best_value(self) -> float:
        """The value of the best finished lesson; one that belongs to the best if none has."""
        values = [t.values[0] for t in self.lessons if t.state == TrialState.COMPLETE]
        if not values:
            return float(self.values.value(self.best_standing))
        return float(max(values, key=lambda value: self.sign * value))

    def standing_quantile(self, share: float) -> float:
        """The standing that only ``share`` of the lessons reach."""
        return float(np.quantile(self.standings, 1.0 - share))

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[FloatArray, FloatArray]:
        """Predict final values from what was known at ``step`` (−1: before training).

        Returns:
            Mean and standard deviation, ``(n,)`` each, in units of the objective.

        Raises:
            ValueError: Fewer than 4 lessons went past ``step``.
        """
        return self.values.distribution(*self.predict_standings(trials, step))

    def predict_standings(
        self, trials: Sequence[FrozenTrial], step: int
    ) -> tuple[FloatArray, FloatArray]:
        """As `predict`, but as standings within the study: higher is better, about unit spread."""
        model = self._model(step)
        queries = self._rows(trials, step)
        cross = [kernel.between(queries[name], model.rows[name]) for name, kernel in model.kernels]
        own = [kernel.own(queries[name]) for name, kernel in model.kernels]
        return model.regression.predict(cross, own)

    def forecast(self, trial: FrozenTrial, step: int, *, share: float | None = None) -> Forecast:
        """All that is expected of a trial from what was known at ``step``.

        Args:
            trial: Of this study's space.
            step: As in `predict`.
            share: The bar: the standing that this share of the lessons reach; None for that of
                the best finished one.

        Raises:
            ValueError: Fewer than 4 lessons went past ``step``.
        """
        means, stds = self.predict_standings([trial], step)
        values, value_stds = self.values.distribution(means, stds)
        mean, std = float(means[0]), float(stds[0])
        if share is None:
            bar, bar_value = self.best_standing, self.best_value
        else:
            bar = self.standing_quantile(share)
            bar_value = float(self.values.value(bar))
        return Forecast(
            step=step,
            standing=mean,
            standing_std=std,
            value=float(values[0]),
            value_std=float(value_stds[0]),
            bar=bar,
            bar_value=bar_value,
            share=share,
            chance=float(norm.sf((bar - mean) / std)),
            skill=self.skill(step),
            spoke=self.spoken_features(step),
        )

    def skill(self, step: int) -> Skill:
        """How well predictions at ``step`` have done out of sample, within these lessons."""
        return self._model(step).skill

    def n_lessons(self, step: int) -> int:
        """How many lessons went past ``step`` and can teach what came after it."""
        return int((self.known[self._past(step)] >= LEAST_KNOWN).sum())

    def spoken_features(self, step: int) -> tuple[Feature, ...]:
        """The groups that explain at least a tenth of the predictions at ``step``."""
        return self._model(step).spoke

    def _past(self, step: int) -> list[int]:
        return [i for i, trial in enumerate(self.lessons) if went_past(trial, step)]

    def _model(self, step: int) -> _Model:
        def fit() -> _Model:
            with one_thread:
                return self._fit_model(step)

        return self._models.get(step, fit)

    def _fit_model(self, step: int) -> _Model:
        past = [i for i in self._past(step) if self.known[i] >= LEAST_KNOWN]
        if len(past) < MIN_LESSONS:
            raise ValueError(
                f"Expected at least {MIN_LESSONS} trials that went past step {step}, got "
                f"{len(past)}. Predict at an earlier step."
            )
        lessons = [self.lessons[i] for i in past]
        rows = self._rows(lessons, step)
        known, own = self.known[past], self.standings[past]
        if "spectrum" in rows and rank_correlation(rows["spectrum"][:, 0], own, known) <= 0.0:
            # A score that ranks its own lessons the wrong way round has found nothing.
            del rows["spectrum"]
        kernels = [("constant", CONSTANT)]
        kernels += [(name, LINEAR) for name in rows if name != "constant"]
        if "params" in rows:
            kernels.append(("params", PAIRWISE))
        # A standing y that correlates as r with the true one, both of unit spread, says what
        # y / r with an error of variance 1 / r² − 1 would. Within those who came this far, the
        # standing has another mean and spread.
        center = float(np.average(own, weights=known))
        scale = max(float(np.sqrt(np.average((own - center) ** 2, weights=known))), 1e-6)
        grams = [kernel.between(rows[name], rows[name]) for name, kernel in kernels]
        regression = fit_evidence(
            grams,
            (own - center) / scale / np.sqrt(known),
            1.0 / known - 1.0,
        ).rescaled(center, scale)
        skill = Skill(
            n=float(known.sum()),
            model=rank_correlation(regression.leave_one_out()[0], own, known),
            baseline=0.0
            if step < 0
            else rank_correlation(curve_statistics(lessons, step, self.sign)[:, 0], own, known),
        )
        return _Model(regression, kernels, rows, skill, self._spoken(regression, kernels, grams))

    def _spoken(
        self,
        regression: EvidenceRegression,
        kernels: Sequence[tuple[str, Kernel]],
        grams: Sequence[FloatArray],
    ) -> tuple[Feature, ...]:
        total = dict.fromkeys(self.features, 0.0)
        for (name, _), part in zip(kernels, regression.share(grams), strict=True):
            for feature in self.features:
                total[feature] += float(part) * (feature == name)
        return tuple(feature for feature in self.features if total[feature] >= _SPOKE)

    def _rows(self, trials: Sequence[FrozenTrial], step: int) -> dict[str, FloatArray]:
        """The features of ``trials`` as of ``step``, one array ``(n, d)`` a group."""
        rows = {"constant": np.ones((len(trials), 1))}
        if "params" in self.features and self.encoder.n_columns:
            rows["params"] = self.encoder.encode(trials)
        if "curve" in self.features and step >= 0:
            past = [self.lessons[i] for i in self._past(step)]
            reference = curve_statistics(past, step, self.sign)
            own = curve_statistics(trials, step, self.sign)
            rows["curve"] = np.stack(
                [score_against(own[:, j], reference[:, j]) for j in range(2)], axis=1
            )
        if self.spectra is not None:
            rows["spectrum"] = self.spectra.read(trials, step)
        return rows


@dataclass(frozen=True, eq=False)
class _Model:
    """The regression of one step."""

    regression: EvidenceRegression
    kernels: list[tuple[str, Kernel]]
    rows: dict[str, FloatArray]
    skill: Skill
    spoke: tuple[Feature, ...]
