"""Kernels between rows of features: ``(n, d)`` and ``(m, d)`` give ``(n, m)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Kernel(NamedTuple):
    """A kernel, and what it gives a row with itself.

    Attributes:
        between: ``(n, d), (m, d) -> (n, m)``.
        own: ``(n, d) -> (n,)``, the diagonal of ``between(a, a)`` without the rest of it.
    """

    between: Callable[[FloatArray, FloatArray], FloatArray]
    own: Callable[[FloatArray], FloatArray]


def _ones(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.ones((len(a), len(b)))


def _products(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(a @ b.T / a.shape[1])


def _pairs(a: FloatArray, b: FloatArray) -> FloatArray:
    # Column by column: all at once would hold n m d numbers.
    total, squared = np.zeros((len(a), len(b))), np.zeros((len(a), len(b)))
    for own, other in zip(a.T, b.T, strict=True):
        each = np.exp(-((own[:, None] - other) ** 2) / 2.0)
        total += each
        squared += each**2
    n_columns = a.shape[1]
    if n_columns == 1:
        return total
    return np.asarray((total**2 - squared) / (n_columns * (n_columns - 1)))


def _one(a: FloatArray) -> FloatArray:
    return np.ones(len(a))


def _squares(a: FloatArray) -> FloatArray:
    return np.asarray((a**2).sum(axis=1) / a.shape[1])


CONSTANT = Kernel(_ones, _one)
LINEAR = Kernel(_products, _squares)
# Any function of two columns at a time: the mean, over pairs of columns, of the products of their
# Gaussian kernels. Duvenaud, Nickisch and Rasmussen, "Additive Gaussian Processes", NeurIPS 2011:
# the additive kernel of second order.
PAIRWISE = Kernel(_pairs, _one)
