"""Can a trial in training still reach the Pareto front of its study?

Each objective is forecast by itself, as in a study of its own (`optuna_aelle.prediction.fitted`);
one that never changes while a network trains, such as its size, is known. Errors of forecasts may
go together in any way, so no joint distribution is made up. For each trial p of the front

    P(the trial is not dominated) ≤ P(it beats p in some objective) ≤ Σᵢ P(it beats p in i),

and the least of these sums bounds the chance to reach the front from above. What is stopped by it
is expected to be dominated by a single trial that everybody can look at, the *rival*.

``aelle:forecasts:{step}``, a system attribute, version 1::

    {"version": 1, "values": [[0.87, 0.04], [41600.0, 0.0]], "rival": 12,
     "rival_values": [0.31, 24800.0], "chance": 0.004, "skill": [[41.2, 0.61, 0.48], null],
     "trial": 7}

with mean and standard deviation of each objective's final value, the rival and its values, the
chance, of each objective the skill (as in `optuna_aelle.prediction.forecast`; null where the value
is known), and the trial that it was written for, since a retry inherits it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm

from optuna_aelle.decisions.pareto import non_dominated
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.prediction.fitted import FittedPredictor
from optuna_aelle.prediction.forecast import CENTRAL_80
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.objectives import Objectives
from optuna_aelle.prediction.objectives import known_objectives
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.trials.attributes import AnyTrial
from optuna_aelle.trials.attributes import check_step
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.attributes import read_payloads
from optuna_aelle.trials.objectives import signs_of
from optuna_aelle.trials.payloads import real
from optuna_aelle.trials.payloads import reals
from optuna_aelle.trials.payloads import whole
from optuna_aelle.trials.storage import latest

FloatArray = npt.NDArray[np.float64]

FORECASTS_PREFIX = "aelle:forecasts:"
FORECASTS_VERSION = 1
# As for a single objective: two lessons more than a fit needs.
_LEAST_LESSONS = MIN_LESSONS + 2


@dataclass(frozen=True)
class FrontForecast:
    """Where a trial of several objectives is expected to end, as of one step.

    Attributes:
        step: What was known: reports and spectra up to this step.
        values: Of each objective mean and standard deviation of the final value, in its units.
        rival: The number of the trial on the Pareto front that it is least likely to beat.
        rival_values: The values of that one.
        chance: A bound from above of the chance to beat it in any objective, and so of the chance
            to reach the front.
        skills: Of each objective how well such forecasts have ranked this study's own trials; None
            where the value is known.

    Example:
        >>> forecast = FrontForecast(8, ((0.87, 0.04), (416.0, 0.0)), 12, (0.3, 248.0), 0.004, ())
        >>> forecast.intervals[1]
        (416.0, 416.0)
    """

    step: int
    values: tuple[tuple[float, float], ...]
    rival: int
    rival_values: tuple[float, ...]
    chance: float
    skills: tuple[Skill | None, ...]

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """Of each objective the central 80 % of the final value."""
        return tuple((m - CENTRAL_80 * s, m + CENTRAL_80 * s) for m, s in self.values)


def forecast_front(
    study: Study, everyone: Sequence[Objectives], own: Objectives, step: int, n_startup_trials: int
) -> FrontForecast | None:
    """What is expected of a trial; None where an objective cannot be forecast with skill.

    Args:
        study: Several objectives.
        everyone: Its trials.
        own: The one in question, with a finite value of each objective at ``step``.
        step: The last one that it has reported.
        n_startup_trials: Lessons that each objective needs.
    """
    front = pareto_front(study, everyone)
    if not front:
        return None
    signs = signs_of(study)
    chances = np.zeros(len(front))
    values: list[tuple[float, float]] = []
    skills: list[Skill | None] = []
    known = known_objectives(study, everyone, own)
    for i, (sign, is_known) in enumerate(zip(signs, known, strict=True)):
        bars = np.array([trial.values[i] for trial in front])
        if is_known:
            value = own.values[step][i]
            values.append((value, 0.0))
            skills.append(None)
            chances += sign * value > sign * bars
            continue
        predictor = fitted_predictor(study, FEATURES, n_startup_trials, objective=i)
        if predictor is None or predictor.n_lessons(step) < _LEAST_LESSONS:
            return None
        skill = predictor.skill(step)
        standings = standings_of(predictor, bars)
        if not skill.speaks or standings is None:
            return None
        forecast = predictor.forecast(own.views[i], step)
        values.append((forecast.value, forecast.value_std))
        skills.append(skill)
        chances += norm.sf((standings - forecast.standing) / forecast.standing_std)
    best = int(np.argmin(chances))
    return FrontForecast(
        step,
        tuple(values),
        front[best].number,
        tuple(front[best].values),
        min(float(chances[best]), 1.0),
        tuple(skills),
    )


def pareto_front(study: Study, everyone: Sequence[Objectives]) -> list[FrozenTrial]:
    """The finished trials that no other one dominates, without those that break a constraint."""
    finished = [
        read.trial
        for read in everyone
        if read.trial.state == TrialState.COMPLETE
        and all(map(math.isfinite, read.trial.values))
        and read.feasible
    ]
    if not finished:
        return []
    points = np.array([trial.values for trial in finished]) * signs_of(study)
    return [finished[i] for i in np.flatnonzero(non_dominated(points))]


def standings_of(predictor: FittedPredictor, values: FloatArray) -> FloatArray | None:
    """Where finished trials with these values stand; None where no lesson has finished.

    Args:
        predictor: Of the objective.
        values: ``(n,)``.
    """
    finished = [
        (predictor.sign * lesson.values[0], standing)
        for lesson, standing in zip(predictor.lessons, predictor.standings, strict=True)
        if lesson.state == TrialState.COMPLETE
    ]
    if not finished:
        return None
    ends, standings = np.array(sorted(finished)).T
    return np.asarray(np.interp(predictor.sign * values, ends, standings))


def encode_front_forecast(trial: FrozenTrial, forecast: FrontForecast) -> dict[str, Any]:
    """Turn a forecast into the attribute of ``trial`` that holds it."""
    payload = {
        "version": FORECASTS_VERSION,
        "values": [list(value) for value in forecast.values],
        "rival": forecast.rival,
        "rival_values": list(forecast.rival_values),
        "chance": forecast.chance,
        "skill": [s and [s.n, s.model, s.baseline] for s in forecast.skills],
        "trial": trial.number,
    }
    return {f"{FORECASTS_PREFIX}{check_step(forecast.step)}": payload}


def decode_front_forecasts(trial: AnyTrial) -> dict[int, FrontForecast]:
    """What was expected of a trial of several objectives, by step, in order of step.

    Example:
        >>> decode_front_forecasts(study.trials[0])
        {}
    """
    stored = latest(trial)
    inherited = [] if stored is None else failed_attempts(stored)

    def read(payload: Mapping[str, Any]) -> FrontForecast | None:
        return None if payload.get("trial") in inherited else read_front_forecast(payload)

    found = read_payloads(
        trial if stored is None else stored, FORECASTS_PREFIX, FORECASTS_VERSION, read
    )
    return {step: replace(x, step=step) for step, x in found.items() if x is not None}


def read_front_forecast(payload: Mapping[str, Any]) -> FrontForecast:
    """What an attribute holds, before training.

    Raises:
        ValueError: It is damaged.
    """
    values, rival_values, skills = (
        _list(payload, name) for name in ("values", "rival_values", "skill")
    )
    if not len(values) == len(rival_values) == len(skills):
        raise ValueError("its lists are of unequal length")
    means = [reals({"values": pair}, "values", 2) for pair in values]
    return FrontForecast(
        step=0,
        values=tuple((mean, std) for mean, std in means),
        rival=whole(payload, "rival"),
        rival_values=tuple(real(value, "rival_values") for value in rival_values),
        chance=real(payload.get("chance"), "chance"),
        skills=tuple(
            None if skill is None else Skill(*reals({"skill": skill}, "skill", 3))
            for skill in skills
        ),
    )


def _list(payload: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = payload.get(name)
    if not isinstance(found, list | tuple):
        raise ValueError(f"its {name!r} is no list")
    return found
