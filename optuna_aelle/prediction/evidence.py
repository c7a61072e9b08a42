"""Regression on several groups of features, each weighed by the evidence for it.

Notation: n rows, m queries, G groups; K_g (n, n) is the fixed Gram matrix of group g. The function
is a sum of one Gaussian process a group, y ~ N(0, Σ_g s_g² K_g + σ² I + diag(extra)): maximising
the evidence over (s_1 ... s_G, σ) turns groups off that do not explain y, and leave-one-out
predictions come in closed form.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): equations 2.23–2.24
(prediction), 5.8–5.9 (evidence and gradient), 5.10–5.12 (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve
from scipy.linalg import cholesky
from scipy.optimize import minimize

FloatArray = npt.NDArray[np.float64]

# Prior over the logarithms of the scales: y has unit variance, noise is about a third of it, and a
# group explains a moderate part of the rest until the data say otherwise.
_LOG_SCALE = np.log(0.5)
_LOG_NOISE = np.log(0.5)
_PRIOR_STD = 1.0
_JITTER = 1e-8


@dataclass(frozen=True, eq=False)
class EvidenceRegression:
    """A fitted sum of Gaussian processes; made by `fit_evidence`."""

    scales: FloatArray
    noise: float
    weights: FloatArray
    inverse: FloatArray
    targets: FloatArray
    center: float = 0.0
    spread: float = 1.0

    def rescaled(self, center: float, spread: float) -> EvidenceRegression:
        """The same regression of ``center + spread * y``."""
        return replace(self, center=center, spread=spread)

    def predict(
        self, cross: Sequence[FloatArray], own: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of y at new points, ``(m,)`` each, noise included.

        Args:
            cross: One Gram matrix ``(m, n)`` a group, between queries and rows.
            own: Each query's kernel with itself, one ``(m,)`` a group.
        """
        k = _weighted_sum(self.scales, cross)
        variance = _weighted_sum(self.scales, own) + self.noise**2
        variance = variance - np.einsum("ij,jk,ik->i", k, self.inverse, k)
        std = np.sqrt(np.maximum(variance, self.noise**2))
        return self.center + self.spread * (k @ self.weights), self.spread * std

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """What each row would have been predicted without its own y: mean and std, ``(n,)``."""
        variance = 1.0 / np.diag(self.inverse)
        mean = self.targets - self.weights * variance
        return self.center + self.spread * mean, self.spread * np.sqrt(variance)

    def share(self, cross: Sequence[FloatArray]) -> FloatArray:
        """How much of the rows' variance each group explains, ``(G,)``, adding up to 1."""
        parts = [
            (s**2 * (k @ self.weights)).std() for s, k in zip(self.scales, cross, strict=True)
        ]
        total = sum(parts)
        return np.array(parts) / total if total > 0.0 else np.zeros(len(parts))


def fit_evidence(
    grams: Sequence[FloatArray], targets: FloatArray, extra_variance: FloatArray | None = None
) -> EvidenceRegression:
    """Fit the scales by the (penalised) evidence.

    Args:
        grams: One Gram matrix ``(n, n)`` a group.
        targets: ``(n,)``, of about zero mean and unit variance.
        extra_variance: ``(n,)`` known variance of the targets, on top of the common noise.
    """
    n = len(targets)
    extra = np.zeros(n) if extra_variance is None else extra_variance
    prior = np.array([_LOG_SCALE] * len(grams) + [_LOG_NOISE])

    def covariance(log_scales: FloatArray) -> FloatArray:
        squared = np.exp(2.0 * log_scales)
        total = _weighted_sum(np.sqrt(squared[:-1]), grams)
        return np.asarray(total + np.diag(squared[-1] + extra + _JITTER))

    def objective(log_scales: FloatArray) -> tuple[float, FloatArray]:
        lower = cholesky(covariance(log_scales), lower=True)
        inverse = cho_solve((lower, True), np.eye(n))
        weights = inverse @ targets
        offset = (log_scales - prior) / _PRIOR_STD
        value = 0.5 * targets @ weights + np.log(np.diag(lower)).sum() + 0.5 * offset @ offset
        residual = inverse - np.outer(weights, weights)
        squared = np.exp(2.0 * log_scales)
        slopes = [s * np.sum(residual * k) for s, k in zip(squared[:-1], grams, strict=True)]
        slopes.append(squared[-1] * np.trace(residual))
        return float(value), np.array(slopes) + offset / _PRIOR_STD

    bounds = [(-6.0, 3.0)] * len(grams) + [(-3.0, 1.0)]
    # The second start, from groups that say little, is for a search that got lost.
    starts = (prior, np.array([_LOG_SCALE - 2.0] * len(grams) + [0.0]))
    found = None
    for start in starts:
        try:
            result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(result.fun) and (found is None or result.fun < found.fun):
            found = result
        if result.success and np.isfinite(result.fun):
            break
    if found is None:
        raise FloatingPointError(
            f"Expected an evidence that is finite, got none from {len(starts)} starts for {n} "
            f"rows and {len(grams)} groups of features. Are features or targets finite?"
        )
    lower = cholesky(covariance(found.x), lower=True)
    inverse = cho_solve((lower, True), np.eye(n))
    return EvidenceRegression(
        scales=np.exp(found.x[:-1]),
        noise=float(np.exp(found.x[-1])),
        weights=inverse @ targets,
        inverse=inverse,
        targets=targets,
    )


def _weighted_sum(scales: FloatArray, parts: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(sum(s**2 * part for s, part in zip(scales, parts, strict=True)))
