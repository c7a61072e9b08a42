"""What is expected of a trial, in one record, and how it lies on the trial.

``aelle:forecast:{step}``, a system attribute, version 1::

    {"version": 1, "standing": [-0.8, 0.4], "value": [0.87, 0.04], "bar": [0.84, 0.42],
     "share": 0.2, "chance": 0.00004, "skill": [41.2, 0.61, 0.48], "spoke": ["params", "spectrum"],
     "trial": 7}

with mean and standard deviation of standing and value, the bar as a standing and as a value, the
share of trials that reach it (null: the bar is the best trial), the chance to reach it, the skill
(lessons, rank correlation, that of the plain value), which features spoke, and the trial that it
was written for, since a retry inherits what its failed attempt left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Literal

import numpy as np
from optuna.trial import FrozenTrial
from scipy.stats import norm

from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import AnyTrial
from optuna_aelle.trials.attributes import check_step
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.attributes import read_payloads
from optuna_aelle.trials.payloads import optional
from optuna_aelle.trials.payloads import real
from optuna_aelle.trials.payloads import reals
from optuna_aelle.trials.storage import latest

Feature = Literal["curve", "params", "spectrum"]

FORECAST_PREFIX = "aelle:forecast:"
FORECAST_VERSION = 1

# A lower bound of skill lies this many standard errors below the estimate: one in forty is luck.
_STANDARD_ERRORS = 2.0
# Standard deviations on either side that hold 80 % of a normal distribution.
CENTRAL_80 = 1.2815515655446004


@dataclass(frozen=True)
class Skill:
    """How well predictions at one step rank lessons that they were not fitted to.

    Attributes:
        n: Lessons behind it, each counted by how certain its own standing is.
        model: Spearman correlation of the leave-one-out predictions with the standings.
        baseline: That of the plain value reported at the step; 0 before training.

    Example:
        >>> Skill(n=30.0, model=0.7, baseline=0.4).lower_bound > 0.4
        True
    """

    n: float
    model: float
    baseline: float

    @property
    def lower_bound(self) -> float:
        """``model`` less two standard errors (Fisher's z)."""
        if self.n < 5:
            return -1.0
        z = np.arctanh(np.clip(self.model, -0.99, 0.99)) - _STANDARD_ERRORS * (self.n - 3) ** -0.5
        return float(np.tanh(z))

    @property
    def speaks(self) -> bool:
        """Whether predictions rank better than chance, and no worse than the plain value does."""
        return self.lower_bound > 0.0 and self.model >= self.baseline


@dataclass(frozen=True)
class Forecast:
    """Where a trial is expected to end, as of one step.

    Attributes:
        step: What was known: reports and spectra up to this step; −1 for the untrained network.
        standing: The expected standing: higher is better, 0 is the study's middle, 1 its spread.
        standing_std: Its standard deviation.
        value: The expected final value, in units of the objective.
        value_std: Its standard deviation.
        bar: The standing that is asked for.
        bar_value: The final value that belongs to it.
        share: The share of the study's trials that reach the bar; None where it is the best one.
        chance: That of reaching the bar.
        skill: How well such forecasts have ranked this study's own trials.
        spoke: The groups of features that explain at least a tenth of it.

    Example:
        >>> forecast = predictor.forecast(study.trials[0], step=-1)
        >>> forecast.value, forecast.interval, forecast.chance
    """

    step: int
    standing: float
    standing_std: float
    value: float
    value_std: float
    bar: float
    bar_value: float
    share: float | None
    chance: float
    skill: Skill
    spoke: tuple[Feature, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The central 80 % of the final value, in units of the objective."""
        half = CENTRAL_80 * self.value_std
        return self.value - half, self.value + half

    @property
    def percentile(self) -> float:
        """The share of the study's trials that it is expected to end ahead of, in [0, 1]."""
        return float(norm.cdf(self.standing))

    @property
    def percentile_interval(self) -> tuple[float, float]:
        """The central 80 % of `percentile`: on the scale of the chance, as values are not."""
        half = CENTRAL_80 * self.standing_std
        return float(norm.cdf(self.standing - half)), float(norm.cdf(self.standing + half))


def encode_forecast(trial: FrozenTrial, forecast: Forecast) -> dict[str, Any]:
    """Turn a forecast into the attribute of ``trial`` that holds it."""
    skill = forecast.skill
    payload = {
        "version": FORECAST_VERSION,
        "standing": [forecast.standing, forecast.standing_std],
        "value": [forecast.value, forecast.value_std],
        "bar": [forecast.bar, forecast.bar_value],
        "share": forecast.share,
        "chance": forecast.chance,
        "skill": [skill.n, skill.model, skill.baseline],
        "spoke": list(forecast.spoke),
        "trial": trial.number,
    }
    return {f"{FORECAST_PREFIX}{check_step(forecast.step)}": payload}


def decode_forecasts(trial: AnyTrial) -> dict[int, Forecast]:
    """What was expected of a trial, by step; not what a failed attempt left to it."""

    stored = latest(trial)
    inherited = [] if stored is None else failed_attempts(stored)

    def read(payload: Mapping[str, Any]) -> Forecast | None:
        return None if payload.get("trial") in inherited else read_forecast(payload)

    found = read_payloads(
        trial if stored is None else stored, FORECAST_PREFIX, FORECAST_VERSION, read
    )
    return {
        step: replace(forecast, step=step)
        for step, forecast in found.items()
        if forecast is not None
    }


def read_forecast(payload: Mapping[str, Any]) -> Forecast:
    """What an attribute holds, before training.

    Raises:
        ValueError: It is damaged.
    """
    standing, value, bar = (reals(payload, name, 2) for name in ("standing", "value", "bar"))
    spoke = payload.get("spoke")
    if not isinstance(spoke, list | tuple) or not all(isinstance(name, str) for name in spoke):
        raise ValueError("its 'spoke' is no list of names")
    return Forecast(
        step=UNTRAINED_STEP,
        standing=standing[0],
        standing_std=standing[1],
        value=value[0],
        value_std=value[1],
        bar=bar[0],
        bar_value=bar[1],
        share=optional(payload, "share"),
        chance=real(payload.get("chance"), "chance"),
        skill=Skill(*reals(payload, "skill", 3)),
        spoke=tuple(spoke),
    )
