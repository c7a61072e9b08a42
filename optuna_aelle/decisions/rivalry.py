"""Where a trial may be stopped: does something else promise more?

Successive halving stops half of all trials at each rung, however good they are: of a search that
starts its best candidates first, it stops good ones for worse. So halving only proposes. The trial
is stopped if the best candidate that the sampler remembers is expected to end at least as well;
else it goes on.

Where trials are checkpointed, stopping loses nothing. At each rung the trial is then compared with
the candidates and with all that have been stopped, by what each may add to the best so far
(`optuna_aelle.decisions.reservoir.index_of`), and whatever promises most trains next.

`benchmarks/NOTES.md` says what else was tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import norm

from optuna_aelle.decisions.reservoir import EXPLORATION
from optuna_aelle.decisions.reservoir import index_of
from optuna_aelle.decisions.reservoir import reservoir_of
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.decisions.resumption import may_go_on
from optuna_aelle.decisions.resumption import resumable
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.process import Field
from optuna_aelle.prediction.values import expected_value


@dataclass(frozen=True)
class Rivalry:
    """What came of a comparison.

    Attributes:
        verdict: Why the trial is stopped; None where it goes on.
        forecast: What is expected of it.
    """

    verdict: Verdict | None
    forecast: Forecast


def judge(study: Study, trial: FrozenTrial) -> Rivalry | None:
    """Compare a trial with the candidates of the study; None where no sampler has left any."""
    reservoir = reservoir_of(study)
    if reservoir is None:
        return None
    with reservoir.lock:
        if not reservoir.candidates:
            return None
        trials = started_trials(study)
        own = next((i for i, t in enumerate(trials) if t.number == trial.number), None)
        lessons = [i for i, t in enumerate(trials) if is_lesson(t)]
        # Before anything has ended, a standing is no value that people could read.
        if own is None or trial.last_step is None or not lessons:
            return None
        field = reservoir.field(trials)
    rivals = list(range(len(trials), len(field.mean)))
    if may_go_on(study, trial):
        rivals += resumable(trials)
        index = index_of(field, trials)
        promise = index[own]
    else:
        # Whoever is stopped for good can show nothing more.
        index = field.mean + EXPLORATION * field.std
        promise = field.mean[own]
    best = max(rivals, key=lambda position: index[position])
    rival = float(field.mean[best])
    forecast = _forecast(study, trials, lessons, own, field, rival)
    # What is not finite leads nowhere.
    if promise > index[best] and math.isfinite(trial.intermediate_values[trial.last_step]):
        return Rivalry(None, forecast)
    step = trial.last_step
    value = trial.intermediate_values[step]
    return Rivalry(
        Verdict(
            AELLE,
            step,
            value if math.isfinite(value) else None,
            forecast=forecast,
            rival=rival,
            rival_std=float(field.std[best]),
        ),
        forecast,
    )


def _forecast(
    study: Study,
    trials: list[FrozenTrial],
    lessons: list[int],
    own: int,
    field: Field,
    rival: float,
) -> Forecast:
    """The record of what is expected of one trial of a field."""
    trial = trials[own]
    assert trial.last_step is not None
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    mean, std = float(field.mean[own]), float(field.std[own])
    values, value, value_std = expected_value(
        [trials[i] for i in lessons], field.mean[lessons], sign, trial, (mean, std)
    )
    return Forecast(
        step=trial.last_step,
        standing=mean,
        standing_std=std,
        value=value,
        value_std=value_std,
        bar=rival,
        bar_value=float(values.value(rival)),
        share=None,
        chance=float(norm.sf((rival - mean) / std)),
        skill=Skill(0.0, 0.0, 0.0),
        spoke=(),
    )
