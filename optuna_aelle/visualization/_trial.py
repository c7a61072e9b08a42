"""One trial beside the best one: its spectrum, its curve, and where it was expected to end."""

from __future__ import annotations

import math

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_aelle.decisions.explanation import Explanation
from optuna_aelle.decisions.explanation import explain_trial
from optuna_aelle.decisions.explanation import moment
from optuna_aelle.decisions.trial_record import TrialRecord
from optuna_aelle.visualization._spectra import FINGERPRINT_AXIS
from optuna_aelle.visualization._spectra import exponent_axis
from optuna_aelle.visualization._spectra import squash
from optuna_aelle.visualization._style import ACCENT
from optuna_aelle.visualization._style import BEST
from optuna_aelle.visualization._style import STOPPED
from optuna_aelle.visualization._style import UNSCORED
from optuna_aelle.visualization._style import escaped
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._style import wrapped

# A curve of more points than the picture has is drawn as this many of them.
_MAX_REPORTS = 400


def plot_trial(study: optuna.Study, number: int, *, objective: int = 0) -> go.Figure:
    """Draw one trial beside the best finished one; its title says what became of it.

    On the left their latest spectra; on the right their curves, where the trial was expected to
    end (the central 80 %), and the bar that it was held against.

    Args:
        study: Its study.
        number: Of the trial.
        objective: Of a multi-objective study, the one whose curve is drawn; counted from 0.

    Raises:
        ValueError: The study has no such trial, or no such objective.

    Example:
        >>> plot_trial(study, 7).show()  # doctest: +SKIP
    """
    return draw_trial(explain_trial(study, number, objective=objective))


def draw_trial(explained: Explanation) -> go.Figure:
    """As `plot_trial`, of what has been gathered."""
    trial = explained.trial
    best = None if explained.is_best else explained.best
    figure = make_subplots(cols=2, horizontal_spacing=0.11)
    for record in (best, trial):
        if record is not None and record.spectrum:
            _add_spectrum(figure, record, is_own=record is trial)
    for record in (best, trial):
        if record is not None and record.curve:
            _add_curve(figure, record, is_own=record is trial)
    _add_forecast(figure, explained, best)
    value = "" if trial.value is None else f", value {trial.value:.5g}{explained.of_objective}"
    heading = f"<b>trial {trial.number}: {trial.state}{value}</b>"
    styled(figure, f"{heading}<br>{wrapped(escaped(explained.sentence, 400), 125)}", "", "")
    drawn = [y for trace in figure.data if trace.xaxis == "x" for y in trace.y if y is not None]
    figure.update_xaxes(title_text=FINGERPRINT_AXIS, range=[-0.02, 1.02], col=1)
    exponents = "Lyapunov exponent (nats per step)"
    figure.update_yaxes(title_text=exponents, **exponent_axis(drawn), col=1)
    figure.update_xaxes(title_text="step", col=2)
    figure.update_yaxes(title_text="reported value", col=2)
    if not trial.spectrum:
        _say(figure, "x", f"no spectrum of trial {trial.number} is stored")
    if not trial.curve:
        _say(figure, "x2", f"trial {trial.number} has reported nothing")
    return figure


def _add_spectrum(figure: go.Figure, record: TrialRecord, *, is_own: bool) -> None:
    exponents = np.array(record.spectrum)
    figure.add_scatter(
        x=short(np.linspace(0.0, 1.0, len(exponents)), digits=3),
        y=short(squash(exponents), digits=4),
        text=short(exponents, digits=3),
        name=_name(record, is_own=is_own),
        legendgroup=str(is_own),
        mode="lines+markers" if is_own else "lines",
        marker={"size": 5},
        line={"color": STOPPED if is_own else BEST, "width": 3},
        hovertemplate=f"trial {record.number}, {moment(record.spectrum_step)}<br>"
        "exponent %{text}<extra></extra>",
        row=1,
        col=1,
    )


def _add_curve(figure: go.Figure, record: TrialRecord, *, is_own: bool) -> None:
    reports = thin(list(record.curve.items()), _MAX_REPORTS)
    figure.add_scatter(
        x=[step for step, _ in reports],
        y=short([value for _, value in reports]),
        name=_name(record, is_own=is_own),
        legendgroup=str(is_own),
        # Its spectrum has the entry already, if there is one.
        showlegend=not record.spectrum,
        mode="lines+markers",
        marker={"size": 6 if is_own else 4},
        line={"color": STOPPED if is_own else BEST, "width": 3 if is_own else 2},
        hovertemplate=f"trial {record.number}, step %{{x}}: %{{y}}<extra></extra>",
        row=1,
        col=2,
    )


def _add_forecast(figure: go.Figure, explained: Explanation, best: TrialRecord | None) -> None:
    steps = [*explained.trial.curve, *(best.curve if best is not None else ())]
    last = max(steps, default=0)
    if explained.expected is not None:
        value, low, high = explained.expected
        figure.add_scatter(
            x=[last],
            y=short([value]),
            error_y={
                "array": short([high - value]),
                "arrayminus": short([value - low]),
                "color": ACCENT,
                "thickness": 3,
                "width": 8,
            },
            name=f"forecast, 80 % ({moment(explained.forecast_step)})",
            mode="markers",
            marker={"color": ACCENT, "size": 10, "symbol": "diamond"},
            hovertemplate=f"expected at the end: {value:.5g}<br>80 %: {low:.5g} to {high:.5g}"
            "<extra></extra>",
            row=1,
            col=2,
        )
    if explained.bar is not None and math.isfinite(explained.bar):
        figure.add_scatter(
            x=[min(steps, default=0), max(last, 1)],
            y=short([explained.bar] * 2),
            name=f"bar {explained.bar:.4g}",
            mode="lines",
            line={"color": UNSCORED, "width": 2, "dash": "dash"},
            hovertemplate=f"bar {explained.bar:.5g}<extra></extra>",
            row=1,
            col=2,
        )


def _say(figure: go.Figure, axis: str, what: str) -> None:
    figure.add_annotation(
        text=what,
        xref=f"{axis} domain",
        yref=f"{axis.replace('x', 'y')} domain",
        x=0.5,
        y=0.98,
        yanchor="top",
        showarrow=False,
        bgcolor="rgba(255, 255, 255, 0.8)",
        font={"size": 13, "color": "#777"},
    )


def _name(record: TrialRecord, *, is_own: bool) -> str:
    return f"trial {record.number}" if is_own else f"best, trial {record.number}"
