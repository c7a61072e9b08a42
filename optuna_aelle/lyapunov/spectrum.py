"""The record that every spectrum computation returns.

Notation: B input sequences, N the size of the state that carries tangent vectors, k leading
exponents, all in nats per step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Computation:
    """How the spectrum of one layer was computed.

    Attributes:
        method: How tangent vectors were kept apart: ``"lu"``, ``"qr"`` or ``"cholesky"``;
            ``"sum"`` where J is diagonal and its logarithms are summed.
        dtype: Of the tangent vectors, at the end.
        interval: Steps between two renormalisations, on average.
        n_repeated: How often a stretch was done again because too many digits were lost.
        compiled: Whether in compiled code.

    Example:
        >>> Computation("lu", "float64", 1.0, 0, compiled=True).method
        'lu'
    """

    method: str
    dtype: str
    interval: float
    n_repeated: int
    compiled: bool


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
        seconds: Wall-clock time from the call's inputs to this record; where networks run side by
            side, what this one took alone and its share of what they took together.
        window_exponents: ``(W, B, k)`` exponents of W consecutive windows if they were asked for,
            in the order of the frame's columns: descending on average, not in each window.
        computations: How each layer was computed, from the bottom up; of a union, of all its
            parts.

    Example:
        >>> import torch
        >>> from optuna_aelle.lyapunov import lyapunov_spectrum
        >>> spectrum = lyapunov_spectrum(torch.nn.GRU(3, 16), torch.randn(80, 4, 3))
        >>> spectrum.exponents.shape, spectrum.mean.shape, spectrum.stderr.shape
        ((4, 16), (16,), (16,))
        >>> spectrum.max_exponent < 0.0, spectrum.kaplan_yorke_dimension, spectrum.metric_entropy
        (True, 0.0, 0.0)
    """

    exponents: FloatArray
    state_size: int
    n_steps: int
    trace: FloatArray
    trace_steps: npt.NDArray[np.int64]
    log_abs_det: FloatArray | None
    seconds: float
    window_exponents: FloatArray | None = None
    computations: tuple[Computation, ...] = ()

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
        """The exponents in bits per step, ``(B, k)``.

        Example:
            >>> import torch
            >>> from optuna_aelle.lyapunov import lyapunov_spectrum
            >>> lyapunov_spectrum(torch.nn.GRU(3, 4), torch.randn(80, 2, 3)).to_bits().shape
            (2, 4)
        """
        return self.exponents / math.log(2.0)


def union(spectra: Sequence[LyapunovSpectrum], k: int | None) -> LyapunovSpectrum:
    """The record of several networks taken as one, with its ``k`` leading exponents or all.

    Exact where none of them feeds an earlier one back: the Jacobian is block-triangular then, as
    that of a stack. Of records of unequal length the shortest says how many steps and sequences
    there are; ``trace`` has the end alone.

    Example:
        >>> one = LyapunovSpectrum(np.array([[-0.5, -2.0]]), 2, 10, np.zeros((1, 2)),
        ...     np.array([10]), None, 0.1)
        >>> union([one, one], 3).exponents, union([one, one], 3).state_size
        (array([[-0.5, -0.5, -2. ]]), 4)
    """
    if len(spectra) == 1:
        return spectra[0]
    batch = min(len(spectrum.exponents) for spectrum in spectra)
    n_steps = min(spectrum.n_steps for spectrum in spectra)
    size = sum(spectrum.state_size for spectrum in spectra)
    k = size if k is None else k
    together = np.concatenate([spectrum.exponents[:batch] for spectrum in spectra], axis=1)
    last = np.concatenate([spectrum.trace[-1:] for spectrum in spectra], axis=1)
    determinants = [
        spectrum.log_abs_det[:batch] for spectrum in spectra if spectrum.log_abs_det is not None
    ]
    known = len(determinants) == len(spectra) and k >= size
    return LyapunovSpectrum(
        exponents=-np.sort(-together, axis=1)[:, :k],
        state_size=size,
        n_steps=n_steps,
        trace=-np.sort(-last, axis=1)[:, :k],
        trace_steps=np.array([n_steps], dtype=np.int64),
        log_abs_det=np.sum(determinants, axis=0) if known else None,
        seconds=sum(spectrum.seconds for spectrum in spectra),
        computations=tuple(how for spectrum in spectra for how in spectrum.computations),
    )
