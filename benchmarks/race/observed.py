"""What models of a race see: scores on one scale, and computing on one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

FloatArray = npt.NDArray[np.float64]

# Distances from the best beyond so many times the median's are all as bad: of losses some are
# many times the chance level.
_WORST = 3.0


def scaled(scores: FloatArray) -> FloatArray:
    """Scores, higher is better, such that the best is 1 and the median 0; none is below −2.

    What is not finite is as bad as can be.
    """
    known = scores[np.isfinite(scores)]
    if len(known) == 0:
        return np.zeros(len(scores))
    best = known.max()
    spread = best - np.median(known)
    if spread <= 0.0:
        spread = float(np.ptp(known)) or 1.0
    behind = np.where(np.isfinite(scores), (best - scores) / spread, _WORST)
    return np.asarray(1.0 - np.minimum(behind, _WORST))


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Matrices are small, and every thread's seconds are charged; leaves counts as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
