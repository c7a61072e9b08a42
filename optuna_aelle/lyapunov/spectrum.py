"""The record that every spectrum computation returns.

Notation: B input sequences, N the size of the state that carries tangent vectors, k leading
exponents, all in nats per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LyapunovSpectrum:
    """Finite-time Lyapunov exponents of one network along B input sequences.

    Attributes:
        exponents: ``(B, k)`` float64, nats per step, descending along each row. ``-inf`` marks a
            direction that the network forgets at once; NaN never occurs.
        state_size: N, the number of exponents that the full spectrum would have.
        n_steps: The number of steps averaged over, warm-up excluded.
        trace: ``(C, k)`` running means over the sequences at C checkpoints, in the order of the
            frame's columns: a picture of convergence.
        trace_steps: ``(C,)`` the number of steps behind each row of ``trace``.
        log_abs_det: ``(B,)`` time average of ln|det J| where the cell has a closed form and
            k = N, else None.
        seconds: Wall-clock time of the computation.
        window_exponents: ``(W, B, k)`` exponents of W consecutive windows if they were asked for,
            in the order of the frame's columns: descending on average, not in each window.
    """

    exponents: FloatArray
    state_size: int
    n_steps: int
    trace: FloatArray
    trace_steps: npt.NDArray[np.int64]
    log_abs_det: FloatArray | None
    seconds: float
    window_exponents: FloatArray | None = None

    def __repr__(self) -> str:
        batch, k = self.exponents.shape
        return (
            f"LyapunovSpectrum(max_exponent={self.max_exponent:.4g} nats per step, "
            f"k={k} of N={self.state_size}, B={batch}, n_steps={self.n_steps})"
        )

    @property
    def mean(self) -> FloatArray:
        """Mean over the sequences, ``(k,)``, nats per step."""
        return np.asarray(self.exponents.mean(axis=0))

    @property
    def stderr(self) -> FloatArray:
        """Standard error of ``mean`` over the sequences, ``(k,)``; ``inf`` if B = 1 hides it."""
        batch, k = self.exponents.shape
        if batch == 1:
            return np.full(k, np.inf)
        dead = np.isneginf(self.exponents)
        finite = np.where(dead, 0.0, self.exponents)
        spread = finite.std(axis=0, ddof=1) / math.sqrt(batch)
        return np.where(dead.all(axis=0), 0.0, np.where(dead.any(axis=0), np.inf, spread))

    @property
    def max_exponent(self) -> float:
        """λ₁, nats per step: positive in chaos, negative where inputs drive the state alone."""
        return float(self.mean[0])

    @property
    def kaplan_yorke_dimension(self) -> float:
        """Kaplan–Yorke (Lyapunov) dimension of the attractor.

        If even the sum of all k exponents is not negative, the dimension is at least k, and k is
        returned (compute more exponents to know better).
        """
        mean = self.mean
        sums = np.cumsum(mean)
        below = np.flatnonzero(sums < 0.0)
        if below.size == 0:
            return float(mean.size)
        j = int(below[0])
        if j == 0:
            return 0.0
        return j + float(sums[j - 1]) / abs(float(mean[j]))

    @property
    def metric_entropy(self) -> float:
        """Sum of the positive exponents, nats per step (Pesin: an upper bound of the entropy)."""
        mean = self.mean
        return float(mean[mean > 0.0].sum())

    @property
    def sum_rule_residual(self) -> float | None:
        """Largest |Σλ − mean ln|det J|| over the sequences, nats per step.

        None where the cell has no closed form of its determinant, or where k < N.
        """
        if self.log_abs_det is None or self.exponents.shape[1] < self.state_size:
            return None
        total = self.exponents.sum(axis=1)
        both_dead = np.isneginf(total) & np.isneginf(self.log_abs_det)
        with np.errstate(invalid="ignore"):
            return float(np.where(both_dead, 0.0, np.abs(total - self.log_abs_det)).max())

    def to_bits(self) -> FloatArray:
        """The exponents in bits per step, ``(B, k)``."""
        return self.exponents / math.log(2.0)
