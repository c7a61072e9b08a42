"""Is all there that the workers did, once, and does each decision follow from what is stored?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.moments import REDUCTION_FACTOR
from optuna_aelle.decisions.reservoir import EXPLORATION
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import decode_forecasts

_TOLERANCE = 1e-9


def audit(
    study: optuna.Study,
    notes: Mapping[int, tuple[str, Mapping[int, float]]],
    n_notes: int,
    n_trials: int,
) -> dict[str, int]:
    """How often something is wrong, by kind; and how many decisions were looked at.

    Args:
        study: As its storage has it now.
        notes: What the workers say of each trial by number: its state, and what it reported.
        n_notes: How many trials they say to have run.
        n_trials: How many they were to run.
    """
    trials = study.get_trials(deepcopy=False)
    numbers = [trial.number for trial in trials]
    wrong = [_differs(trial, notes.get(trial.number)) for trial in trials]
    checked = [answer for trial in trials for answer in decisions(trial)]
    return {
        "lost": n_trials - len(set(numbers)),
        "doubled": len(numbers) - len(set(numbers)),
        "run_twice": n_notes - len(notes),
        "unfinished": sum(not trial.state.is_finished() for trial in trials),
        "unlike_what_was_done": sum(wrong),
        "decisions": len(checked),
        "not_reproduced": sum(not follows for follows in checked),
    }


def _differs(trial: FrozenTrial, note: tuple[str, Mapping[int, float]] | None) -> bool:
    return note is None or (trial.state.name, trial.intermediate_values) != (note[0], note[1])


def decisions(trial: FrozenTrial) -> list[bool]:
    """Of each decision of ours whether its rule says the same of the numbers that are stored.

    A forecast was asked for where halving would have stopped the trial: the trial goes on if it
    is expected further ahead than its rival. Halving alone stops what is not in the better half.
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
