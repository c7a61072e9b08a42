"""What all figures read of a study: its trials, and what each of them came to.

*Value* is the final value of a finished trial and the last reported one of a pruned trial. Failed
trials are left out.
"""

from __future__ import annotations

import math

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import origin_of


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Finished, pruned and running trials. Not copied.

    Raises:
        ValueError: The study is multi-objective.
    """
    if len(study.directions) > 1:
        raise ValueError(
            "Expected a study with one objective, but this is a multi-objective study with "
            f"{len(study.directions)} directions. Copy one objective into a study of its own."
        )
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return study.get_trials(deepcopy=False, states=states)


def value_of(trial: FrozenTrial) -> float:
    """What a trial came to, NaN where there is nothing finite."""
    if trial.state == TrialState.RUNNING or trial.value is None:
        return math.nan
    return float(trial.value) if math.isfinite(trial.value) else math.nan


def final_value(trial: FrozenTrial) -> float:
    """The value of a finished trial, NaN of any other."""
    return value_of(trial) if trial.state == TrialState.COMPLETE else math.nan


def goodness(study: optuna.Study, trial: FrozenTrial) -> tuple[bool, bool, float]:
    """Sorts from trials without a value over pruned to finished ones, the best last."""
    value = value_of(trial)
    if math.isnan(value):
        return False, False, 0.0
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
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
