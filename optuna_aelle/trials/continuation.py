"""Trials that go on where another one was stopped: two records in a study, one network.

``aelle:continues``, a system attribute of the trial that goes on, version 1::

    {"version": 1, "trial": 5, "step": 3, "given_up": false}

``trial`` is the one that was stopped, its *origin*, ``step`` the last that it reported. The
continuation has its parameters, curve and spectra from the start. ``given_up`` is set where two
workers continued the same trial: the one with the lowest number goes on. ``aelle:continues`` in
the user attributes says it to people.

``aelle:checkpoints``, a system attribute of each trial whose network is saved, version 1::

    {"version": 1, "n_epochs": 27, "saved": [{"epoch": 3, "reports": 4, "artifact": "..."}, ...]}

``n_epochs`` is the length of a whole training; ``saved`` holds the latest two, the latest first,
and how many values had been reported by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import BaseTrial
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.attributes import warn_of_attribute
from optuna_aelle.trials.payloads import check_version
from optuna_aelle.trials.payloads import text
from optuna_aelle.trials.payloads import whole
from optuna_aelle.trials.storage import add_as_it_is
from optuna_aelle.trials.storage import known_here
from optuna_aelle.trials.storage import with_attribute

CONTINUES_KEY = "aelle:continues"
CHECKPOINTS_KEY = "aelle:checkpoints"
CONTINUATION_VERSION = 1
# So that successive halving knows at which rungs the origin was compared.
_RUNG_PREFIX = "completed_rung_"
_SAVED = {"epoch", "reports", "artifact"}
_ARTIFACT = re.compile(r"[^/\\\0]{0,180}-trial-[0-9]+-epoch-[0-9]+-[0-9a-f]{8}\.pt")


@dataclass(frozen=True)
class Saved:
    """One checkpoint.

    Attributes:
        epoch: The last one that the network was trained in, counted from 0.
        reports: How many values had been reported by then.
        artifact: Its name in the artifact store.
    """

    epoch: int
    reports: int
    artifact: str


def encode_checkpoints(n_epochs: int, saved: Sequence[Saved]) -> dict[str, Any]:
    """Turn the checkpoints of a trial, the latest first, into the attribute that holds them."""
    payload = {
        "version": CONTINUATION_VERSION,
        "n_epochs": n_epochs,
        "saved": [asdict(checkpoint) for checkpoint in saved],
    }
    return {CHECKPOINTS_KEY: payload}


def decode_checkpoints(trial: FrozenTrial) -> list[Saved]:
    """Those of a trial, the latest first; none where they cannot be read."""
    payload = _payload(trial, CHECKPOINTS_KEY, check_checkpoints)
    return [Saved(**checkpoint) for checkpoint in payload.get("saved", [])]


def check_checkpoints(payload: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: The attribute that lists a trial's checkpoints is damaged.
    """
    whole(payload, "n_epochs", least=1)
    saved = payload.get("saved")
    if not isinstance(saved, list):
        raise ValueError("its 'saved' is no list")
    for checkpoint in saved:
        if not isinstance(checkpoint, Mapping) or set(checkpoint) != _SAVED:
            raise ValueError(f"its 'saved' holds something without {', '.join(sorted(_SAVED))}")
        whole(checkpoint, "epoch")
        whole(checkpoint, "reports")
        # A name within the store, and no way out of it.
        if not _ARTIFACT.fullmatch(text(checkpoint, "artifact")):
            raise ValueError("its 'artifact' is no name of a checkpoint")


