"""The only channel between trials and learners: spectra and predictions as trial attributes.

Schema, version 1. Attributes are JSON, so nothing here is a numpy type, an infinity or a NaN.

``aelle:spectrum:{step}``, one key a step; step −1 is the untrained network::

    {"version": 1, "exponents": [0.0312, -0.0475, ..., null], "k": 32, "trial": 7,
     "seconds": 0.041}

``exponents`` is the mean over the input sequences, in nats per step, resampled to
`FINGERPRINT_LENGTH` points, five significant digits; null stands for −inf, since JSON has no
infinity and no exponent is ever NaN. ``k`` is the number of exponents before resampling.
``trial`` is the number of the trial that wrote it: a retried trial inherits the attributes of the
failed one, and these are not its own. ``seconds`` is what the spectrum cost. The last two may be
missing.

``aelle:prediction:{step}``, written by the pruner where it predicted::

    {"version": 1, "mean": 0.87, "std": 0.04, "bar": 0.95, "chance": 0.02,
     "features": ["params", "spectrum"], "trial": 7}

with ``trial`` as above and ``chance`` that of reaching the bar; both may be missing.

``aelle:lambda_1``, ``aelle:predicted_final`` and ``aelle:prune_reason`` are scalars for people:
the last reported largest exponent, the last predicted final value, why the trial was pruned.
``aelle:fit_seconds`` is what fits and predictions have cost within this trial. Numbers inherited
from a failed attempt count for nothing until the retry has a spectrum or prediction of its own;
the reason of a retry says whose it is, ``"trial 7, step 3: SuccessiveHalvingPruner"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import check_exponents
from optuna_aelle.fingerprint import resample_exponents

SCHEMA_VERSION = 1
UNTRAINED_STEP = -1

LAMBDA_1_KEY = "aelle:lambda_1"
PREDICTED_FINAL_KEY = "aelle:predicted_final"
PRUNE_REASON_KEY = "aelle:prune_reason"
FIT_SECONDS_KEY = "aelle:fit_seconds"
SPECTRUM_PREFIX = "aelle:spectrum:"
_PREDICTION_PREFIX = "aelle:prediction:"

FloatArray = npt.NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Prediction:
    """What the pruner expected at one step: the final value, its uncertainty, and the bar.

    ``chance`` is that of reaching the bar, None where it was not recorded.
    """

    mean: float
    std: float
    bar: float
    features: tuple[str, ...]
    chance: float | None = None


def encode_spectrum(
    exponents: npt.ArrayLike, step: int, *, seconds: float | None = None
) -> dict[str, Any]:
    """Turn a spectrum into the attribute that holds it.

    Returns:
        One ``{key: payload}``, ready for ``create_trial(user_attrs=...)``.

    Args:
        exponents: ``(k,)`` or ``(B, k)``, nats per step; averaged over B.
        step: As in ``trial.report``; −1 for the untrained network.
        seconds: What the spectrum cost, if it should be charged.

    Raises:
        ValueError: NaN or +inf among the exponents, a wrong shape, or a step below −1.
    """
    values = check_exponents(exponents)
    mean = values if values.ndim == 1 else values.mean(axis=0)
    points = resample_exponents(mean, FINGERPRINT_LENGTH)
    payload: dict[str, Any] = {
        "version": SCHEMA_VERSION,
        "exponents": [float(f"{x:.5g}") if math.isfinite(x) else None for x in points],
        "k": int(values.shape[-1]),
    }
    if seconds is not None and math.isfinite(seconds):
        payload["seconds"] = round(float(seconds), 6)
    return {f"{SPECTRUM_PREFIX}{_check_step(step)}": payload}


def decode_spectra(trial: FrozenTrial | optuna.Trial) -> dict[int, FloatArray]:
    """The spectra of a trial by step: ``{step: (FINGERPRINT_LENGTH,)}``, in order of step.

    What cannot be read (written by a newer version, damaged, or inherited from a failed attempt)
    is left out; the first two with one warning.
    """
    return {step: _exponents(payload) for step, payload in _own_payloads(trial)}


def spectrum_payloads(trial: FrozenTrial | optuna.Trial) -> dict[int, Mapping[str, Any]]:
    """The stored form of `decode_spectra`, by step."""
    return dict(_own_payloads(trial))


def spectrum_seconds(trial: FrozenTrial | optuna.Trial) -> float:
    """What the spectra of a trial have cost, in seconds."""
    return sum(float(payload.get("seconds") or 0.0) for _, payload in _own_payloads(trial))


def report_spectrum(trial: optuna.Trial, spectrum: Any, step: int) -> None:
    """Write a spectrum on a live trial. Call it before ``trial.report`` and ``should_prune``.

    A second spectrum for the same step is ignored with a warning, as ``trial.report`` does. A
    spectrum with NaN is left out with a warning: the trial goes on without it.

    Args:
        trial: The running trial.
        spectrum: A `LyapunovSpectrum`, or exponents ``(k,)`` or ``(B, k)`` in nats per step.
        step: As in ``trial.report``; −1 for the untrained network.
    """
    _check_step(step)
    exponents = getattr(spectrum, "exponents", spectrum)
    try:
        attribute = encode_spectrum(exponents, step, seconds=getattr(spectrum, "seconds", None))
    except ValueError as error:
        warn_once(
            "unusable spectrum",
            f"A spectrum of trial {trial.number} at step {step} is left out: {error}",
        )
        return
    if step in dict(_own_payloads(trial)):
        warn_once(
            f"reported twice:{getattr(getattr(trial, 'study', None), 'study_name', '')}",
            f"Trial {trial.number} already has a spectrum for step {step}; the new one is "
            "ignored. Report each step once.",
        )
        return
    for key, payload in attribute.items():
        trial.set_user_attr(key, {**payload, "trial": trial.number})
        lambda_1 = payload["exponents"][0]
        if lambda_1 is not None:
            trial.set_user_attr(LAMBDA_1_KEY, lambda_1)


def encode_prediction(
    prediction: Prediction, step: int, *, trial: int | None = None
) -> dict[str, Any]:
    """Turn what the pruner expected at ``step`` into the attribute that holds it.

    ``trial`` is the number of the trial: a retry would inherit the prediction, and knows by it.
    """
    payload: dict[str, Any] = {
        "version": SCHEMA_VERSION,
        "mean": float(prediction.mean),
        "std": float(prediction.std),
        "bar": float(prediction.bar),
        "features": list(prediction.features),
    }
    if prediction.chance is not None:
        payload["chance"] = round(float(prediction.chance), 6)
    if trial is not None:
        payload["trial"] = trial
    return {f"{_PREDICTION_PREFIX}{_check_step(step)}": payload}


def decode_predictions(trial: FrozenTrial | optuna.Trial) -> dict[int, Prediction]:
    """What the pruner expected of a trial, by step; not what a failed attempt left to it."""

    def read(payload: Mapping[str, Any]) -> tuple[Any, Prediction]:
        numbers = (float(payload["mean"]), float(payload["std"]), float(payload["bar"]))
        chance = payload.get("chance")
        return payload.get("trial"), Prediction(
            *numbers,
            features=tuple(payload["features"]),
            chance=None if chance is None else float(chance),
        )

    inherited = _failed_attempts(trial)
    found = _read_all(trial.user_attrs, _PREDICTION_PREFIX, read)
    return {step: prediction for step, (writer, prediction) in found if writer not in inherited}


def fit_seconds(trial: FrozenTrial) -> float:
    """What fits and predictions have cost within a trial, in seconds."""
    if _failed_attempts(trial) and not decode_predictions(trial):
        return 0.0
    return float(trial.user_attrs.get(FIT_SECONDS_KEY) or 0.0)


def encode_reason(trial: FrozenTrial, reason: str) -> dict[str, Any]:
    """Turn why ``trial`` is pruned into the attribute that holds it."""
    return {PRUNE_REASON_KEY: f"{_signature(trial)}{reason}"}


def decode_reason(trial: FrozenTrial) -> str | None:
    """Why a trial was pruned; None where it was not, or where only a failed attempt was."""
    reason = trial.user_attrs.get(PRUNE_REASON_KEY)
    if not isinstance(reason, str):
        return None
    signature = _signature(trial)
    # Versions before this one did not sign; a retry that has been pruned has its own reason.
    if reason.startswith(signature) or trial.state == TrialState.PRUNED:
        return reason.removeprefix(signature)
    return None


def _signature(trial: FrozenTrial) -> str:
    """What only a retry puts before its reason, which it might have inherited otherwise."""
    return f"trial {trial.number}, " if _failed_attempts(trial) else ""


def _own_payloads(trial: FrozenTrial | optuna.Trial) -> list[tuple[int, Mapping[str, Any]]]:
    inherited = _failed_attempts(trial)

    def read(payload: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(payload["exponents"]) != FINGERPRINT_LENGTH:
            raise ValueError(f"{len(payload['exponents'])} exponents")
        _exponents(payload)
        return payload

    payloads = _read_all(trial.user_attrs, SPECTRUM_PREFIX, read)
    return [(step, payload) for step, payload in payloads if payload.get("trial") not in inherited]


def _exponents(payload: Mapping[str, Any]) -> FloatArray:
    return check_exponents([-math.inf if x is None else float(x) for x in payload["exponents"]])


def _failed_attempts(trial: FrozenTrial | optuna.Trial) -> set[int]:
    """Numbers of the trials that this one retries (`optuna.storages.RetryFailedTrialCallback`)."""
    # A live Trial of Optuna 5 has no system_attrs of its own: ask the storage.
    if isinstance(trial, FrozenTrial):
        system = trial.system_attrs
    elif isinstance(trial, optuna.Trial):
        system = trial.study._storage.get_trial(trial._trial_id).system_attrs
    else:  # an `optuna.trial.FixedTrial`, which belongs to no study
        return set()
    first = [system["failed_trial"]] if "failed_trial" in system else []
    return {*first, *system.get("retry_history", [])}


def _read_all(
    attributes: Mapping[str, Any], prefix: str, read: Callable[[Mapping[str, Any]], _T]
) -> list[tuple[int, _T]]:
    found = []
    for key, payload in attributes.items():
        if not key.startswith(prefix):
            continue
        try:
            step = int(key[len(prefix) :])
            if payload["version"] > SCHEMA_VERSION:
                warn_once(
                    "newer schema",
                    f"'{key}' has schema version {payload['version']}, but this optuna-aelle "
                    f"reads up to {SCHEMA_VERSION}; it is left out. Upgrade optuna-aelle.",
                )
                continue
            found.append((step, read(payload)))
        except (KeyError, TypeError, ValueError) as error:
            warn_once(
                "unreadable attribute",
                f"'{key}' cannot be read ({type(error).__name__}: {error}); it is left out.",
            )
    return sorted(found, key=lambda pair: pair[0])


def _check_step(step: int) -> int:
    if isinstance(step, bool) or int(step) != step or step < UNTRAINED_STEP:
        raise ValueError(
            f"step must be an integer of at least {UNTRAINED_STEP} (the untrained network), but "
            f"got {step!r}."
        )
    return int(step)
