"""The spectra of a study's trials, one line each. Exponents are in nats per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
from optuna_aelle.visualization._trials import best_numbers
from optuna_aelle.visualization._trials import goodness
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_of

FloatArray = npt.NDArray[np.float64]

# What the positions of a stored spectrum stand for, by the policy of `optuna_aelle.fingerprint`.
FINGERPRINT_AXIS = "relative index among all N exponents (0: largest)"

_MAX_EARLIER = 25

# The same scale as in AeLLERegressor: linear up to about 0.1 nats per step, logarithmic beyond.
_SQUASH_SCALE = 0.1
_TICKS = (0.0, *(sign * m * 10.0**p for p in range(-4, 4) for m in (1, 3) for sign in (-1, 1)))


def plot_spectra(study: optuna.Study) -> go.Figure:
    """Draw the spectra of all trials: exponent in nats per step against its relative index.

    The latest spectrum of each trial is coloured by value, or grey without one; earlier spectra
    are thin and grey, the best trial is thick, or the Pareto front where there are several
    objectives; colour is then the first one. Directions with exponent -inf are not drawn.
    The vertical axis is linear near 0 and logarithmic further out, asinh(exponent / 0.1).

    Args:
        study: Any.

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
    best = best_numbers(study, [trial for trial, _ in found])
    # From unscored over worst to best: the best are drawn last, and thinning keeps the best one.
    found.sort(key=lambda pair: (pair[0].number in best, *goodness(study, pair[0])))
    latest = thin([(trial, *list(spectra.items())[-1]) for trial, spectra in found], MAX_LINES)
    earlier = thin(
        [exponents for _, spectra in found for exponents in list(spectra.values())[:-1]],
        _MAX_EARLIER,
    )
    index = short(np.linspace(0.0, 1.0, FINGERPRINT_LENGTH), digits=3)
    figure = go.Figure()
    if earlier:
        figure.add_scatter(
            x=[x for _ in earlier for x in [*index, None]],
            y=[y for exponents in earlier for y in [*short(squash(exponents), 4), None]],
            mode="lines",
            line={"color": "rgba(130, 130, 130, 0.25)", "width": 1},
            name="earlier steps",
            hoverinfo="skip",
        )
    named: set[bool] = set()
    for trial, step, exponents in latest:
        is_best = trial.number in best
        name = "best trial" if len(study.directions) == 1 else "Pareto front"
        figure.add_scatter(
            x0=0,
            dx=float(f"{1.0 / (FINGERPRINT_LENGTH - 1):.5g}"),
            y=short(squash(exponents), digits=4),
            text=short(exponents, digits=3),
            mode="lines",
            line={"color": color(axis, value_of(trial)), "width": 4 if is_best else 1.5},
            name=name if is_best else "latest of each trial",
            showlegend=is_best not in named,
            legendgroup="best" if is_best else "latest",
            hovertemplate=f"{label(trial, step)}<br>exponent %{{text}}<extra></extra>",
        )
        named.add(is_best)
    if axis["cmin"] is not None:
        # Lines cannot carry a colour bar of their own.
        marker = {"color": [axis["cmin"]], "coloraxis": "coloraxis", "opacity": 0}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
        figure.update_layout(coloraxis=axis)
    if len(found) > len(latest):
        title += f" ({len(latest)} of {len(found)})"
    styled(figure, title, FINGERPRINT_AXIS, "Lyapunov exponent (nats per step)")
    drawn = [y for trace in figure.data for y in trace.y if y is not None]
    figure.update_yaxes(**exponent_axis(drawn))
    return figure


def exponent_axis(drawn: Sequence[float]) -> dict[str, Any]:
    """How an axis of squashed exponents is labelled, in nats per step."""
    positions, labels = _exponent_ticks(min(drawn, default=0.0), max(drawn, default=0.0))
    return {
        "tickvals": positions,
        "ticktext": labels,
        "zeroline": True,
        "zerolinecolor": "#666",
        "zerolinewidth": 1,
    }


def squash(exponents: FloatArray) -> FloatArray:
    """Exponents as they are drawn."""
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
