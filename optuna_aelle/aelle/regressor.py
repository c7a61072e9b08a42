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
from typing import Literal
from typing import overload

import numpy as np
import numpy.typing as npt
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
from optuna_aelle.aelle.calibration import assign_folds
from optuna_aelle.aelle.calibration import calibrate
from optuna_aelle.aelle.checks import check_parameters
from optuna_aelle.aelle.checks import check_scores
from optuna_aelle.aelle.checks import differ_in_length
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import check_exponents
from optuna_aelle.fingerprint import resample_exponents

# Squashed positions that vary less than this differ by numerical noise only (1e-4 nats near 0).
_LEAST_SPREAD = 1e-3


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

    Example:
        >>> scores = np.linspace(0.0, 1.0, 30)
        >>> spectra = -np.arange(16.0) * (0.1 + 0.1 * scores[:, None])
        >>> regressor = AeLLERegressor(random_state=0).fit(spectra, scores)
        >>> mean, std = regressor.predict(spectra[[0, -1]], return_std=True)
        >>> bool(mean[0] < mean[1]), std.shape, regressor.transform(spectra).shape
        (True, (2,), (30, 8))
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

        Example:
            >>> spectra = [-np.arange(8.0), -np.arange(12.0), -np.arange(10.0)]
            >>> regressor = AeLLERegressor(n_members=2).fit(spectra, [0.1, 0.5, np.nan])
            >>> regressor.resamples_, regressor.n_features_in_
            (True, 32)
        """
        check_parameters(self)
        if y is None:
            raise ValueError(
                "AeLLERegressor requires y to be passed, but the target y is None. "
                "Pass one score per spectrum, NaN where there is none."
            )
        resamples = differ_in_length(X)
        exponents = self._check_spectra(X, resamples, reset=True)
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
        fold, n_groups = assign_folds(group, scored, self.n_members, rng)
        squashed = self._squash(exponents)
        self.resamples_ = resamples
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
        calibration = calibrate(
            *self._member_predictions(exponents), scores, scored, weight, fold, n_groups
        )
        self.slope_, self.residual_std_ = calibration.slope, calibration.residual_std
        self.out_of_fold_prediction_ = calibration.out_of_fold
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

        Example:
            >>> spectra, scores = -np.random.rand(20, 8), np.random.rand(20)
            >>> regressor = AeLLERegressor().fit(spectra, scores)
            >>> regressor.predict(spectra[:3]).shape
            (3,)
            >>> mean, std = regressor.predict(spectra[:3], return_std=True)
        """
        check_is_fitted(self)
        mean, deviation = self._member_predictions(
            self._check_spectra(X, self.resamples_, reset=False)
        )
        members = mean + self.slope_ * deviation
        if not return_std:
            return np.asarray(members.mean(axis=0))
        variance = members.var(axis=0, ddof=1) + self.residual_std_**2
        return np.asarray(members.mean(axis=0)), np.asarray(np.sqrt(variance))

    def transform(self, X: npt.ArrayLike | Sequence[npt.ArrayLike]) -> FloatArray:
        """Return the latents of the reference member, shape ``(n, latent_dim)``.

        The members' latent axes are not aligned with each other, so there is no mean of them.

        Example:
            >>> spectra, scores = -np.random.rand(20, 8), np.random.rand(20)
            >>> AeLLERegressor(latent_dim=2).fit(spectra, scores).transform(spectra).shape
            (20, 2)
        """
        check_is_fitted(self)
        reference = {name: value[:1] for name, value in self._weights.items()}
        exponents = self._check_spectra(X, self.resamples_, reset=False)
        return np.asarray(encode(reference, self._standardise(exponents))[0])

    def inverse_transform(self, Z: npt.ArrayLike) -> FloatArray:
        """Return the exponents ``(n, k)``, nats per step, that the reference decodes from latents.

        They are at least ``floor``, and near it where the spectra had dead directions; neighbours
        may be out of order by the error of the reconstruction.

        Args:
            Z: Latents, shape ``(n, latent_dim)``.

        Raises:
            ValueError: ``Z`` has another width or is not finite.

        Example:
            >>> spectra, scores = -np.random.rand(20, 8), np.random.rand(20)
            >>> regressor = AeLLERegressor(latent_dim=2).fit(spectra, scores)
            >>> regressor.inverse_transform(np.zeros((3, 2))).shape
            (3, 8)
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

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> regressor = AeLLERegressor().fit(-np.random.rand(20, 8), np.random.rand(20))
            >>> with TemporaryDirectory() as folder:
            ...     regressor.save(Path(folder) / "regressor.npz")
            ...     again = AeLLERegressor.load(Path(folder) / "regressor.npz")
            >>> again.slope_ == regressor.slope_
            True
        """
        from optuna_aelle.aelle.regressor_file import write_regressor

        check_is_fitted(self)
        write_regressor(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AeLLERegressor:
        """Return the estimator that ``save`` wrote; its predictions are identical.

        Raises:
            ValueError: The file is of another kind, or of a newer format than this version knows.

        Example:
            >>> regressor = AeLLERegressor.load("regressor.npz")  # doctest: +SKIP
        """
        from optuna_aelle.aelle.regressor_file import read_regressor

        return read_regressor(cls, path)

    @property
    def _n_features_out(self) -> int:
        return int(self._weights["score"].shape[1])

    def _generator(self) -> np.random.Generator:
        if self.random_state is None:
            return np.random.default_rng()
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31))

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that failed may have left `n_features_in_` behind.
        return hasattr(self, "residual_std_")

    def _check_spectra(
        self, X: npt.ArrayLike | Sequence[npt.ArrayLike], resamples: bool, *, reset: bool
    ) -> FloatArray:
        if resamples:
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

    def _squash(self, exponents: FloatArray) -> FloatArray:
        return np.asarray(np.arcsinh(np.maximum(exponents, self.floor) / self.squash_scale))

    def _standardise(self, exponents: FloatArray) -> FloatArray:
        return np.asarray((self._squash(exponents) - self.center_) / self.scale_)

    def _member_predictions(self, exponents: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each fold member's mean score ``(M, 1)`` and deviations from it ``(M, n)``."""
        members = {name: value[1:] for name, value in self._weights.items()}
        unit_scores = read_out(members, encode(members, self._standardise(exponents)))
        return self.score_mean_[1:, None], self.score_std_[1:, None] * unit_scores


def _robust_location_and_spread(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, center, high = np.percentile(values, [25, 50, 75], axis=0)
    # A few dead directions among close exponents leave the quartiles together and would be
    # blown up without bound; a share of the standard deviation holds them within reach.
    spread = np.maximum((high - low) / 1.349, values.std(axis=0) / 3.0)
    return center, np.where(spread < _LEAST_SPREAD, 1.0, spread)
