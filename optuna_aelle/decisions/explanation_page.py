"""An explanation as a page of plain text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optuna_aelle.decisions.explanation import moment
from optuna_aelle.decisions.text_pictures import OTHER
from optuna_aelle.decisions.text_pictures import OWN
from optuna_aelle.decisions.text_pictures import compared
from optuna_aelle.decisions.text_pictures import printable

if TYPE_CHECKING:
    from optuna_aelle.decisions.explanation import Explanation
    from optuna_aelle.decisions.front import FrontForecast
    from optuna_aelle.decisions.trial_record import TrialRecord
    from optuna_aelle.prediction.forecast import Forecast

# Spectra are drawn as `optuna_aelle.visualization` draws them: linear up to so many nats per step.
_SQUASH_SCALE = 0.1


def page_of(explained: Explanation) -> str:
    """What became of a trial, what was expected, and pictures beside the best one."""
    parts = (_heading, _expected, _spectra, _curves)
    return "\n\n".join("\n".join(part(explained)) for part in parts)


def _heading(explained: Explanation) -> list[str]:
    trial = explained.trial
    came_to = "" if trial.value is None else f", value {trial.value:.5g}{explained.of_objective}"
    lines = [
        f"trial {trial.number} of '{printable(explained.study_name)}': {trial.state}{came_to}"
    ]
    lines.append(printable(explained.sentence, 500))
    if explained.continues is not None:
        lines.append(f"It goes on with the network of trial {explained.continues}.")
    if explained.continued_by is not None:
        lines.append(f"Its network goes on as trial {explained.continued_by}.")
    params = ", ".join(
        f"{printable(name, 60)}={_short(value)}" for name, value in trial.params.items()
    )
    lines.append(f"parameters: {params or 'none'}")
    if explained.best is None:
        lines.append("No trial has finished with a value yet: there is nothing to compare.")
    elif explained.is_best:
        lines.append(f"It is the best finished trial{explained.of_objective}.")
    else:
        best = explained.best
        lines.append(
            f"The best finished trial{explained.of_objective} is {best.number}, {best.value:.5g}."
        )
    return lines


def _expected(explained: Explanation) -> list[str]:
    forecast = explained.forecast
    if explained.front is not None:
        return _expected_of_several(explained.front)
    if forecast is None:
        return [f"forecast: none; {printable(explained.no_forecast, 1000)}"]
    low, high = forecast.interval
    when = moment(forecast.step)
    how = "" if explained.forecast_source == "stored" else ", computed now from the other trials"
    lines = [
        f"forecast ({when}{how}): {forecast.value:.5g}, 80 % between {low:.5g} and {high:.5g}",
        f"  ahead of {forecast.percentile:.0%} of the trials; a chance of "
        f"{_percent(forecast.chance)} to reach {_bar_in_words(forecast)}",
    ]
    if forecast.spoke:
        lines.append(f"  from {printable(' + '.join(forecast.spoke))}")
    if forecast.skill.n > 0:
        skill = forecast.skill
        lines.append(
            f"  such forecasts rank this study's own trials at {skill.model:.2f}, the plain "
            f"value at {skill.baseline:.2f} (over {skill.n:.0f})"
        )
    return lines


def _expected_of_several(front: FrontForecast) -> list[str]:
    lines = [f"forecast ({moment(front.step)}):"]
    for number, ((value, _), (low, high)) in enumerate(
        zip(front.values, front.intervals, strict=True)
    ):
        around = "known" if low == high else f"80 % between {low:.5g} and {high:.5g}"
        lines.append(f"  objective {number}: {value:.5g}, {around}")
    rival = ", ".join(f"{value:.5g}" for value in front.rival_values)
    lines.append(
        f"  a chance of at most {_percent(front.chance)} to beat trial {front.rival} ({rival}), "
        "which is on the Pareto front, in any objective"
    )
    return lines


def _bar_in_words(forecast: Forecast) -> str:
    if forecast.share is not None:
        return f"the best {forecast.share:.0%}, about {forecast.bar_value:.5g}"
    if not forecast.skill.n:
        return f"what the best other candidate may, about {forecast.bar_value:.5g}"
    return f"the best so far, {forecast.bar_value:.5g}"


def _spectra(explained: Explanation) -> list[str]:
    trial, best = explained.trial, _other(explained)
    if not trial.spectrum:
        return ["spectrum: none is stored"]
    return [
        f"spectrum ({moment(trial.spectrum_step)}): largest exponent {trial.spectrum[0]:.4g} "
        f"nats per step{_key(best if best is not None and best.spectrum else None)}",
        *compared(
            list(enumerate(trial.spectrum)),
            list(enumerate(best.spectrum)) if best is not None else [],
            squash=lambda y: math.asinh(y / _SQUASH_SCALE),
            x_labels=("largest exponent", "smallest"),
        ),
    ]


def _curves(explained: Explanation) -> list[str]:
    trial, best = explained.trial, _other(explained)
    if not trial.curve:
        return ["curve: it has reported nothing"]
    steps = [*trial.curve, *(best.curve if best is not None else ())]
    return [
        f"curve{_key(best if best is not None and best.curve else None)}",
        *compared(
            list(trial.curve.items()),
            list(best.curve.items()) if best is not None else [],
            x_labels=(f"step {min(steps)}", f"step {max(steps)}"),
        ),
    ]


def _other(explained: Explanation) -> TrialRecord | None:
    return None if explained.is_best else explained.best


def _key(best: TrialRecord | None) -> str:
    return "" if best is None else f" ({OWN} this trial, {OTHER} the best, trial {best.number})"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(value, 60)


def _percent(share: float) -> str:
    return "under 0.1%" if share < 0.0005 else f"{share:.1%}"
