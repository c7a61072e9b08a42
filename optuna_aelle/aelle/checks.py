"""What an `AeLLERegressor` is given, checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def check_parameters(regressor: Any) -> None:
    """Refuse parameters that are out of range.

    Example:
        >>> from optuna_aelle.aelle import AeLLERegressor
        >>> check_parameters(AeLLERegressor(latent_dim=0))
        Traceback (most recent call last):
        ValueError: latent_dim must be an integer of at least 1, but got 0.
    """
    least = {"latent_dim": 1, "n_members": 2, "hidden_dim": 1, "n_steps": 1}
    for name, minimum in least.items():
        value = getattr(regressor, name)
        if not isinstance(value, Integral) or value < minimum:
            raise ValueError(
                f"{name} must be an integer of at least {minimum}, but got {value!r}."
            )
    for name in ("learning_rate", "squash_scale"):
        value = getattr(regressor, name)
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive, but got {value!r}.")
    for name in ("weight_decay", "input_noise"):
        value = getattr(regressor, name)
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must not be negative, but got {value!r}.")
    if not -np.inf < regressor.floor < 0:
        raise ValueError(f"floor must be finite and negative, but got {regressor.floor!r}.")


def differ_in_length(X: Any) -> bool:
    """Whether ``X`` holds spectra of different lengths.

    Example:
        >>> differ_in_length([[0.0, -1.0], [-2.0]]), differ_in_length(np.zeros((2, 3)))
        (True, False)
    """
    if not isinstance(X, Sequence) or not all(hasattr(row, "__len__") for row in X):
        return False
    return len({len(row) for row in X}) > 1


def check_scores(scores: FloatArray) -> npt.NDArray[np.bool_]:
    """Return where a score is present.

    Example:
        >>> check_scores(np.array([0.5, np.nan]))
        array([ True, False])
    """
    if np.isinf(scores).any():
        raise ValueError(
            f"Expected scores that are finite or NaN, got {int(np.isinf(scores).sum())} infinite "
            f"among {scores.size}. Clip them, or pass NaN for a trial without a usable score."
        )
    scored = ~np.isnan(scores)
    if not scored.any():
        raise ValueError(
            f"Expected at least one finite score, got NaN for all {scores.size} spectra. "
            "Fit once a trial has finished."
        )
    return scored
