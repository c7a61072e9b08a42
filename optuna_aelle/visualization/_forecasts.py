"""What was predicted of trials, held against what they came to."""

from __future__ import annotations

import math

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from plotly.colors import sample_colorscale

from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.continuation import furthest
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import SCALE
from optuna_aelle.visualization._style import UNSCORED
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import robust_range
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._style import wrapped
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import step_name
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_of

_MAX_STEPS = 6

_Row = tuple[FrozenTrial, Forecast]


def plot_predictions(study: optuna.Study) -> go.Figure:
    """Draw predicted against actual final values, error bars of one standard deviation.

    Each step that predicted is a colour, and an entry of the legend to switch it off. Predictions
    of pruned trials are grey crosses at the value reached; what they would have come to is not
    known. Without any, the figure says where the predictor is silent, and why.

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.

    Example:
        >>> plot_predictions(study).show()  # doctest: +SKIP
    """
    title = "Predicted against actual final value"
    trials = trials_of(study)
    # What was expected before a network was stopped is held against where it ended later.
    ends_in = furthest(trials)
    forecasts = [
        (ends_in[trial.number], f) for trial in trials for f in decode_forecasts(trial).values()
    ]
    rows = [
        (trial, forecast)
        for trial, forecast in forecasts
        if math.isfinite(value_of(trial)) and math.isfinite(forecast.value)
    ]
    if not rows:
        return empty(title, _why_nothing(study, len({trial.number for trial, _ in forecasts})))
    everything = short([x for trial, f in rows for x in (value_of(trial), f.value)])
    low, high = robust_range(everything)
    margin = 0.05 * (high - low) or 0.5
    ends = short([low - margin, high + margin])
    figure = go.Figure()
    line = {"color": "#666", "width": 1, "dash": "dash"}
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, name="exact", hoverinfo="skip", showlegend=False
    )
    finished = [row for row in rows if row[0].state == TrialState.COMPLETE]
    # Of a pruned trial, the last word.
    pruned = {row[0].number: row for row in rows if row[0].state == TrialState.PRUNED}
    _add(figure, "pruned, at the value reached", UNSCORED, "x", list(pruned.values()))
    steps = thin(sorted({forecast.step for _, forecast in finished}), _MAX_STEPS)
    colors = sample_colorscale(SCALE[1:], np.linspace(1.0, 0.0, max(len(steps), 2)).tolist())
    for step, color in zip(steps, colors, strict=False):
        of_step = [row for row in finished if row[1].step == step]
        _add(figure, step_name(step), color, "circle", of_step)
    if finished:
        hits = sum(abs(f.value - value_of(trial)) <= f.value_std for trial, f in finished)
        title += f": {hits / len(finished):.0%} within one standard deviation"
    styled(figure, title, "final value", "predicted final value")
    # One entry a step: above the figure, they would run into the title.
    beside = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1.0, "yanchor": "top"}
    figure.update_layout(legend=beside)
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    return figure


def _why_nothing(study: optuna.Study, n_forecast: int) -> str:
    if n_forecast > 0:
        return (
            f"None of the {n_forecast} trials with forecasts has come to a value: they are "
            "running, or were stopped before their first report."
        )
    status = predictor_status(study)
    if status is None:
        return "No forecasts of ended trials yet: AeLLEPruner makes them."
    return f"No forecasts of ended trials yet: {status}.".replace("; ", ";\n")


def _add(figure: go.Figure, name: str, color: str, symbol: str, rows: list[_Row]) -> None:
    if not rows:
        return
    rows = thin(rows, MAX_POINTS)
    stds = [f.value_std if math.isfinite(f.value_std) else 0.0 for _, f in rows]
    error = {"array": short(stds, digits=3), "thickness": 1, "width": 0}
    figure.add_scatter(
        x=short([value_of(trial) for trial, _ in rows]),
        y=short([forecast.value for _, forecast in rows]),
        error_y=error if symbol == "circle" else None,
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 8},
        name=name,
        text=[_words(trial, forecast) for trial, forecast in rows],
        hovertemplate="%{text}<extra></extra>",
    )


def _words(trial: FrozenTrial, forecast: Forecast) -> str:
    bar = "the best so far" if forecast.share is None else f"the best {forecast.share:.0%}"
    lines = [
        label(trial, forecast.step),
        f"predicted {forecast.value:.4g} ± {forecast.value_std:.2g}",
        f"chance of {bar} ({forecast.bar_value:.4g}): {forecast.chance:.1%}",
    ]
    verdict = decode_verdict(trial)
    if verdict is not None:
        lines.append(wrapped(verdict.sentence()))
    return "<br>".join(lines)
