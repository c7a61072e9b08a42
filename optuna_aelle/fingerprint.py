"""The one policy of fingerprints: the whole spectrum, read at 32 relative positions, N beside it.

Position i of n points is the exponent of relative index i / (n − 1) among all N of a network, so
that equal positions mean equal things for networks of every size: from λ_1, the fastest growth, to
λ_N, what is forgotten first. Leading exponents do not: 32 of 16 are all, 32 of 512 the top.
`benchmarks.decisions.fingerprints` measured which predicts better.

Notation: ``exponents (..., k)`` are Lyapunov exponents in nats per step, descending along the last
axis. ``-inf`` is a legal exponent (a direction that the network forgets at once); NaN and ``+inf``
never are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Points of the common length: as many as the exponents of a small network. More would be read off
# between its exponents, fewer would blur the shape of the spectra of large ones.
FINGERPRINT_LENGTH = 32


def check_exponents(exponents: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return ``exponents`` as float64 of shape ``(k,)`` or ``(B, k)``, or say what is wrong.

    Raises:
        ValueError: The array is empty, not one- or two-dimensional, or holds NaN or ``+inf``.

    Example:
        >>> check_exponents([-0.1, -float("inf")])
        array([-0.1, -inf])
    """
    values = np.asarray(exponents, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(
            f"Expected exponents of shape (k,) or (B, k), got shape {values.shape}. "
            "Pass `LyapunovSpectrum.exponents` or `LyapunovSpectrum.mean`."
        )
    illegal = np.isnan(values) | np.isposinf(values)
    if illegal.any():
        raise ValueError(
            f"Expected exponents that are finite or -inf, got {int(illegal.sum())} NaN or +inf "
            f"among {values.size}. Leave this spectrum out rather than filling it in."
        )
    return values


def resample_exponents(
    exponents: npt.ArrayLike, length: int = FINGERPRINT_LENGTH
) -> npt.NDArray[np.float64]:
    """Stretch or shrink spectra to one common length by linear interpolation over the index.

    The first and the last exponent are kept. A point that would mix a finite value with ``-inf``
    takes the nearer of the two, so that no direction becomes half dead.

    Args:
        exponents: Shape ``(k,)`` or ``(B, k)``, descending.
        length: The number of points wanted.

    Returns:
        Shape ``(length,)`` or ``(B, length)``.

    Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876, section 3 (spectra of networks of several
    sizes are interpolated to one length).

    Example:
        >>> resample_exponents([0.0, -1.0, -2.0], length=5)
        array([ 0. , -0.5, -1. , -1.5, -2. ])
    """
    values = check_exponents(exponents)
    if length < 1:
        raise ValueError(f"length must be at least 1, but got {length}.")
    k = values.shape[-1]
    if k == length:
        return values.copy()
    position = np.linspace(0.0, k - 1.0, length)
    left = np.floor(position).astype(np.intp)
    right = np.minimum(left + 1, k - 1)
    weight = position - left
    low, high = values[..., left], values[..., right]
    nearest = values[..., np.rint(position).astype(np.intp)]
    with np.errstate(invalid="ignore"):
        mixed = (1.0 - weight) * low + weight * high
    return np.where(np.isfinite(low) & np.isfinite(high), mixed, nearest)
