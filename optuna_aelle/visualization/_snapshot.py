"""A study as one line of JSON, and back: for storages that only one process can see."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import distribution_to_json
from optuna.distributions import json_to_distribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.storage import add_as_it_is
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_system_attribute

# Of attributes, those that figures read: ours, and whose attempt a trial repeats.
_PREFIXES = ("aelle:", "failed_trial", "retry_history", "study:metric_names")


def encode_snapshot(study: optuna.Study, noted: set[int]) -> Iterator[str]:
    """The line in pieces, of a trial each: others may run between two of them."""
    head = {
        "name": study.study_name,
        "directions": [direction.name.lower() for direction in study.directions],
        "attributes": _ours(study_system_attributes(study)),
        "noted": sorted(noted),
    }
    yield json.dumps(head, default=str)[:-1] + ', "trials": ['
    for position, trial in enumerate(every_trial(study)):
        yield (", " if position else "") + json.dumps(_encode(trial), default=str)
    yield "]}"


def decode_snapshot(payload: Mapping[str, Any]) -> tuple[optuna.Study, set[int]]:
    """A study in memory with the same trials, and the numbers of those that have a note."""
    study = optuna.create_study(
        study_name=payload["name"], directions=payload["directions"], storage=InMemoryStorage()
    )
    for key, value in payload["attributes"].items():
        write_study_system_attribute(study, key, value)
    for trial in payload["trials"]:
        add_as_it_is(study, _decode(trial))
    return study, set(payload["noted"])


def _encode(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "start": trial.datetime_start and trial.datetime_start.isoformat(),
        "complete": trial.datetime_complete and trial.datetime_complete.isoformat(),
        "params": {name: _plain(value) for name, value in trial.params.items()},
        "distributions": {
            name: _distribution(value) for name, value in trial.distributions.items()
        },
        "reports": list(trial.intermediate_values.items()),
        "user": _ours(trial.user_attrs),
        "system": _ours(trial.system_attrs),
    }


def _decode(payload: Mapping[str, Any]) -> FrozenTrial:
    start, complete = (
        datetime.datetime.fromisoformat(moment) if moment else None
        for moment in (payload["start"], payload["complete"])
    )
    return FrozenTrial(
        number=payload["number"],
        trial_id=payload["number"],
        state=TrialState[payload["state"]],
        value=None,
        values=payload["values"],
        datetime_start=start,
        datetime_complete=complete,
        params=payload["params"],
        distributions={
            name: json_to_distribution(text) for name, text in payload["distributions"].items()
        },
        user_attrs=payload["user"],
        system_attrs=payload["system"],
        intermediate_values={int(step): float(value) for step, value in payload["reports"]},
    )


def _distribution(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        distribution = CategoricalDistribution([_plain(c) for c in distribution.choices])
    return distribution_to_json(distribution)


def _plain(value: Any) -> Any:
    """A choice may be any object in memory; figures only name it."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _ours(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in attributes.items() if key.startswith(_PREFIXES)}
