"""The only channel between trials and learners: the attributes of a trial.

What programs read lies in the trial's *system* attributes, which neither the dashboard nor a data
frame shows; what people read, in its user attributes. Attributes are JSON, so nothing here is a
numpy type, an infinity or a NaN.

``aelle:spectrum:{step}``, one key a step, version 2; step −1 is the untrained network::

    {"version": 2, "exponents": [0.0312, -0.0475, ..., null], "n": 128, "trial": 7,
     "after": [3, 0.872], "seconds": 0.041}

``exponents`` is the *whole* spectrum, the mean over the input sequences in nats per step, brought
to `FINGERPRINT_LENGTH` points (`optuna_aelle.fingerprint`), five significant digits; null stands
for −inf, since JSON has no infinity and no exponent is ever NaN. ``n`` is how many exponents there
were: the size N of the state. ``trial`` is the number of the trial that wrote it and ``after`` its
latest report at that time, ``null`` before the first: a retried trial inherits the attributes of
the failed one, and they are its own only as far as it has inherited the curve, too. ``seconds`` is
what the spectrum cost. The last three may be missing. Version 1 held leading exponents for large
networks and whole spectra for small ones, which cannot be compared: it is not read.

``aelle:forecast:{step}`` and ``aelle:verdict`` are described in `optuna_aelle.prediction.forecast`
and `optuna_aelle.decisions.verdict`; ``aelle:fit_seconds`` is what fits and predictions have cost
within this trial.

For people, in the user attributes: ``aelle:decision``, why the trial was stopped;
``aelle:lambda_1``, the last reported largest exponent; ``aelle:predicted_final``, the last
predicted final value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeGuard
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import check_exponents
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.trials.payloads import NewerSchema
from optuna_aelle.trials.payloads import check_version
from optuna_aelle.trials.payloads import optional
from optuna_aelle.trials.payloads import real
from optuna_aelle.trials.payloads import step_of
from optuna_aelle.trials.payloads import whole
from optuna_aelle.trials.storage import known_here
from optuna_aelle.trials.storage import latest
from optuna_aelle.trials.storage import write_system_attributes

SPECTRUM_VERSION = 2
UNTRAINED_STEP = -1

LAMBDA_1_KEY = "aelle:lambda_1"
PREDICTED_FINAL_KEY = "aelle:predicted_final"
FIT_SECONDS_KEY = "aelle:fit_seconds"
SPECTRUM_PREFIX = "aelle:spectrum:"

AnyTrial = FrozenTrial | optuna.trial.BaseTrial
FloatArray = npt.NDArray[np.float64]
_T = TypeVar("_T")


def encode_spectrum(
    exponents: npt.ArrayLike,
    step: int,
    *,
    state_size: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Turn a whole spectrum into the attribute that holds it.

    Returns:
        One ``{key: payload}``, ready for ``create_trial(system_attrs=...)``; user attributes are
        read as well.

    Args:
        exponents: ``(N,)`` or ``(B, N)``, nats per step, descending; averaged over B.
        step: As in ``trial.report``; −1 for the untrained network.
        state_size: N, where it is known: some leading exponents are refused.
        seconds: What the spectrum cost, if it should be charged.

    Raises:
        ValueError: NaN or +inf among the exponents, a wrong shape, another number of exponents
            than ``state_size``, or a step below −1.

    Example:
        >>> encode_spectrum([0.01, -0.2, -0.9], step=-1)["aelle:spectrum:-1"]["n"]
        3
    """
    values = check_exponents(exponents)
    mean = values if values.ndim == 1 else values.mean(axis=0)
    k = int(values.shape[-1])
    if state_size is not None and state_size != k:
        raise ValueError(
            f"Expected the whole spectrum, all {state_size} exponents of the network, got {k}: "
            "leading exponents of networks of unequal sizes cannot be compared. Use "
            "spectral_fingerprint, or lyapunov_spectrum with k=None."
        )
    points = resample_exponents(mean, FINGERPRINT_LENGTH)
    return encode_fingerprint(points, step, state_size=k, seconds=seconds)


def encode_fingerprint(
    points: FloatArray, step: int, *, state_size: int, seconds: float | None
) -> dict[str, Any]:
    """As `encode_spectrum`, of ``points (FINGERPRINT_LENGTH,)`` made of N exponents."""
    payload: dict[str, Any] = {
        "version": SPECTRUM_VERSION,
        "exponents": [float(f"{x:.5g}") if math.isfinite(x) else None for x in points],
        "n": int(state_size),
    }
    if seconds is not None and math.isfinite(seconds):
        payload["seconds"] = round(float(seconds), 6)
    return {f"{SPECTRUM_PREFIX}{check_step(step)}": payload}


