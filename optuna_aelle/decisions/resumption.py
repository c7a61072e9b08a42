"""What was stopped may go on: which stopped trial now promises most?

Stopping is final only where nothing is kept. Where trials are checkpointed, a stopped network is
one more candidate, of which more is known than of one that has not started: it goes on as soon as
it promises more than all of those.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.halving import is_between_rungs
from optuna_aelle.decisions.moments import is_halving_rung
from optuna_aelle.decisions.reservoir import index_of
from optuna_aelle.decisions.reservoir import make_reservoir
from optuna_aelle.decisions.reservoir import reservoir_of
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.continuation import inherited_step
from optuna_aelle.trials.continuation import is_trained_to_its_end
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.continuation import planned_epochs
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_system_attribute

_lock = threading.Lock()

_RESUMES_KEY = "aelle:resumes"


def resume_promising(study: Study, trial: FrozenTrial) -> None:
    """Enqueue the continuation of a stopped trial if it promises more than anything else.

    A callback for ``study.optimize``; `Checkpoints.resume_promising` is this one. The trials must
    be checkpointed (`Checkpoints.epochs`). Beside an `AeLLESampler` a stopped trial is compared
    with what the sampler would start next, else with those that have not been stopped. Each is
    continued once at a time, whoever asks. With several objectives nothing is resumed.
    """
    if len(study.directions) > 1:
        warn_once(
            "multi-objective resumption",
            "Nothing is resumed in a study with several objectives: what should_prune stops there "
            "stays stopped. Leave the callback out; Checkpoints.epochs alone lets "
            "trials that were killed go on.",
        )
        return
    try:
        if not study_system_attributes(study).get(_RESUMES_KEY):
            write_study_system_attribute(study, _RESUMES_KEY, True)
        # Threads of one process must not find the same one; other processes are told apart where
        # their continuations begin.
        with _lock:
            promising = _promising(study)
            if promising is not None:
                enqueue_continuation(study, promising)
    except Exception as error:  # an overnight study must go on, whatever is wrong here
        warn_once(
            "resumption failed",
            f"After trial {trial.number} nothing could be resumed ({type(error).__name__}: "
            f"{error}); the study goes on without.",
            error,
        )


def may_go_on(study: Study, trial: FrozenTrial) -> bool:
    """Whether a trial that is stopped now can be continued later."""
    return planned_epochs(trial) is not None and bool(
        study_system_attributes(study).get(_RESUMES_KEY)
    )


def is_asked(study: Study, trial: FrozenTrial, halved: bool) -> bool:
    """Whether this is a moment to compare a trial with what else could train.

    Where it may go on later, at every rung; where it is stopped for good, if halving would.
    """
    try:
        if not may_go_on(study, trial):
            return halved
    except Exception:  # a storage hiccup: as if it could not go on
        return halved
    return is_halving_rung(len(trial.intermediate_values)) and not is_trained_to_its_end(trial)


def is_no_moment(study: Study, trial: FrozenTrial) -> bool:
    """Whether nothing is to be decided now beside candidates, as far as no trial need be read."""
    try:
        if not is_between_rungs(study, trial):
            return False
        at_rung = is_halving_rung(len(trial.intermediate_values))
        return not (at_rung and study_system_attributes(study).get(_RESUMES_KEY))
    except Exception:  # a storage hiccup: the storage's other calls will tell
        return False


def resumable(trials: Sequence[FrozenTrial]) -> list[int]:
    """Positions of the stopped trials that can go on, among trials of one network each."""
    return [
        position
        for position, trial in enumerate(trials)
        if trial.state == TrialState.PRUNED
        and trial.last_step is not None
        and math.isfinite(trial.intermediate_values[trial.last_step])
        and decode_checkpoints(trial)
        # A pruner that stops it at once would do so again.
        and inherited_step(trial) != trial.last_step
        and not is_trained_to_its_end(trial)
    ]


def _promising(study: Study) -> FrozenTrial | None:
    """The stopped trial to go on with, if there is one."""
    waiting = every_trial(study, (TrialState.WAITING,))
    if any(origin_of(trial) is not None for trial in waiting):
        return None
    trials = started_trials(study)
    stopped = resumable(trials)
    if not stopped:
        return None
    reservoir = reservoir_of(study) or make_reservoir(study, Prior.pretrained())
    with reservoir.lock:
        field = reservoir.field(trials)
        has_candidates = bool(reservoir.candidates)
    index = index_of(field, trials)
    best = max(stopped, key=lambda position: index[position])
    if has_candidates:
        bar = float(np.max(index[len(trials) :]))
        return trials[best] if index[best] > bar else None
    # Nobody knows what would start instead: it must stand above all that have not been stopped.
    best = max(stopped, key=lambda position: field.mean[position])
    others = [i for i, t in enumerate(trials) if t.state != TrialState.PRUNED]
    bar = float(np.max(field.mean[others])) if others else math.inf
    return trials[best] if field.mean[best] > bar else None
