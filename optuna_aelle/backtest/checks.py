"""What can be replayed and raced: anybody may have made a table, by hand or from a database."""

from __future__ import annotations

import math

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.payloads import MOST
from optuna_aelle.trials.table import RecordedTrials


def check_recorded(recorded: RecordedTrials) -> None:
    """Whether every trial can be trained again.

    Raises:
        ValueError: One has not ended, has ended without a finite value, counts its steps in
            another way, or took less than no time.
    """
    for trial in recorded.trials:
        wrong = _wrong_with(trial)
        if wrong is not None:
            raise ValueError(
                f"{wrong} (trial {trial.number} of {recorded.name!r}). Leave it out, as "
                "RecordedTrials.from_study does."
            )
    if (recorded.step_seconds < 0.0).any() or np.isinf(recorded.step_seconds).any():
        raise ValueError(
            f"Expected step_seconds of {recorded.name!r} to be finite and not negative, or NaN "
            "where they are not known."
        )


def _wrong_with(trial: FrozenTrial) -> str | None:
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return f"Expected trials that ran to their end or were pruned, got {trial.state.name}"
    if trial.state == TrialState.COMPLETE:
        values = trial.values or []
        if len(values) != 1 or not math.isfinite(values[0]):
            return f"Expected one finite value of each trial that ran to its end, got {values}"
    if {*trial.params} != {*trial.distributions}:
        return f"Expected a value of each of {sorted(trial.distributions)}, got {trial.params}"
    for name, value in trial.params.items():
        if not _is_value(trial.distributions[name], value):
            return f"Expected a value of {name!r} that its distribution can have, got {value!r}"
    for step in trial.intermediate_values:
        if not 0 <= step <= MOST:
            return f"Expected steps from 0 to 2**53, got {step}"
    return None


def _is_value(distribution: BaseDistribution, value: object) -> bool:
    """Whether it is of the right kind; Optuna lets pass what lies out of range."""
    try:
        return math.isfinite(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def check_whole(name: str, value: object, least: int) -> int:
    """An argument that counts something.

    Raises:
        ValueError: It is less than ``least``.
        TypeError: It is no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, but got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}.")
    return int(value)