def check_continues(payload: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: The attribute that says what a trial continues is damaged.
    """
    whole(payload, "trial")
    if payload.get("step") is not None:
        whole(payload, "step")


def planned_epochs(trial: FrozenTrial) -> int | None:
    """Epochs of a whole training, of a trial whose network is saved; else None."""
    return _payload(trial, CHECKPOINTS_KEY, check_checkpoints).get("n_epochs")


def is_trained_to_its_end(trial: FrozenTrial) -> bool:
    """Whether a trial whose network is saved has reported after each epoch of a whole training."""
    n_epochs = planned_epochs(trial)
    return n_epochs is not None and len(trial.intermediate_values) >= n_epochs


def origin_of(trial: FrozenTrial) -> int | None:
    """The number of the trial that this one continues; None for one that starts anew."""
    return _payload(trial, CONTINUES_KEY, check_continues).get("trial")


def is_given_up(trial: FrozenTrial) -> bool:
    """Whether another worker's continuation of the same trial goes on instead of this one."""
    return bool(_payload(trial, CONTINUES_KEY, check_continues).get("given_up"))


def encode_given_up(trial: FrozenTrial) -> dict[str, Any]:
    """Turn a continuation into one that another worker's goes on in place of."""
    return {CONTINUES_KEY: {**_payload(trial, CONTINUES_KEY, check_continues), "given_up": True}}


def continuations(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Number of each trial that was continued to that of its continuation, the lowest."""
    found: dict[int, int] = {}
    for trial in trials:
        origin = origin_of(trial)
        # Only onwards: what was damaged by hand must not lead round in circles.
        if origin is not None and origin < trial.number and not is_given_up(trial):
            found[origin] = min(trial.number, found.get(origin, trial.number))
    return found


def furthest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Number of each trial to the one in which its network was trained furthest."""
    by_number = {trial.number: trial for trial in trials}
    further = {a: b for a, b in continuations(trials).items() if b in by_number}
    found = {}
    for number in by_number:
        last = number
        while last in further:
            last = further[last]
        found[number] = by_number[last]
    return found


def one_a_network(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those whose network another one of them has trained further."""
    # Of thousands of trials few go on: only those are read.
    resumed = with_attribute(trials, CONTINUES_KEY)
    if not resumed:
        return [*trials]
    left_out = {*continuations(resumed), *(t.number for t in resumed if is_given_up(t))}
    return [t for t in trials if t.number not in left_out]


def inherited_step(trial: FrozenTrial) -> int | None:
    """The last step that a continuation has from its origin; None for one that starts anew."""
    return _payload(trial, CONTINUES_KEY, check_continues).get("step")


def is_inherited(trial: FrozenTrial | BaseTrial, step: int) -> bool:
    """Whether a continuation has a step from its origin: before it, nothing is to be reported."""
    stored = known_here(trial)
    until = None if stored is None else inherited_step(stored)
    return until is not None and step <= until


def enqueue_continuation(study: Study, trial: FrozenTrial) -> None:
    """Let the next worker that asks for a trial go on with a stopped one."""
    rungs = {k: x for k, x in trial.system_attrs.items() if k.startswith(_RUNG_PREFIX)}
    spectra = {f"{SPECTRUM_PREFIX}{step}": x for step, x in spectrum_payloads(trial).items()}
    saved = {k: x for k, x in trial.system_attrs.items() if k == CHECKPOINTS_KEY}
    continuation = create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        system_attrs={
            "fixed_params": trial.params,
            CONTINUES_KEY: {
                "version": CONTINUATION_VERSION,
                "trial": trial.number,
                "step": trial.last_step,
                "given_up": False,
            },
            **rungs,
            **spectra,
            **saved,
        },
        user_attrs={CONTINUES_KEY: f"trial {trial.number}, from step {trial.last_step}"},
    )
    add_as_it_is(study, continuation)


def _payload(
    trial: FrozenTrial, key: str, check: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any]:
    """What an attribute holds; nothing where it is not there or cannot be read."""
    if trial.system_attrs.get(key) is None:
        return {}
    try:
        payload = check_version(trial.system_attrs[key], CONTINUATION_VERSION)
        check(payload)
    except ValueError as error:
        warn_of_attribute(key, error)
        return {}
    return payload
