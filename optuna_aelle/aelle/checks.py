"""What an `AeLLERegressor` is given, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def differ_in_length(X: Any) -> bool:
    """Whether ``X`` holds spectra of different lengths."""
    if not isinstance(X, Sequence) or not all(hasattr(row, "__len__") for row in X):
        return False
    return len({len(row) for row in X}) > 1


def check_scores(scores: FloatArray) -> npt.NDArray[np.bool_]:
    """Return where a score is present."""
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
