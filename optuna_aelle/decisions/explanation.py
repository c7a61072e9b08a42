"""All that is known of one trial: where it was heading, what was decided, beside the best one.

Everything is read from the storage. What is damaged there is left out with a warning; only a trial
that does not exist is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.front import FrontForecast
from optuna_aelle.decisions.front import decode_front_forecasts
from optuna_aelle.decisions.pareto import non_dominated
from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.decisions.trial_record import TrialRecord
from optuna_aelle.decisions.trial_record import best_finished
from optuna_aelle.decisions.trial_record import came_to
from optuna_aelle.decisions.trial_record import record_of
from optuna_aelle.decisions.trial_record import unless_damaged
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import continuations
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.objectives import signs_of

# As many others as `AeLLEPruner` waits for before it lets its predictor speak.
_LEAST_OTHERS = 12


@dataclass(frozen=True)
class Explanation:
    """Why a trial went as it went.

    Attributes:
        study_name: Of its study.
        direction: ``"minimize"`` or ``"maximize"``.
        trial: The trial.
        best: The best finished one; ``trial`` itself where that is the best, None without any.
        objective: Of a multi-objective study, the one that values and curves are of.
        n_objectives: How many the study has.
        forecast: The latest that was expected of it.
        front: The same where there are several objectives.
        forecast_source: ``"stored"``, or ``"computed"`` now from the other trials; None without.
        no_forecast: Why there is no forecast.
        bar: What it was held against, in units of the objective, where anybody said so.
        verdict: Why it was stopped; None where it was not, or where nobody said so.
        sentence: What became of it, in one line.
        continues: The trial whose network it trains on.
        continued_by: The trial that trains its network on.

    Example:
        >>> explanation = explain_trial(study, 7)
        >>> explanation.trial.number
        7
    """

    study_name: str
    direction: str
    trial: TrialRecord
    best: TrialRecord | None
    objective: int
    n_objectives: int
    forecast: Forecast | None
    front: FrontForecast | None
    forecast_source: str | None
    no_forecast: str | None
    bar: float | None
    verdict: Verdict | None
    sentence: str
    continues: int | None
    continued_by: int | None

    @property
    def is_best(self) -> bool:
        """Whether no finished trial is better."""
        return self.best is not None and self.best.number == self.trial.number

    @property
    def of_objective(self) -> str:
        """Which objective values are of, as the end of a sentence; empty if there is but one."""
        return f" in objective {self.objective}" if self.n_objectives > 1 else ""

    @property
    def expected(self) -> tuple[float, float, float] | None:
        """The expected final value and the ends of its central 80 %; None without a forecast."""
        if self.forecast is not None:
            return (self.forecast.value, *self.forecast.interval)
        if self.front is not None:
            return (self.front.values[self.objective][0], *self.front.intervals[self.objective])
        return None

    @property
    def forecast_step(self) -> int | None:
        """What was known when it was forecast: −1 before training; None without a forecast."""
        forecast = self.forecast or self.front
        return None if forecast is None else forecast.step

    def as_dict(self) -> dict[str, Any]:
        """The same as what JSON can hold: numbers that are not finite are None.

        Example:
            >>> import json
            >>> text = json.dumps(explain_trial(study, 7).as_dict(), allow_nan=False)
        """
        forecast = self.forecast
        payload = dict(vars(self))
        payload["trial"] = _as_dict(self.trial)
        payload["best"] = None if self.best is None else _as_dict(self.best)
        payload["verdict"] = (
            None
            if self.verdict is None
            else {k: v for k, v in asdict(self.verdict).items() if k not in ("forecast", "front")}
        )
        payload["front"] = (
            None
            if self.front is None
            else asdict(self.front) | {"intervals": self.front.intervals}
        )
        payload["forecast"] = (
            None
            if forecast is None
            else asdict(forecast)
            | {
                "interval": forecast.interval,
                "percentile": forecast.percentile,
                "percentile_interval": forecast.percentile_interval,
            }
        )
        cleaned: dict[str, Any] = _json_ready(payload)
        return cleaned

    def text(self) -> str:
        """A page for people: what became of it, what was expected, pictures beside the best one.

        Example:
            >>> print(explain_trial(study, 7).text())
            trial 7 of 'example': ...
        """
        from optuna_aelle.decisions.explanation_page import page_of

        return page_of(self)


def explain_trial(
    study: optuna.Study, number: int, *, objective: int = 0, ask_predictor: bool = True
) -> Explanation:
    """Gather what the storage knows of one trial.

    Returns:
        A record; ``text()`` is a page for people, ``as_dict()`` is ready for JSON.

    Args:
        study: Its study.
        number: Of the trial.
        objective: Of a multi-objective study, the one that is explained; counted from 0.
        ask_predictor: Whether to forecast a pruned or running trial of which no forecast is
            stored, from all other trials. This takes about a second; it is left out, with the
            reason, where such forecasts have not ranked this study's own trials well.

    Raises:
        ValueError: The study has no such trial, or no such objective.

    Example:
        >>> print(explain_trial(study, 3).sentence)
    """
    if not 0 <= objective < len(study.directions):
        raise ValueError(
            f"Expected an objective from 0 to {len(study.directions) - 1}, but got {objective!r}."
        )
    trials = study.get_trials(deepcopy=False)
    trial = next((t for t in trials if t.number == number), None)
    if trial is None:
        there = f"its trials are numbered 0 to {len(trials) - 1}" if trials else "it has none"
        raise ValueError(
            f"Expected the number of a trial of '{study.study_name}', but got {number!r}: {there}."
        )
    return explain_one(study, trial, trials, objective=objective, ask_predictor=ask_predictor)


def explain_one(
    study: optuna.Study,
    trial: FrozenTrial,
    trials: Sequence[FrozenTrial],
    *,
    objective: int = 0,
    ask_predictor: bool = False,
) -> Explanation:
    """As `explain_trial`, of trials that have been fetched."""
    maximize = study.directions[objective] == StudyDirection.MAXIMIZE
    own = record_of(trial, objective)
    best = best_finished(trials, objective, maximize=maximize)
    verdict = unless_damaged(lambda: _sound(decode_verdict(trial)), None)
    forecasts: dict[int, Forecast] = {}
    forecasts = unless_damaged(lambda: decode_forecasts(trial), forecasts)
    forecast = next((f for f in reversed(forecasts.values()) if _is_sound(f)), None)
    front = unless_damaged(lambda: _latest_front(study, trial), None)
    source = None if forecast is None and front is None else "stored"
    reason: str | None = None
    if source is None:
        forecast, reason = _forecast_now(study, trial, trials, ask=ask_predictor)
        source = None if forecast is None else "computed"
    continued: dict[int, int] = {}
    continued = unless_damaged(lambda: continuations(trials), continued)
    bar = None
    if verdict is not None and verdict.bar is not None:
        bar = verdict.bar
    elif forecast is not None:
        bar = forecast.bar_value
    elif front is not None:
        bar = front.rival_values[objective]
    return Explanation(
        study_name=study.study_name,
        direction="maximize" if maximize else "minimize",
        trial=own,
        best=None if best is None else record_of(best, objective),
        objective=objective,
        n_objectives=len(study.directions),
        forecast=forecast,
        front=front,
        forecast_source=source,
        no_forecast=reason,
        bar=bar,
        verdict=verdict,
        sentence=_sentence(study, own, verdict, trials, objective),
        continues=unless_damaged(lambda: origin_of(trial), None),
        continued_by=continued.get(trial.number),
    )


def _sentence(
    study: optuna.Study,
    own: TrialRecord,
    verdict: Verdict | None,
    trials: Sequence[FrozenTrial],
    objective: int,
) -> str:
    if verdict is not None:
        return verdict.sentence()
    steps = moment(max(own.curve, default=UNTRAINED_STEP))
    if own.state == "complete" and own.value is not None:
        return f"ran to its end: {_place(study, own.number, own.value, trials, objective)}"
    if own.state == "complete":
        return "ran to its end, at a value that is not finite"
    if own.state == "pruned":
        return f"{steps}: stopped; the pruner has not said why"
    if own.state == "running":
        return f"{steps}: it is running"
    return "it has not been started" if own.state == "waiting" else f"{steps}: it failed"


def _place(
    study: optuna.Study, number: int, value: float, trials: Sequence[FrozenTrial], objective: int
) -> str:
    """Where a trial stands among those that have finished."""
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    known = [end for t in finished if (end := came_to(t, objective)) is not None]
    maximize = study.directions[objective] == StudyDirection.MAXIMIZE
    better = sum(end > value if maximize else end < value for end in known)
    place = f"place {better + 1} of the {len(known)} that have finished"
    if len(study.directions) == 1:
        return place
    signed = np.array([t.values for t in finished], dtype=np.float64) * signs_of(study)
    front = {t.number for t, is_on in zip(finished, non_dominated(signed), strict=True) if is_on}
    return (
        f"{'' if number in front else 'not '}on the Pareto front; in objective {objective} {place}"
    )


def _forecast_now(
    study: optuna.Study, trial: FrozenTrial, trials: Sequence[FrozenTrial], *, ask: bool
) -> tuple[Forecast | None, str | None]:
    """What all others say of a trial, or why nothing is said."""
    if len(study.directions) > 1:
        return None, "the study has several objectives, and none was stored"
    if trial.state == TrialState.COMPLETE:
        return None, "none was made while it ran, and its end is known"
    if trial.state not in (TrialState.RUNNING, TrialState.PRUNED):
        return None, "it has not been trained"
    said = unless_damaged(lambda: predictor_status(study), None)
    none_was_made = "none was made" if said is None else f"none was made: {said}"
    if not ask:
        return None, none_was_made
    # One that has ended must not be told its own end.
    others = [t for t in trials if t.number != trial.number]
    n = sum(map(is_lesson, one_a_network(others)))
    if n < _LEAST_OTHERS:
        return None, f"only {n} other trials have ended with a value, it needs {_LEAST_OTHERS}"
    step = UNTRAINED_STEP if trial.last_step is None else trial.last_step
    try:
        maximize = study.direction == StudyDirection.MAXIMIZE
        fitted = PerformancePredictor(direction="maximize" if maximize else "minimize").fit(others)
        if not fitted.skill(step).speaks:
            return None, (
                f"{moment(step)}, forecasts from the other trials do not rank them better than "
                "chance or than the plain value"
            )
        forecast = fitted.forecast(trial, step)
        return (forecast, None) if _is_sound(forecast) else (None, none_was_made)
    except Exception as error:  # whatever is wrong with the others, this one can be explained
        return None, f"none can be computed now ({error})"


def _latest_front(study: optuna.Study, trial: FrozenTrial) -> FrontForecast | None:
    """What was expected of it in each objective, if it can be told."""
    n = len(study.directions)
    for forecast in reversed(decode_front_forecasts(trial).values()):
        numbers = [forecast.chance, *forecast.rival_values, *sum(forecast.values, ())]
        fits = len(forecast.values) == len(forecast.rival_values) == n > 1
        if fits and all(map(math.isfinite, numbers)):
            return forecast
    return None


def _is_sound(forecast: Forecast) -> bool:
    numbers = (forecast.value, forecast.value_std, forecast.chance, forecast.standing)
    return all(map(math.isfinite, numbers)) and forecast.value_std >= 0.0


def _sound(verdict: Verdict | None) -> Verdict | None:
    """A verdict that can be told; what was damaged by hand shows there at the latest."""
    if verdict is not None:
        verdict.sentence()
    return verdict


def moment(step: int | None) -> str:
    """A step in words."""
    return "before training" if step in (None, UNTRAINED_STEP) else f"step {step}"


def _as_dict(record: TrialRecord) -> dict[str, Any]:
    return {**vars(record), "lambda_1": record.lambda_1}


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
