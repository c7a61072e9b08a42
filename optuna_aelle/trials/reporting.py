"""From a network in training to its trial, in one call that never stops a study."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal
from weakref import WeakKeyDictionary

import optuna
from optuna.storages import BaseStorage

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.attributes import report_spectrum
from optuna_aelle.trials.continuation import is_inherited
from optuna_aelle.trials.storage import study_identity

if TYPE_CHECKING:
    from torch import nn

    from optuna_aelle.lyapunov import LyapunovSpectrum
    from optuna_aelle.lyapunov import StepModel
    from optuna_aelle.lyapunov.inputs import Inputs

_lock = threading.Lock()
_probe_shapes: WeakKeyDictionary[BaseStorage, dict[int, tuple[int, ...]]] = WeakKeyDictionary()


def report_network(
    trial: optuna.trial.BaseTrial,
    model: nn.Module | StepModel,
    inputs: Inputs,
    step: int,
    *,
    state: Literal["full", "hidden"] = "full",
    direction: Literal["forward", "backward"] | None = None,
) -> LyapunovSpectrum | None:
    """Compute the fingerprint of a network and write it on its trial.

    A network that no spectrum can be computed from (diverged weights, say) gets one warning for
    each cause, and the trial goes on without a spectrum.

    Args:
        trial: The running trial.
        model: As in `spectral_fingerprint`: a recurrent module, or a model that holds some.
        inputs: What ``model`` takes: sequences, or tokens for a model that embeds them. The same
            for all trials of a study.
        step: As in ``trial.report``; −1 for the untrained network.
        state: As in `spectral_fingerprint`.
        direction: Of a bidirectional network, which of its two systems.

    Returns:
        The spectrum, or None where there is none, or where a trial that goes on where it was
        stopped has it already.

    Raises:
        ValueError: ``step`` is no whole number from −1 on.

    Example:
        >>> report_network(trial, rnn, probe_inputs, step=-1)
    """
    from optuna_aelle.lyapunov import spectral_fingerprint

    if is_inherited(trial, step):
        return None
    _compare_probes(trial, inputs)
    try:
        spectrum = spectral_fingerprint(model, inputs, state=state, direction=direction)
    except Exception as error:  # an overnight study must go on, whatever is wrong here
        warn_once(
            "no spectrum",
            f"Trial {trial.number} has no spectrum at step {step}: {error}",
            error,
        )
        return None
    report_spectrum(trial, spectrum, step)
    return spectrum


def _compare_probes(trial: optuna.trial.BaseTrial, inputs: Any) -> None:
    """Warn where a study's probe inputs change their shape: spectra along other inputs differ."""
    shape = tuple(getattr(inputs, "shape", ()))
    if not shape or not isinstance(trial, optuna.Trial):
        return
    storage, study_id = study_identity(trial.study)
    with _lock:
        first = _probe_shapes.setdefault(storage, {}).setdefault(study_id, shape)
    if first != shape:
        warn_once(
            f"probe inputs changed:{trial.study.study_name}",
            f"The probe inputs of trial {trial.number} have shape {shape}, those before had "
            f"{first}: spectra along other inputs are hard to compare. Use the same probe inputs "
            "for all trials of a study.",
        )
