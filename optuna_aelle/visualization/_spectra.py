"""The spectra of a study's trials, one line each. Exponents are in nats per step."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.visualization._style import MAX_LINES
from optuna_aelle.visualization._style import color
from optuna_aelle.visualization._style import color_axis
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import final_value
from optuna_aelle.visualization._trials import goodness
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_of

FloatArray = npt.NDArray[np.float64]

# What the positions of a stored spectrum stand for, by the policy of `optuna_aelle.fingerprint`.
FINGERPRINT_AXIS = "relative index among all N exponents (0: the largest, 1: the smallest)"

# The same scale as in AeLLERegressor: linear up to about 0.1 nats per step, logarithmic beyond.
_SQUASH_SCALE = 0.1
_TICKS = (0.0, *(sign * m * 10.0**p for p in range(-4, 4) for m in (1, 3) for sign in (-1, 1)))


def plot_spectra(study: optuna.Study) -> go.Figure:
    """Draw the spectra of all trials: exponent in nats per step against its relative index.

    The latest spectrum of each trial is coloured by value, or grey without one; earlier spectra
    are thin and grey, the best trial is thick. Directions with exponent -inf are not drawn.
    The vertical axis is linear near 0 and logarithmic further out, asinh(exponent / 0.1).

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.

    Example:
        >>> plot_spectra(study).show()  # doctest: +SKIP
    """
    title = "Lyapunov spectra of the trials"
    found = [
        (t, spectra) for t in one_a_network(trials_of(study)) if (spectra := decode_spectra(t))
    ]
    if not found:
        return empty(title, "No spectra yet: report them with optuna_aelle.report_network.")
    axis = color_axis(study, [trial for trial, _ in found])
    # From unscored over worst to best: the best are drawn last, and thinning keeps the best one.
    found.sort(key=lambda pair: goodness(study, pair[0]))
    latest = thin([(trial, *list(spectra.items())[-1]) for trial, spectra in found], MAX_LINES)
    earlier = thin(
        [exponents for _, spectra in found for exponents in list(spectra.values())[:-1]],
        MAX_LINES,
    )
    index = short(np.linspace(0.0, 1.0, FINGERPRINT_LENGTH), digits=3)
    figure = go.Figure()
    if earlier:
        figure.add_scatter(
            x=[x for _ in earlier for x in [*index, None]],
            y=[y for exponents in earlier for y in [*short(_squash(exponents)), None]],
            mode="lines",
            line={"color": "rgba(130, 130, 130, 0.25)", "width": 1},
            name="earlier steps",
            hoverinfo="skip",
        )
    for i, (trial, step, exponents) in enumerate(latest):
        best = i == len(latest) - 1 and math.isfinite(final_value(trial))
        figure.add_scatter(
            x=index,
            y=short(_squash(exponents)),
            text=short(exponents, digits=3),
            mode="lines",
            line={"color": color(axis, value_of(trial)), "width": 4 if best else 1.5},
            name="best trial" if best else "latest of each trial",
            showlegend=best or i == 0,
            legendgroup="best" if best else "latest",
            hovertemplate=f"{label(trial, step)}<br>exponent %{{text}}<extra></extra>",
        )
    if axis["cmin"] is not None:
        # Lines cannot carry a colour bar of their own.
        marker = {"color": [axis["cmin"]], "coloraxis": "coloraxis", "opacity": 0}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
        figure.update_layout(coloraxis=axis)
    styled(figure, title, FINGERPRINT_AXIS, "Lyapunov exponent (nats per step)")
    drawn = [y for trace in figure.data for y in trace.y if y is not None]
    positions, labels = _exponent_ticks(min(drawn, default=0.0), max(drawn, default=0.0))
    figure.update_yaxes(tickvals=positions, ticktext=labels, zerolinecolor="#666", zerolinewidth=1)
    return figure


def _squash(exponents: FloatArray) -> FloatArray:
    return np.asarray(np.arcsinh(exponents / _SQUASH_SCALE))


def _exponent_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks for the squashed range ``[low, high]``, labelled in nats per step."""
    kept: list[float] = []
    for tick in sorted(_TICKS, key=abs):
        position = math.asinh(tick / _SQUASH_SCALE)
        apart = all(abs(position - other) > 0.06 * (high - low) for other in kept)
        if apart and (tick == 0.0 or low <= position <= high):
            kept.append(position)
    kept.sort()
    labels = [f"{math.sinh(p) * _SQUASH_SCALE:.3g}".replace("-", "\N{MINUS SIGN}") for p in kept]
    return short(kept), labels
