"""The scikit-learn estimator: Lyapunov spectra in, predicted scores and AeLLE latents out.

Notation: n spectra of k exponents in nats per step, M fold members plus one reference member
(index 0), d latent coordinates, G groups (networks) that have a score.

Exponents reach from about +1 down to -700 and -inf, and what tells networks apart lies near 0.
They are therefore clipped at a floor, squashed by asinh(exponent / squash_scale), and standardised
per position before the autoencoders see them.

Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any
from typing import Literal
from typing import overload

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.base import RegressorMixin
from sklearn.base import TransformerMixin
from sklearn.utils import check_consistent_length
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array
from sklearn.utils.validation import check_is_fitted
from sklearn.utils.validation import column_or_1d
from sklearn.utils.validation import validate_data

from optuna_aelle.aelle.autoencoder import FloatArray
from optuna_aelle.aelle.autoencoder import Weights
from optuna_aelle.aelle.autoencoder import decode
from optuna_aelle.aelle.autoencoder import encode
from optuna_aelle.aelle.autoencoder import read_out
from optuna_aelle.aelle.autoencoder import train
from optuna_aelle.aelle.checks import check_scores
from optuna_aelle.aelle.checks import differ_in_length
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import check_exponents
from optuna_aelle.fingerprint import resample_exponents

# Squashed positions that vary less than this differ by numerical noise only (1e-4 nats near 0).
_LEAST_SPREAD = 1e-3
# Scores that the spectra do not explain shrink predictions to the mean, but never quite: the order
# of the predictions is what a sampler uses.
_LEAST_SLOPE = 0.1
# Half-width of the central 68.27 % of a normal distribution: one standard deviation.
_ONE_SIGMA = 0.6827


class AeLLERegressor(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    RegressorMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Predict a network's score from its Lyapunov spectrum through an autoencoder's latent.

    ``n_members`` autoencoders are trained at once. Each leaves out the scores of one fold of the
    networks, which gives every scored spectrum a prediction by a member that never saw its
    network's score. From those, one slope shrinks the predictions towards the mean as far as the
    spectra fail to explain the scores, and their residuals are the noise part of the uncertainty.
    One further member, the reference, learns from all scores and provides the latent.

    Args:
        latent_dim: Latent coordinates d.
        n_members: Folds M, at least 2.
        hidden_dim: Hidden units of encoder and decoder.
        n_steps: Optimiser steps.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay; it is strong because studies have tens of networks.
        input_noise: Noise added to the standardised spectra while training.
        squash_scale: Exponents much smaller than this, in nats per step, stay in proportion;
            larger ones are compressed logarithmically. The default is a few times the sampling
            error of a cheap spectrum.
        floor: Exponents below it, in nats per step, count as this: such a direction is forgotten
            within a step whatever the exact value, -inf included.
        random_state: Of the folds and weights. None draws fresh entropy; numpy's and torch's
            global random states are never used.

    Attributes:
        out_of_fold_prediction_: Shape ``(n,)``, for each training row the prediction of the member
            that did not see the scores of its group; the ensemble mean for unscored rows, and the
            mean score when only one group has a score.
        slope_: Shrinkage of the predictions towards the mean, in [0.1, 1].
        residual_std_: Robust standard deviation of the out-of-fold residuals, in units of the
            score; infinite when only one group has a score.
        n_features_in_: Exponents k of a spectrum after resampling.
        resamples_: Whether fitting saw spectra of different lengths, so that all are resampled.

    Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876. The ensemble, the shrinkage and the
    uncertainty are this package's additions.
    """

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        n_members: int = 8,
        hidden_dim: int = 16,
        n_steps: int = 60,
        learning_rate: float = 0.04,
        weight_decay: float = 2.0,
        input_noise: float = 0.3,
        squash_scale: float = 0.1,
        floor: float = -50.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.n_members = n_members
        self.hidden_dim = hidden_dim
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.input_noise = input_noise
        self.squash_scale = squash_scale
        self.floor = floor
        self.random_state = random_state

    def fit(
        self,
        X: npt.ArrayLike | Sequence[npt.ArrayLike],
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike | None = None,
        score_weights: npt.ArrayLike | None = None,
    ) -> AeLLERegressor:
        """Learn from spectra and the scores of their networks.

        Args:
            X: Spectra, shape ``(n, k)``, or n one-dimensional arrays of different lengths, which
                are resampled to ``FINGERPRINT_LENGTH`` points. -inf is legal.
            y: Scores, shape ``(n,)``. NaN marks a spectrum without a score, of a trial that was
                pruned or still runs: it trains the reconstruction only.
            groups: Shape ``(n,)``, labels of the networks. Rows of one network, such as its
                epochs, are never split between folds. By default every row is its own network.
            score_weights: Shape ``(n,)``, how much each score counts; all the same by default.

        Raises:
            ValueError: A spectrum holds NaN or +inf, a score is infinite, no score is finite, the
                lengths differ, a weight is not positive, or a parameter is out of range.
        """
        self._check_parameters()
        if y is None:
            raise ValueError(
                "AeLLERegressor requires y to be passed, but the target y is None. "
                "Pass one score per spectrum, NaN where there is none."
            )
        self.resamples_ = differ_in_length(X)
        exponents = self._check_spectra(X, reset=True)
        scores = np.asarray(column_or_1d(y, warn=True), dtype=np.float64)
        group = np.arange(len(exponents)) if groups is None else column_or_1d(groups)
        check_consistent_length(exponents, scores, group)
        scored = check_scores(scores)
        weight = np.ones(len(scores)) if score_weights is None else column_or_1d(score_weights)
        check_consistent_length(scores, weight)
        if not (np.isfinite(weight) & (weight > 0.0)).all():
            raise ValueError(
                f"Expected score_weights that are positive, got {weight.min()!r} among them. Pass "
                "NaN as the score of a row that should not count."
            )

        rng = self._generator()
        fold, n_groups = self._assign_folds(group, scored, rng)
        squashed = self._squash(exponents)
        self.center_, self.scale_ = _robust_location_and_spread(squashed)

        # Each member standardises by the scores that it sees, lest the mean betray a hidden one.
        seen = weight * (scored & (fold != np.arange(-1, self.n_members)[:, None]))
        count = seen.sum(axis=1)
        filled = np.where(scored, scores, 0.0)
        self.score_mean_ = (seen * filled).sum(axis=1) / count
        deviation = np.where(seen > 0.0, filled - self.score_mean_[:, None], 0.0)
        self.score_std_ = np.sqrt((seen * np.square(deviation)).sum(axis=1) / count)
        unit = np.where(self.score_std_ > 0, self.score_std_, 1.0)

        self._weights: Weights = train(
            (squashed - self.center_) / self.scale_,
            deviation / unit[:, None],
            seen,
            hidden=self.hidden_dim,
            latent=self.latent_dim,
            steps=self.n_steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            noise=self.input_noise,
            seed=int(rng.integers(2**31)),
        )
        self._calibrate(exponents, scores, scored, weight, fold, n_groups)
        return self

    @overload
    def predict(
        self, X: npt.ArrayLike | Sequence[npt.ArrayLike], return_std: Literal[False] = False
    ) -> FloatArray: ...

    @overload
    def predict(
        self, X: npt.ArrayLike | Sequence[npt.ArrayLike], return_std: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...

    def predict(
        self, X: npt.ArrayLike | Sequence[npt.ArrayLike], return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Return the predicted scores ``(n,)``, and with ``return_std`` also their std ``(n,)``.

        The std combines the disagreement of the members with the out-of-fold residuals. It is
        infinite after a fit on a single scored network, which tells nothing about errors.

        Args:
            X: As in ``fit``.
            return_std: Whether to return the standard deviations too.
        """
        check_is_fitted(self)
        mean, deviation = self._member_predictions(self._check_spectra(X, reset=False))
        members = mean + self.slope_ * deviation
        if not return_std:
            return np.asarray(members.mean(axis=0))
        variance = members.var(axis=0, ddof=1) + self.residual_std_**2
        return np.asarray(members.mean(axis=0)), np.asarray(np.sqrt(variance))

    def transform(self, X: npt.ArrayLike | Sequence[npt.ArrayLike]) -> FloatArray:
        """Return the latents of the reference member, shape ``(n, latent_dim)``.

        The members' latent axes are not aligned with each other, so there is no mean of them.
        """
        check_is_fitted(self)
        reference = {name: value[:1] for name, value in self._weights.items()}
        exponents = self._check_spectra(X, reset=False)
        return np.asarray(encode(reference, self._standardise(exponents))[0])

    def inverse_transform(self, Z: npt.ArrayLike) -> FloatArray:
        """Return the exponents ``(n, k)``, nats per step, that the reference decodes from latents.

        They are at least ``floor``, and near it where the spectra had dead directions; neighbours
        may be out of order by the error of the reconstruction.

        Args:
            Z: Latents, shape ``(n, latent_dim)``.

        Raises:
            ValueError: ``Z`` has another width or is not finite.
        """
        check_is_fitted(self)
        latents = check_array(Z, dtype=np.float64, input_name="Z")
        if latents.shape[1] != self._n_features_out:
            raise ValueError(
                f"Expected latents of shape (n, {self._n_features_out}), got {latents.shape}. "
                "Pass what `transform` returned."
            )
        reference = {name: value[:1] for name, value in self._weights.items()}
        squashed = decode(reference, latents)[0] * self.scale_ + self.center_
        return np.asarray(np.maximum(np.sinh(squashed) * self.squash_scale, self.floor))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and fitted state to ``path``, one ``.npz`` file without pickles.

        Predictions do not depend on ``random_state``; one that is no integer is saved as None.
        """
        from optuna_aelle.aelle.regressor_file import write_regressor

        check_is_fitted(self)
        write_regressor(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AeLLERegressor:
        """Return the estimator that ``save`` wrote; its predictions are identical.

        Raises:
            ValueError: The file is of another kind, or of a newer format than this version knows.
        """
        from optuna_aelle.aelle.regressor_file import read_regressor

        return read_regressor(cls, path)

    @property
    def _n_features_out(self) -> int:
        return int(self._weights["score"].shape[1])

    def _check_parameters(self) -> None:
        least = {"latent_dim": 1, "n_members": 2, "hidden_dim": 1, "n_steps": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise ValueError(
                    f"{name} must be an integer of at least {minimum}, but got {value!r}."
                )
        for name in ("learning_rate", "squash_scale"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, but got {getattr(self, name)!r}.")
        for name in ("weight_decay", "input_noise"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative, but got {getattr(self, name)!r}.")
        if not -np.inf < self.floor < 0:
            raise ValueError(f"floor must be finite and negative, but got {self.floor!r}.")

    def _generator(self) -> np.random.Generator:
        if self.random_state is None:
            return np.random.default_rng()
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31))

    def _check_spectra(
        self, X: npt.ArrayLike | Sequence[npt.ArrayLike], *, reset: bool
    ) -> FloatArray:
        if self.resamples_:
            rows = X if isinstance(X, Sequence) else np.asarray(X, dtype=np.float64)
            if isinstance(rows, Sequence) or rows.ndim == 2:
                X = np.stack([resample_exponents(row, FINGERPRINT_LENGTH) for row in rows])
        elif not reset and differ_in_length(X):
            raise ValueError(
                f"Expected spectra of {self.n_features_in_} exponents as in fit, got spectra of "
                "different lengths. Fit on different lengths too, or call resample_exponents."
            )
        checked = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite=False)
        return check_exponents(checked)

    def _assign_folds(
        self, group: npt.NDArray[Any], scored: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.intp], int]:
        """Return the fold of each row, -2 where none hides it, and the number of scored groups."""
        _, index = np.unique(group, return_inverse=True)
        with_score = np.unique(index[scored])
        fold = np.full(int(index.max()) + 1, -2, dtype=np.intp)
        # One network cannot be held out: nothing would be left to learn from.
        if len(with_score) > 1:
            fold[rng.permutation(with_score)] = np.arange(len(with_score)) % self.n_members
        return fold[index], len(with_score)

    def _squash(self, exponents: FloatArray) -> FloatArray:
        return np.asarray(np.arcsinh(np.maximum(exponents, self.floor) / self.squash_scale))

    def _standardise(self, exponents: FloatArray) -> FloatArray:
        return np.asarray((self._squash(exponents) - self.center_) / self.scale_)

    def _member_predictions(self, exponents: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each fold member's mean score ``(M, 1)`` and deviations from it ``(M, n)``."""
        members = {name: value[1:] for name, value in self._weights.items()}
        unit_scores = read_out(members, encode(members, self._standardise(exponents)))
        return self.score_mean_[1:, None], self.score_std_[1:, None] * unit_scores

    def _calibrate(
        self,
        exponents: FloatArray,
        scores: FloatArray,
        scored: npt.NDArray[np.bool_],
        weight: FloatArray,
        fold: npt.NDArray[np.intp],
        n_groups: int,
    ) -> None:
        """Set the shrinkage, the out-of-fold predictions and the spread of their residuals."""
        mean, deviation = self._member_predictions(exponents)
        self.slope_, self.residual_std_ = 1.0, np.inf
        self.out_of_fold_prediction_ = (mean + deviation).mean(axis=0)
        if n_groups < 2:
            self.out_of_fold_prediction_[scored] = scores[scored].mean()
            return
        rows = np.flatnonzero(scored)
        own_deviation = deviation[fold[rows], rows]
        # From one mean for all: the mean that a member has seen is low where the hidden scores
        # are high, and would make noise look like a (reversed) prediction.
        common_mean = np.average(scores[rows], weights=weight[rows])
        root = np.sqrt(weight[rows])
        self.slope_ = _shrinkage(root * own_deviation, root * (scores[rows] - common_mean))
        self.out_of_fold_prediction_ = (mean + self.slope_ * deviation).mean(axis=0)
        self.out_of_fold_prediction_[rows] = common_mean + self.slope_ * own_deviation
        residuals = np.abs(scores[rows] - self.out_of_fold_prediction_[rows])
        # Student's t widens one sigma as few networks demand; epochs of one network count once.
        small_sample = stats.t.ppf(0.5 + _ONE_SIGMA / 2, n_groups - 1)
        self.residual_std_ = float(np.quantile(residuals, _ONE_SIGMA) * small_sample)


def _robust_location_and_spread(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, center, high = np.percentile(values, [25, 50, 75], axis=0)
    # A few dead directions among close exponents leave the quartiles together and would be
    # blown up without bound; a share of the standard deviation holds them within reach.
    spread = np.maximum((high - low) / 1.349, values.std(axis=0) / 3.0)
    return center, np.where(spread < _LEAST_SPREAD, 1.0, spread)


def _shrinkage(predicted: FloatArray, actual: FloatArray) -> float:
    """Return the least-squares slope of actual on predicted deviations, within its bounds."""
    power = float(predicted @ predicted)
    slope = float(predicted @ actual) / power if power > 0 else 1.0
    return float(np.clip(slope, _LEAST_SLOPE, 1.0))
