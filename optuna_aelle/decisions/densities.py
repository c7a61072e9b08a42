"""The densities of Optuna's TPE, computed in vectors: the same draws in less time.

Optuna asks for the mass of each value of an integer parameter under each of its kernels by a
Python call a number, which would be half of what choosing the next trial costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from scipy.special import log_ndtr

FloatArray = npt.NDArray[np.float64]

_LOG_ROOT_2_PI = 0.5 * float(np.log(2.0 * np.pi))


class VectorParzenEstimator(_ParzenEstimator):
    """A mixture of products of truncated normal and categorical kernels, built as Optuna does."""

    def log_pdf(self, samples_dict: dict[str, npt.NDArray[Any]]) -> FloatArray:
        """Of samples ``(n,)`` by name, as Optuna stores them: ``(n,)``."""
        try:
            return self._log_pdf(samples_dict)
        except Exception:
            # Another version of Optuna may hold its kernels otherwise: the same, but slowly.
            return super().log_pdf(samples_dict)

    def _log_pdf(self, samples: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
        mixture: Any = self._mixture_distribution
        total = np.zeros((1, 1))
        for (name, distribution), kernels in zip(
            self._search_space.items(), mixture.distributions, strict=True
        ):
            x = samples[name]
            if isinstance(distribution, CategoricalDistribution):
                total = total + np.log(kernels.weights.T[x.astype(np.intp)])
            else:
                total = total + _log_density(distribution, x, kernels.mu, kernels.sigma)
        # Summed as Optuna does, so that where categories tie, the same one comes first.
        total = np.ascontiguousarray(total + np.log(mixture.weights))
        largest = total.max(axis=1)
        largest[np.isneginf(largest)] = 0.0
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.exp(total - largest[:, None]).sum(axis=1)) + largest)


def _log_density(
    distribution: BaseDistribution, x: FloatArray, mu: FloatArray, sigma: FloatArray
) -> FloatArray:
    """Of values ``(n,)`` under kernels ``(m,)``: ``(n, m)``; of a grid the mass around each."""
    of: Any = distribution
    half = (of.step or 0.0) / 2.0
    edges = [x[:, None] - half, x[:, None] + half, of.low - half, of.high + half]
    if of.log:
        edges = [np.log(edge) for edge in edges]
    left, right, low, high = ((edge - mu) / sigma for edge in edges)
    if half:
        inside = _log_mass(left, right)
    else:
        inside = -0.5 * left**2 - _LOG_ROOT_2_PI - np.log(sigma)
        inside[(left < low) | (left > high)] = -np.inf
    return np.asarray(inside - _log_mass(low, high))


def _log_mass(a: FloatArray, b: FloatArray) -> FloatArray:
    """ln P(a < z < b) of a standard normal z."""
    # In the left tail, where differences are exact.
    mirrored = a + b > 0.0
    a, b = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
    of_b = log_ndtr(b)
    return np.asarray(of_b + np.log1p(-np.exp(log_ndtr(a) - of_b)))
