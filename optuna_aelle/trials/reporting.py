"""From a network in training to its trial, in one call that never stops a study."""

from __future__ import annotations

from typing import Literal

import optuna
from torch import Tensor
from torch import nn

from optuna_aelle._warnings import warn_once
from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import StepModel
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.trials.attributes import report_spectrum


def report_network(
    trial: optuna.Trial,
    model: nn.Module | StepModel,
    inputs: Tensor,
    step: int,
    *,
    state: Literal["full", "hidden"] = "full",
) -> LyapunovSpectrum | None:
    """Compute the fingerprint of a network and write it on its trial.

    A network that no spectrum can be computed from (diverged weights, say) gets one warning, and
    the trial goes on without a spectrum.

    Args:
        trial: The running trial.
        model: As in `spectral_fingerprint`.
        inputs: As in `spectral_fingerprint`; the same for all trials of a study.
        step: As in ``trial.report``; −1 for the untrained network.
        state: As in `spectral_fingerprint`.

    Returns:
        The spectrum, or None where there is none.
    """
    try:
        spectrum = spectral_fingerprint(model, inputs, state=state)
    except Exception as error:  # an overnight study must go on, whatever is wrong here
        warn_once(
            f"no spectrum:{type(error).__name__}",
            f"Trial {trial.number} has no spectrum at step {step}: {error}",
        )
        return None
    report_spectrum(trial, spectrum, step)
    return spectrum
