"""What all figures read of a study: its trials, and what each of them came to.

*Value* is the final value of a finished trial and the last reported one of a pruned trial; of
several objectives, that of the first. Failed trials are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.pareto import non_dominated
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.objectives import decode_values
from optuna_aelle.trials.objectives import signs_of


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Finished, pruned and running trials. Not copied."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return study.get_trials(deepcopy=False, states=states)


def is_maximized(study: optuna.Study) -> bool:
    """Whether more of what `value_of` tells is better."""
    return study.directions[0] == StudyDirection.MAXIMIZE


def value_name(study: optuna.Study) -> str:
    """What `value_of` tells, in a word or two."""
    if len(study.directions) == 1:
        return "value"
    names = study.metric_names
    return str(names[0]) if names else "objective 0"


def value_of(trial: FrozenTrial) -> float:
    """What a trial came to, NaN where there is nothing finite."""
    if trial.state == TrialState.RUNNING:
        return math.nan
    if trial.values:
        value = float(trial.values[0])
    else:
        # Optuna gives a pruned trial of several objectives no values.
        reported = decode_values(trial)
        value = reported[max(reported)][0] if reported else math.nan
    return value if math.isfinite(value) else math.nan


def final_value(trial: FrozenTrial) -> float:
    """The value of a finished trial, NaN of any other."""
    return value_of(trial) if trial.state == TrialState.COMPLETE else math.nan


def best_numbers(study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the finished trials that no other one beats: one, or the Pareto front."""
    finished = [t for t in trials if math.isfinite(final_value(t))]
    if not finished:
        return set()
    signs = np.array(signs_of(study))
    if len(signs) == 1:
        best = max(finished, key=lambda t: (signs[0] * value_of(t), -t.number))
        return {best.number}
    on_front = non_dominated(np.array([t.values for t in finished], dtype=np.float64) * signs)
    return {t.number for t, kept in zip(finished, on_front, strict=True) if kept}


def goodness(study: optuna.Study, trial: FrozenTrial) -> tuple[bool, bool, float]:
    """Sorts from trials without a value over pruned to finished ones, the best last."""
    value = value_of(trial)
    if math.isnan(value):
        return False, False, 0.0
    sign = 1.0 if is_maximized(study) else -1.0
    return True, trial.state == TrialState.COMPLETE, sign * value


def label(trial: FrozenTrial, step: int) -> str:
    """One line on a trial as of a step."""
    words = [f"trial {trial.number}", trial.state.name.lower(), step_name(step)]
    if (origin := origin_of(trial)) is not None:
        words[0] += f", which goes on with trial {origin}"
    if math.isfinite(value_of(trial)):
        words.append(f"value {value_of(trial):.5g}")
    return ", ".join(words)


def step_name(step: int) -> str:
    """A step in words."""
    return "untrained" if step == UNTRAINED_STEP else f"step {step}"
