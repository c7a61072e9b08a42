"""What a trial of several objectives has reported so far, which ``trial.report`` does not take.

``aelle:values:{step}``, a system attribute, one key a step, version 1::

    {"version": 1, "values": [0.872, 41600.0], "trial": 7}

``values`` are those of all objectives after this step, in the order of ``study.directions``; null
stands for one that is not a finite number, since JSON has none of them. ``trial`` is the one that
reported them: a retried trial inherits the attributes of the failed one, but trains anew.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import AnyTrial
from optuna_aelle.trials.attributes import check_step
from optuna_aelle.trials.attributes import read_payloads
from optuna_aelle.trials.payloads import real
from optuna_aelle.trials.storage import write_system_attributes

VALUES_PREFIX = "aelle:values:"
VALUES_VERSION = 1


def encode_values(
    trial: FrozenTrial | optuna.Trial, values: Sequence[float], step: int
) -> dict[str, Any]:
    """Turn the values of all objectives after a step into the attribute of ``trial`` for them."""
    payload = {
        "version": VALUES_VERSION,
        "values": [float(value) if math.isfinite(value) else None for value in values],
        "trial": trial.number,
    }
    return {f"{VALUES_PREFIX}{check_step(step)}": payload}


def decode_values(trial: AnyTrial) -> dict[int, tuple[float, ...]]:
    """The values of all objectives that a trial has reported, by step, in order of step.

    They are there where the objective has called `optuna_aelle.should_prune`. What was not a
    finite number is NaN; what cannot be read is left out with one warning.

    Returns:
        Of each step one value an objective, in the order of ``study.directions``.

    Args:
        trial: Of a study with several objectives; of others nothing is found.

    Example:
        >>> decode_values(study.trials[0])
        {}
    """
    return read_payloads(trial, VALUES_PREFIX, VALUES_VERSION, read_values)


def read_values(payload: Mapping[str, Any]) -> tuple[float, ...]:
    """What an attribute holds.

    Raises:
        ValueError: It is damaged.
    """
    values = payload.get("values")
    if not isinstance(values, list | tuple):
        raise ValueError("its 'values' is no list")
    return tuple(math.nan if value is None else real(value, "values") for value in values)


def n_reports(trial: FrozenTrial) -> int:
    """After how many steps a trial has reported, whatever the number of its objectives."""
    return len(trial.intermediate_values) or len(decode_values(trial))


def report_values(study: Study, trial: optuna.Trial, values: Sequence[float], step: int) -> None:
    """Write the values of all objectives after a step on a live trial."""
    write_system_attributes(study, trial, encode_values(trial, values, step))


def signs_of(study: Study) -> list[float]:
    """Of each objective +1 where it is maximised, −1 where it is minimised."""
    return [1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions]


def of_objective(
    trial: FrozenTrial, values: Mapping[int, Sequence[float]], objective: int
) -> FrozenTrial:
    """The trial as it would be in a study with one of its objectives alone.

    Args:
        trial: With several objectives.
        values: As `decode_values` has them.
        objective: Its position in ``study.directions``.
    """
    view = copy.copy(trial)
    view.intermediate_values = {
        step: told[objective] for step, told in values.items() if objective < len(told)
    }
    ended = trial.state == TrialState.COMPLETE and trial.values is not None
    view.values = [trial.values[objective]] if ended else None
    return view
