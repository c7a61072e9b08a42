"""Is all there that the workers did, once, and does each decision follow from what is stored?"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from benchmarks.scale.arms import Note
from optuna_aelle.decisions.halving import REDUCTION_FACTOR
from optuna_aelle.decisions.reservoir import EXPLORATION
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import decode_forecasts

_TOLERANCE = 1e-9


def audit(study: optuna.Study, notes: Sequence[Note], n_trials: int) -> dict[str, int]:
    """How often something is wrong, by kind; and how many decisions were looked at.

    Args:
        study: As its storage has it now.
        notes: What the workers know to have done, one a trial.
        n_trials: How many they were to run.
    """
    trials = study.get_trials(deepcopy=False)
    done = {note.number: note for note in notes}
    checked = [answer for trial in trials for answer in decisions(trial)]
    return {
        "lost": max(n_trials - len(trials), 0),
        "too_many": max(len(trials) - n_trials, 0),
        "run_twice": len(notes) - len(done),
        "unlike_what_was_done": sum(_differs(t, done.get(t.number)) for t in trials),
        "decisions": len(checked),
        "not_following": sum(not follows for follows in checked),
    }


def _differs(trial: FrozenTrial, note: Note | None) -> bool:
    known = (trial.state.name, trial.params, trial.intermediate_values)
    return note is None or known != (note.state, note.params, note.values)


def decisions(trial: FrozenTrial) -> list[bool]:
    """Of each decision of ours whether its rule says the same of the numbers stored with it.

    Here, where no trial can be taken up again: a forecast was asked for where halving would have
    stopped the trial, which goes on if it is expected further ahead than its rival. Halving alone
    stops what is not in the better half. That all these numbers come out again from the rest of
    the storage is what ``tests/storages`` shows.
    """
    verdict = decode_verdict(trial)
    found = []
    for step, forecast in decode_forecasts(trial).items():
        stopped = verdict is not None and verdict.by == AELLE and verdict.step == step
        if stopped and verdict is not None and verdict.rival is not None:
            bar = verdict.rival + EXPLORATION * (verdict.rival_std or 0.0)
            found.append(forecast.standing <= bar + _TOLERANCE)
        else:
            found.append(forecast.standing > forecast.bar - _TOLERANCE)
    if verdict is not None:
        at_the_end = verdict.step == trial.last_step and trial.state == TrialState.PRUNED
        found.append(at_the_end and trial.user_attrs.get("aelle:decision") == verdict.sentence())
        if verdict.by != AELLE and verdict.rank is not None and verdict.n_compared is not None:
            go_on = max(verdict.n_compared // REDUCTION_FACTOR, 1)
            found.append(verdict.rank > go_on and verdict.value == trial.value)
    return found


def is_clean(checked: Mapping[str, Any]) -> bool:
    """Whether an audit found nothing wrong."""
    return not any(count for kind, count in checked.items() if kind != "decisions")
