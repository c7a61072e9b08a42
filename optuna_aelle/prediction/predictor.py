"""Where a trial will end, from what is known of it so far.

Three groups of features — the hyperparameters, the Lyapunov spectrum read through AeLLE, and the
learning curve — enter one regression of the trials' standings, in which each group weighs as much
as the evidence for it within this study (`optuna_aelle.prediction.evidence`). The spectrum enters
as the score that AeLLE reads from its latent, for the trials it learned from by the member that
did not see them, so that the regression cannot be fooled by what the autoencoder has memorised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Literal
from typing import Protocol

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm
from sklearn.isotonic import isotonic_regression

from optuna_aelle.prediction.evidence import EvidenceRegression
from optuna_aelle.prediction.evidence import fit_evidence
from optuna_aelle.prediction.features import ParameterEncoder
from optuna_aelle.prediction.features import curve_statistics
from optuna_aelle.prediction.features import is_lesson
from optuna_aelle.prediction.features import rank_correlation
from optuna_aelle.prediction.features import score_against
from optuna_aelle.prediction.features import standings
from optuna_aelle.prediction.features import went_past
from optuna_aelle.trials.attributes import decode_spectra

FloatArray = npt.NDArray[np.float64]
Feature = Literal["curve", "params", "spectrum"]
Kernel = Callable[[FloatArray, FloatArray], FloatArray]

FEATURES: tuple[Feature, ...] = ("curve", "params", "spectrum")
MIN_LESSONS = 4
# Fits cost the cube of the number of lessons; the latest so many say enough.
_MAX_LESSONS = 300
# A standing that is known less than this teaches nothing.
_LEAST_KNOWN = 0.05
# A group that explains less than this share of the prediction has not spoken.
_SPOKE = 0.1
_STANDARD_ERRORS = 2.0
# An even grid of probabilities, as standard scores.
_NORMAL_QUANTILES = norm.ppf((np.arange(40) + 0.5) / 40)
# Ends so many times as far below the median as the best is above it are all alike.
_WILD = 10.0


@dataclass(frozen=True)
class Skill:
    """How well predictions at one step rank lessons that they were not fitted to.

    Attributes:
        n: Lessons behind it, each counted by how certain its own standing is.
        model: Spearman correlation of the leave-one-out predictions with the standings.
        baseline: That of the plain value reported at the step; 0 before training.
    """

    n: float
    model: float
    baseline: float

    @property
    def lower_bound(self) -> float:
        """``model`` less two standard errors (Fisher's z)."""
        if self.n < 5:
            return -1.0
        z = np.arctanh(np.clip(self.model, -0.99, 0.99)) - _STANDARD_ERRORS * (self.n - 3) ** -0.5
        return float(np.tanh(z))


class SpectrumRegressor(Protocol):
    """Reads a score from spectra ``(n, k)``; rows of one ``groups`` label are one network.

    A score that is NaN is not known; the others count by their weights.
    """

    out_of_fold_prediction_: FloatArray

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike,
        score_weights: npt.ArrayLike,
    ) -> object: ...

    def predict(self, X: npt.ArrayLike) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class _Model:
    regression: EvidenceRegression
    kernels: list[tuple[str, Kernel]]
    rows: dict[str, FloatArray]
    skill: Skill


@dataclass(frozen=True, eq=False)
class _ValueMap:
    """Mean and standard deviation of the values that belong to the lessons' standings."""

    standings: FloatArray
    means: FloatArray
    stds: FloatArray
    slope: float


