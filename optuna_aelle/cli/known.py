"""The engine against a spectrum that is known; a process of its own runs it in compiled code."""

from __future__ import annotations

import json

import numpy as np

from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import systems

# Three real eigenvalues far apart: tangent vectors have turned into place after the warm-up.
_MATRICES = (
    [[2.0, 1.0, 0.0], [0.0, 0.5, 0.3], [0.1, 0.0, 0.2]],
    [[1.3, -0.4, 0.0], [0.2, 0.9, 0.1], [0.0, 0.3, 0.5]],
)
_STEPS, _WARMUP = 260, 60


def error_of_known_spectrum() -> tuple[float, bool]:
    """How far the engine is from a spectrum that is known, and whether compiled code ran."""
    system = systems.periodic_linear(_MATRICES)
    spectrum = lyapunov_spectrum(
        system.model,
        system.inputs(_STEPS),
        initial_state=system.initial_state(),
        warmup=_WARMUP,
    )
    error = float(np.abs(spectrum.exponents[0] - system.exponents).max())
    return error, any(computation.compiled for computation in spectrum.computations)


if __name__ == "__main__":
    print(json.dumps(error_of_known_spectrum()))