def decode_spectra(trial: AnyTrial) -> dict[int, FloatArray]:
    """The spectra of a trial by step: ``{step: (FINGERPRINT_LENGTH,)}``, in order of step.

    What cannot be read (written by a newer version, damaged, or inherited from a failed attempt
    without its curve) is left out; the first two with one warning.

    Example:
        >>> decode_spectra(study.best_trial)[-1].shape
        (32,)
    """
    return {step: _exponents(payload) for step, payload in spectrum_payloads(trial).items()}


def spectrum_payloads(trial: AnyTrial) -> dict[int, Mapping[str, Any]]:
    """The stored form of `decode_spectra`, by step."""

    return read_payloads(trial, SPECTRUM_PREFIX, SPECTRUM_VERSION, check_spectrum)


def check_spectrum(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The payload of a spectrum as it is, once it can be read.

    Raises:
        ValueError: It is damaged, or of a version that held something else.
    """
    if payload["version"] < SPECTRUM_VERSION:
        raise ValueError(f"version {payload['version']} held unlike parts of spectra")
    exponents = payload.get("exponents")
    if not isinstance(exponents, list | tuple) or len(exponents) != FINGERPRINT_LENGTH:
        raise ValueError(f"its 'exponents' is no list of {FINGERPRINT_LENGTH} numbers")
    for exponent in exponents:
        if exponent is not None:
            real(exponent, "exponents")
    whole(payload, "n", least=1)
    optional(payload, "seconds")
    return payload


def spectrum_seconds(trial: AnyTrial) -> float:
    """What the spectra of a trial have cost, in seconds; not those that it has from its origin."""
    return sum(
        max(payload.get("seconds") or 0.0, 0.0)
        for payload in spectrum_payloads(trial).values()
        if payload.get("trial", trial.number) == trial.number
    )


def report_spectrum(trial: optuna.trial.BaseTrial, spectrum: Any, step: int) -> None:
    """Write a spectrum on a live trial. Call it before ``trial.report`` and ``should_prune``.

    A second spectrum for the same step is ignored with a warning, as ``trial.report`` does. A
    spectrum with NaN, or one that the storage does not take, is left out with a warning: the trial
    goes on without it. Report through one object of a trial: like ``trial.report`` this one knows
    nothing of what another object has reported since.

    Args:
        trial: The running trial.
        spectrum: A `LyapunovSpectrum`, or exponents ``(N,)`` or ``(B, N)`` in nats per step: the
            whole spectrum.
        step: As in ``trial.report``; −1 for the untrained network.

    Raises:
        ValueError: ``step`` is no whole number from −1 on.

    Example:
        >>> report_spectrum(trial, lyapunov_spectrum(rnn, x), step=epoch)
    """
    check_step(step)
    try:
        attribute = encode_spectrum(
            getattr(spectrum, "exponents", spectrum),
            step,
            state_size=getattr(spectrum, "state_size", None),
            seconds=getattr(spectrum, "seconds", None),
        )
    except (RuntimeError, TypeError, ValueError) as error:
        warn_once(
            "unusable spectrum",
            f"A spectrum of trial {trial.number} at step {step} is left out: {error}",
            error,
        )
        return
    ((key, payload),) = attribute.items()
    try:
        _store_spectrum(trial, key, payload, step)
    except Exception as error:  # a storage hiccup must not end an overnight training
        warn_once(
            "spectrum not stored",
            f"The spectrum of trial {trial.number} at step {step} could not be stored "
            f"({type(error).__name__}: {error}); the trial goes on without it.",
            error,
        )


def _store_spectrum(
    trial: optuna.trial.BaseTrial, key: str, payload: dict[str, Any], step: int
) -> None:
    # On a database server, asking for it would take as long as writing does.
    stored = known_here(trial)
    known = spectrum_payloads(trial if stored is None else stored).get(step)
    if known is not None:
        if known.get("trial", trial.number) != trial.number:
            # One that goes on where another trial was stopped has that one's spectra.
            return
        warn_once(
            f"reported twice:{getattr(getattr(trial, 'study', None), 'study_name', '')}",
            f"Trial {trial.number} already has a spectrum for step {step}; the new one is "
            "ignored. Report each step once.",
        )
        return
    payload |= {"trial": trial.number, "after": None if stored is None else _last_report(stored)}
    if isinstance(trial, optuna.Trial):
        write_system_attributes(trial.study, trial, {key: payload})
    else:
        # An `optuna.trial.FixedTrial` has nothing else.
        trial.set_user_attr(key, payload)
    if payload["exponents"][0] is not None:
        trial.set_user_attr(LAMBDA_1_KEY, payload["exponents"][0])


def fit_seconds(trial: FrozenTrial) -> float:
    """What fits and predictions have cost within a trial, in seconds."""
    payload = trial.system_attrs.get(FIT_SECONDS_KEY)
    if not isinstance(payload, Mapping) or payload.get("trial") in failed_attempts(trial):
        return 0.0
    try:
        return read_fit_seconds(payload)
    except ValueError:  # what it cost is not known any more
        return 0.0


def read_fit_seconds(payload: Any) -> float:
    """What the attribute holds.

    Raises:
        ValueError: It is damaged.
    """
    if not isinstance(payload, Mapping):
        raise ValueError("it is no object")
    return max(real(payload.get("seconds"), "seconds"), 0.0)


def encode_fit_seconds(trial: FrozenTrial, seconds: float) -> dict[str, Any]:
    """Turn what fits have cost into the attribute that holds it."""
    return {FIT_SECONDS_KEY: {"seconds": round(seconds, 6), "trial": trial.number}}


def failed_attempts(trial: AnyTrial) -> list[int]:
    """Numbers of the trials that this one retries (`optuna.storages.RetryFailedTrialCallback`)."""
    stored = latest(trial)
    if stored is None or "failed_trial" not in stored.system_attrs:
        return []
    history = stored.system_attrs.get("retry_history")
    attempts = [stored.system_attrs["failed_trial"], *(history if _is_list(history) else [])]
    return sorted({number for number in attempts if isinstance(number, int)})


def read_payloads(
    trial: AnyTrial,
    prefix: str,
    version: int,
    read: Callable[[Mapping[str, Any]], _T],
) -> dict[int, _T]:
    """What the attributes ``{prefix}{step}`` of a trial hold, by step, in order of step.

    Left out are those that only a failed attempt had, and, with one warning, those that cannot be
    read.
    """
    stored = latest(trial)
    # The attributes of a live trial lie in the storage; a FixedTrial has user attributes alone.
    holder = trial if stored is None else stored
    attributes: dict[str, Any] = dict(holder.user_attrs)
    if stored is not None:
        attributes |= stored.system_attrs
    inherited = [] if stored is None else failed_attempts(stored)
    payloads = {key: x for key, x in attributes.items() if key.startswith(prefix)}
    keeps_curve = any(_shares_report(stored, payload) for payload in payloads.values())
    found: dict[int, _T] = {}
    for key, payload in payloads.items():
        try:
            step = step_of(key, prefix)
            check_version(payload, version)
            if payload.get("trial") in inherited:
                # Before the first report there was none to compare: with a later one that is
                # shared, the curve is, and the network that it began with.
                first = keeps_curve and payload.get("after", 0) is None
                if not first and not _shares_report(stored, payload):
                    continue
            found[step] = read(payload)
        except ValueError as error:
            warn_of_attribute(key, error, prefix)
    return dict(sorted(found.items()))


def warn_of_attribute(key: str, error: ValueError, kind: str | None = None) -> None:
    """Say once for each kind of attribute that one of them is left out, and why."""
    if isinstance(error, NewerSchema):
        warn_once("newer schema", f"'{key}' is left out: {error}. Upgrade optuna-aelle.")
        return
    warn_once(
        f"unreadable attribute:{kind or key}",
        f"'{key}' cannot be read: {error}. It is left out.",
    )


def check_step(step: int) -> int:
    """The step as an int, or an error that says what a step is."""
    whole = isinstance(step, int | float | np.number) and not isinstance(step, bool)
    if not whole or int(step) != step or step < UNTRAINED_STEP:
        raise ValueError(
            f"step must be an integer of at least {UNTRAINED_STEP} (the untrained network), but "
            f"got {step!r}."
        )
    return int(step)


def _exponents(payload: Mapping[str, Any]) -> FloatArray:
    return np.array([-math.inf if x is None else x for x in payload["exponents"]], np.float64)


def _last_report(trial: FrozenTrial) -> list[Any] | None:
    """``[step, value]`` of the latest report, a value that is not finite as None."""
    if trial.last_step is None:
        return None
    value = trial.intermediate_values[trial.last_step]
    return [trial.last_step, value if math.isfinite(value) else None]


def _shares_report(trial: FrozenTrial | None, payload: Any) -> bool:
    """Whether a trial has the report, too, that a payload was written after."""
    after = payload.get("after") if isinstance(payload, Mapping) else None
    if trial is None or not _is_list(after) or len(after) != 2:
        return False
    step, value = after
    own = trial.intermediate_values.get(step) if isinstance(step, int) else None
    if own is None:
        return False
    if value is None or not math.isfinite(own):
        return value is None and not math.isfinite(own)
    try:
        return math.isclose(own, real(value, "after"), rel_tol=1e-9)
    except ValueError:
        return False


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)