class PerformancePredictor:
    """Predict final values of trials from curve, hyperparameters and spectrum.

    Args:
        features: Which groups to use. A group without data (no spectra, no parameters) drops out.
        direction: ``"minimize"`` or ``"maximize"``, as in the study.
        random_state: Of the AeLLE ensemble; the same lessons give the same predictions.
        spectrum_regressor: Makes, of a random state, what reads a score from spectra:
            `AeLLERegressor`, or another `SpectrumRegressor`.
    """

    def __init__(
        self,
        features: Sequence[Feature] = FEATURES,
        *,
        direction: Literal["minimize", "maximize"] = "minimize",
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
        self.spectrum_regressor = spectrum_regressor or _aelle
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def fit(self, trials: Sequence[FrozenTrial]) -> PerformancePredictor:
        """Learn from the trials that have ended; others are passed over.

        Of more than 300, from the best, then the last that finished, then the last pruned.

        Raises:
            ValueError: Fewer than 4 trials have ended with a value, or all with the same one.
        """
        self._lessons = _latest([trial for trial in trials if is_lesson(trial)], self._sign)
        if len(self._lessons) < MIN_LESSONS:
            raise ValueError(
                f"Expected at least {MIN_LESSONS} trials that finished or were pruned with a "
                f"finite value, got {len(self._lessons)} among {len(trials)}. Predict later."
            )
        self._standings, doubts = standings(self._lessons, self._sign)
        self._known = 1.0 - doubts
        if np.ptp(self._standings) == 0.0:
            raise ValueError("Expected trials that differ in their values, got equal ones only.")
        self._value_map = self._fit_value_map()
        self._encoder = ParameterEncoder(self._lessons)
        self._models: dict[int, _Model] = {}
        self._spectral: dict[tuple[int, int], float] | None = None
        self._aelle: SpectrumRegressor | None = None
        return self

    @property
    def best_standing(self) -> float:
        """The standing of the best finished lesson, of any lesson if none has finished."""
        finished = np.array([t.state == TrialState.COMPLETE for t in self._lessons])
        return float(self._standings[finished if finished.any() else slice(None)].max())

    @property
    def best_value(self) -> float:
        """The value of the best finished lesson; one that belongs to the best if none has."""
        values = [t.values[0] for t in self._lessons if t.state == TrialState.COMPLETE]
        if not values:
            return float(self.to_value(self.best_standing))
        return float(max(values, key=lambda value: self._sign * value))

    def standing_quantile(self, share: float) -> float:
        """The standing that only ``share`` of the lessons reach."""
        return float(np.quantile(self._standings, 1.0 - share))

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[FloatArray, FloatArray]:
        """Predict final values from what was known at ``step`` (−1: before training).

        Returns:
            Mean and standard deviation, ``(n,)`` each, in units of the objective.
        """
        mean, std = self.predict_standings(trials, step)
        # The standing is uncertain, and so is the value that belongs to it.
        possible = mean[:, None] + std[:, None] * _NORMAL_QUANTILES
        values = self.to_value(possible)
        own = np.interp(possible, self._value_map.standings, self._value_map.stds)
        return values.mean(axis=1), np.sqrt(values.var(axis=1) + (own**2).mean(axis=1))

    def predict_standings(
        self, trials: Sequence[FrozenTrial], step: int
    ) -> tuple[FloatArray, FloatArray]:
        """As `predict`, but as standings within the study: higher is better, about unit spread."""
        model = self._model(step)
        queries = self._rows(trials, step)
        cross = [kernel(queries[name], model.rows[name]) for name, kernel in model.kernels]
        own = [np.diag(kernel(queries[name], queries[name])) for name, kernel in model.kernels]
        return model.regression.predict(cross, own)

    def skill(self, step: int) -> Skill:
        """How well predictions at ``step`` have done out of sample, within these lessons."""
        return self._model(step).skill

    def n_lessons(self, step: int) -> int:
        """How many lessons went past ``step`` and can teach what came after it."""
        return int((self._known[self._past(step)] >= _LEAST_KNOWN).sum())

    def spoken_features(self, step: int) -> tuple[Feature, ...]:
        """The groups that explain at least a tenth of the predictions at ``step``."""
        model = self._model(step)
        grams = [kernel(model.rows[name], model.rows[name]) for name, kernel in model.kernels]
        shares = model.regression.share(grams)
        total = dict.fromkeys(self.features, 0.0)
        for (name, _), part in zip(model.kernels, shares, strict=True):
            if name in total:
                total[name] += float(part)
        return tuple(name for name in self.features if total[name] >= _SPOKE)

    def to_value(self, standing: npt.ArrayLike) -> FloatArray:
        """The final value that belongs to a standing: between lessons, interpolated."""
        x, known = np.asarray(standing, dtype=np.float64), self._value_map
        inside = np.interp(x, known.standings, known.means)
        beyond = np.maximum(x - known.standings[-1], 0.0) + np.minimum(x - known.standings[0], 0.0)
        return np.asarray(inside + known.slope * beyond)

    def _fit_value_map(self) -> _ValueMap:
        ends = self._possible_ends()
        standings, members = np.unique(self._standings, return_inverse=True)
        shared = [
            np.concatenate([ends[i] for i in np.flatnonzero(members == place)])
            for place in range(len(standings))
        ]
        means = np.array([values.mean() for values in shared])
        stds = np.array([values.std() for values in shared])
        # Ends that are known say more of what belongs to their standing.
        relative = stds / (float(np.ptp(means)) or 1.0)
        weights = 1.0 / (relative**2 + max(float(np.median(relative)), 0.03) ** 2)
        means = isotonic_regression(means, sample_weight=weights, increasing=self._sign > 0.0)
        # Beyond the lessons, go on as in their middle half: ends may be wild.
        middle_half = float(np.ptp(np.percentile(means, [25, 75])))
        slope = self._sign * middle_half / max(float(np.ptp(standings)) / 2.0, 0.5)
        return _ValueMap(standings, means, stds, slope)

    def _possible_ends(self) -> list[FloatArray]:
        """The final values that each lesson may have, all as likely; one where it finished.

        What a pruned trial would have come to is not known: two times in three it would have
        gained what a finished trial gained from there, and else nothing more.
        """
        finished = [t for t in self._lessons if t.state == TrialState.COMPLETE]
        gains: dict[int, FloatArray] = {}
        seen: list[float] = []
        ends = []
        for trial in self._lessons:
            if trial.state == TrialState.COMPLETE:
                seen.append(trial.values[0])
                ends.append(np.array([trial.values[0]]))
                continue
            steps = [s for s, v in sorted(trial.intermediate_values.items()) if np.isfinite(v)]
            if steps[-1] not in gains:
                left = [
                    t.values[0] - t.intermediate_values[steps[-1]]
                    for t in finished
                    if np.isfinite(t.intermediate_values.get(steps[-1], np.nan))
                ]
                gains[steps[-1]] = np.array([*left, *left, *[0.0] * max(len(left), 1)])
            seen.append(trial.intermediate_values[steps[-1]])
            ends.append(seen[-1] + gains[steps[-1]])
        # A wild value says "bad" and no more. How far values reach, those tell that were seen.
        known = self._sign * np.array(seen)
        reach = known.max() - np.median(known) or np.ptp(known)
        low, high = np.median(known) - _WILD * reach, known.max() + reach
        return [self._sign * np.clip(self._sign * values, low, high) for values in ends]

    def _past(self, step: int) -> list[int]:
        return [i for i, trial in enumerate(self._lessons) if went_past(trial, step)]

    def _model(self, step: int) -> _Model:
        # One thread fits, the others wait: predictions must not depend on who came first.
        with self._lock:
            if step not in self._models:
                self._models[step] = self._fit_model(step)
            return self._models[step]

    def _fit_model(self, step: int) -> _Model:
        past = [i for i in self._past(step) if self._known[i] >= _LEAST_KNOWN]
        if len(past) < MIN_LESSONS:
            raise ValueError(
                f"Expected at least {MIN_LESSONS} trials that went past step {step}, got "
                f"{len(past)}. Predict at an earlier step."
            )
        lessons = [self._lessons[i] for i in past]
        rows = self._rows(lessons, step)
        known, own = self._known[past], self._standings[past]
        if "spectrum" in rows and rank_correlation(rows["spectrum"][:, 0], own, known) <= 0.0:
            # A score that ranks its own lessons the wrong way round has found nothing.
            del rows["spectrum"]
        kernels: list[tuple[str, Kernel]] = [("constant", _constant)]
        kernels += [(name, _linear) for name in rows if name != "constant"]
        if "params" in rows:
            kernels.append(("params", _pairwise))
        # A standing y that correlates as r with the true one, both of unit spread, says what
        # y / r with an error of variance 1 / r² − 1 would. Within those who came this far, the
        # standing has another mean and spread.
        center = float(np.average(own, weights=known))
        scale = max(float(np.sqrt(np.average((own - center) ** 2, weights=known))), 1e-6)
        regression = fit_evidence(
            [kernel(rows[name], rows[name]) for name, kernel in kernels],
            (own - center) / scale / np.sqrt(known),
            1.0 / known - 1.0,
        ).rescaled(center, scale)
        skill = Skill(
            n=float(known.sum()),
            model=rank_correlation(regression.leave_one_out()[0], own, known),
            baseline=0.0
            if step < 0
            else rank_correlation(curve_statistics(lessons, step, self._sign)[:, 0], own, known),
        )
        return _Model(regression, kernels, rows, skill)

    def _rows(self, trials: Sequence[FrozenTrial], step: int) -> dict[str, FloatArray]:
        """The features of ``trials`` as of ``step``, one array ``(n, d)`` a group."""
        rows = {"constant": np.ones((len(trials), 1))}
        if "params" in self.features and self._encoder.n_columns:
            rows["params"] = self._encoder.encode(trials)
        if "curve" in self.features and step >= 0:
            past = [self._lessons[i] for i in self._past(step)]
            reference = curve_statistics(past, step, self._sign)
            own = curve_statistics(trials, step, self._sign)
            rows["curve"] = np.stack(
                [score_against(own[:, j], reference[:, j]) for j in range(2)], axis=1
            )
        if "spectrum" in self.features:
            scores = self._spectral_scores(trials, step)
            if scores is not None:
                rows["spectrum"] = scores
        return rows

    def _spectral_scores(self, trials: Sequence[FrozenTrial], step: int) -> FloatArray | None:
        """What AeLLE reads from each trial's latest spectrum up to ``step``: ``(n, 1)``."""
        with self._lock:
            if self._spectral is None:
                self._fit_aelle()
        if self._aelle is None or self._spectral is None:
            return None
        numbers = {id(trial): i for i, trial in enumerate(self._lessons)}
        scores = np.zeros((len(trials), 1))
        fresh: list[int] = []
        spectra: list[FloatArray] = []
        for row, trial in enumerate(trials):
            known = {s: x for s, x in decode_spectra(trial).items() if s <= step}
            if not known:
                continue
            latest = max(known)
            lesson = numbers.get(id(trial))
            if lesson is not None and (lesson, latest) in self._spectral:
                scores[row] = self._spectral[lesson, latest]
            else:
                fresh.append(row)
                spectra.append(known[latest])
        if fresh:
            scores[fresh, 0] = self._aelle.predict(np.stack(spectra))
        return scores

    def _fit_aelle(self) -> None:
        aelle: SpectrumRegressor | None = None
        spectral: dict[tuple[int, int], float] = {}
        try:
            found = [
                (i, step, spectrum)
                for i, trial in enumerate(self._lessons)
                for step, spectrum in decode_spectra(trial).items()
            ]
            groups = [i for i, _, _ in found]
            if len({i for i in groups if self._known[i] >= _LEAST_KNOWN}) < MIN_LESSONS:
                return
            regressor = self.spectrum_regressor(self.random_state)
            known = self._known[groups]
            regressor.fit(
                np.stack([spectrum for _, _, spectrum in found]),
                np.where(known >= _LEAST_KNOWN, self._standings[groups], np.nan),
                groups=groups,
                score_weights=np.maximum(known, _LEAST_KNOWN),
            )
            scores = map(float, regressor.out_of_fold_prediction_)
            spectral = {(i, step): x for (i, step, _), x in zip(found, scores, strict=True)}
            aelle = regressor
        finally:
            # Together, and also where there is nothing to read: what failed once is not tried
            # again before the next lessons.
            self._aelle, self._spectral = aelle, spectral


def _aelle(random_state: int) -> SpectrumRegressor:
    from optuna_aelle.aelle import AeLLERegressor

    return AeLLERegressor(random_state=random_state)


def _latest(lessons: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """At most `_MAX_LESSONS`: the best, then finished ones, then the last that were pruned."""
    finished = [t for t in lessons if t.state == TrialState.COMPLETE]
    best = sorted(finished, key=lambda t: sign * t.values[0])[-1:]
    pruned = [t for t in lessons if t.state != TrialState.COMPLETE]
    preferred = [*best, *reversed(finished), *reversed(pruned)]
    kept: set[int] = set()
    for trial in preferred:
        if len(kept) == _MAX_LESSONS:
            break
        kept.add(id(trial))
    return [t for t in lessons if id(t) in kept]


def _constant(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.ones((len(a), len(b)))


def _linear(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(a @ b.T / a.shape[1])


def _pairwise(a: FloatArray, b: FloatArray) -> FloatArray:
    """Any function of two columns at a time: the mean, over pairs of columns, of the products of
    their Gaussian kernels.

    Source: Duvenaud, Nickisch and Rasmussen, "Additive Gaussian Processes", NeurIPS 2011: the
    additive kernel of second order.
    """
    each = np.exp(-((a[:, None, :] - b[None, :, :]) ** 2) / 2.0)
    n_columns = a.shape[1]
    if n_columns == 1:
        return np.asarray(each[..., 0])
    pairs = each.sum(axis=-1) ** 2 - (each**2).sum(axis=-1)
    return np.asarray(pairs / (n_columns * (n_columns - 1)))
