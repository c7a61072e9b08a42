"""How far is a prior to be believed in this study? What it said of untrained networks is checked.

A prior speaks of every network before it is trained; curves then show how those that started
rank. Of the weight β with which its word counts (1 as it was learned, 0 not at all, −1 reversed)
a posterior is kept over a few values. Networks that were all expected to be equally good tell
nothing; some that are started at random tell much (`optuna_aelle.decisions.sampler`).

Notation: m networks have started and reported.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_WEIGHTS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
# On recorded tasks priors that had not seen them were right; elsewhere nobody knows.
_BELIEF = np.array([0.02, 0.03, 0.1, 0.2, 0.65])
_LEAST = 3


def trust_in(
    expected: FloatArray, left: float, ranks: FloatArray, reliability: FloatArray
) -> float:
    """The mean of the posterior of β, from −1 to 1.

    Args:
        expected: ``(m,)`` standings that the prior expected of untrained networks.
        left: Mean variance of a standing that this leaves.
        ranks: ``(m,)`` where curves rank them now, as normal scores.
        reliability: ``(m,)`` correlations of these ranks with the final ones.
    """
    spread = float(expected.std()) if len(expected) else 0.0
    if len(expected) < _LEAST or spread < 1e-6:
        return float(_WEIGHTS @ _BELIEF)
    units = (expected - expected.mean()) / spread
    logarithms = np.log(_BELIEF)
    for i, weight in enumerate(_WEIGHTS):
        share = weight * spread / np.sqrt((weight * spread) ** 2 + left)
        slopes = reliability * share
        variances = np.maximum(1.0 - slopes**2, 0.05)
        errors = (ranks - slopes * units) ** 2 / variances
        logarithms[i] += -0.5 * float((errors + np.log(variances)).sum())
    posterior = np.exp(logarithms - logarithms.max())
    return float(_WEIGHTS @ (posterior / posterior.sum()))
