"""What was expected of trials, held against what they came to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from plotly.colors import sample_colorscale

from optuna_aelle.decisions.front import decode_front_forecasts
from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.continuation import furthest
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import SCALE
from optuna_aelle.visualization._style import STOPPED
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import escaped
from optuna_aelle.visualization._style import robust_range
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import step_name
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_name
from optuna_aelle.visualization._trials import value_of

_MAX_STEPS = 5


@dataclass(frozen=True)
class _Expected:
    """What was expected at a step, and the trial in which the network went furthest."""

    trial: FrozenTrial
    step: int
    value: float
    low: float
    high: float
    chance: str

    @property
    def came_true(self) -> bool:
        return self.low <= value_of(self.trial) <= self.high


def plot_predictions(study: optuna.Study) -> go.Figure:
    """Draw forecasts against final values, with the interval that holds four in five if they hold.

    Each step that predicted is a colour, and an entry of the legend to switch it off; the title
    counts how many finished trials ended within their central 80 %. Forecasts of pruned trials are
    orange crosses at the value reached, which the legend switches on; what they would have come to
    is not known. Without any, the figure says where the predictor is silent, and why.

    Args:
        study: Any; of several objectives, the first is drawn.

    Example:
        >>> plot_predictions(study).show()  # doctest: +SKIP
    """
    title = "Forecasts against ends"
    trials = trials_of(study)
    # What was expected before a network was stopped is held against where it ended later.
    ends_in = furthest(trials)
    forecasts = [e for trial in trials for e in _expected(trial, ends_in[trial.number])]
    rows = [e for e in forecasts if math.isfinite(value_of(e.trial)) and math.isfinite(e.value)]
    if not rows:
        return empty(title, _why_nothing(study, len({e.trial.number for e in forecasts})))
    finished = [e for e in rows if e.trial.state == TrialState.COMPLETE]
    # Where pruned trials lie is no end: they are in view only where nothing else is.
    everything = short([x for e in finished or rows for x in (value_of(e.trial), e.value)])
    low, high = robust_range(everything)
    margin = 0.05 * (high - low) or 0.5
    ends = short([low - margin, high + margin])
    figure = go.Figure()
    line = {"color": "#666", "width": 1, "dash": "dash"}
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, name="exact", hoverinfo="skip", showlegend=False
    )
    # Of a pruned trial, the last word.
    pruned = {e.trial.number: e for e in rows if e.trial.state == TrialState.PRUNED}
    most = MAX_POINTS // 2
    _add(figure, "pruned, at the value reached", STOPPED, thin(list(pruned.values()), most))
    if finished and pruned:
        figure.data[-1].visible = "legendonly"
    drawn = thin(finished, most)
    steps = thin(sorted({e.step for e in finished}), _MAX_STEPS)
    colors = sample_colorscale(SCALE[1:], np.linspace(1.0, 0.0, max(len(steps), 2)).tolist())
    for step, color in zip(steps, colors, strict=False):
        _add(figure, f"from {step_name(step)}", color, [e for e in drawn if e.step == step])
    if finished:
        hits = sum(e.came_true for e in finished)
        title += f": {hits / len(finished):.0%} of {len(finished)} within their 80 % interval"
    name = escaped(value_name(study))
    styled(figure, title, f"final {name}", f"forecast of the final {name}")
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    return figure


def _expected(trial: FrozenTrial, ends_in: FrozenTrial) -> list[_Expected]:
    found = [
        _Expected(ends_in, f.step, f.value, *f.interval, _chance(f))
        for f in decode_forecasts(trial).values()
    ]
    for several in decode_front_forecasts(trial).values():
        if several.values:
            chance = f"chance to reach the Pareto front: at most {several.chance:.1%}"
            (value, _), interval = several.values[0], several.intervals[0]
            found.append(_Expected(ends_in, several.step, value, *interval, chance))
    return found


def _chance(forecast: Forecast) -> str:
    bar = "the bar" if forecast.share is None else f"the best {forecast.share:.0%}"
    return f"chance of {bar} ({forecast.bar_value:.4g}): {forecast.chance:.1%}"


def _why_nothing(study: optuna.Study, n_forecast: int) -> str:
    if n_forecast > 0:
        return (
            f"None of the {n_forecast} trials with forecasts has come to a value: they are "
            "running, or were stopped before their first report."
        )
    status = predictor_status(study)
    if status is not None:
        return f"No forecasts of ended trials yet: {status}.".replace("; ", ";\n")
    by = "AeLLEPruner" if len(study.directions) == 1 else "optuna_aelle.should_prune"
    return f"No forecasts of ended trials yet: {by} makes them."


def _add(figure: go.Figure, name: str, color: str, rows: list[_Expected]) -> None:
    if not rows:
        return
    is_pruned = rows[0].trial.state == TrialState.PRUNED
    symbol = "x" if is_pruned else "circle"
    halves = [(e.high - e.low) / 2.0 for e in rows]
    error = {"array": short(halves, digits=3), "thickness": 1, "width": 0, "color": _pale(color)}
    figure.add_scatter(
        x=short([value_of(e.trial) for e in rows]),
        y=short([e.value for e in rows]),
        error_y=None if is_pruned else error,
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 7 if is_pruned else 8},
        opacity=0.6 if is_pruned else 0.9,
        name=name,
        text=[
            f"{label(e.trial, e.step)}<br>forecast {e.value:.4g} (80 %: {e.low:.4g} to "
            f"{e.high:.4g})<br>{e.chance}"
            for e in rows
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _pale(color: str) -> str:
    """As `color`, ``rgb(...)``, but so that many bars may lie upon each other."""
    return color.replace("rgb(", "rgba(").replace(")", ", 0.35)")
