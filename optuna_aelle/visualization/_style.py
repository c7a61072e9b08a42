"""What all figures share: colours, axes, and how much one figure may hold.

Colour runs towards dark for better values, whether the study minimises or maximises. Figures hold
short Python lists, never numpy arrays: plotly writes arrays as base64, which costs space and which
older plotly.js does not read. Whatever comes from a study, names and choices of parameters above
all, is escaped: plotly takes some tags of HTML for its own.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.colors import sample_colorscale

from optuna_aelle.decisions.text_pictures import printable
from optuna_aelle.visualization._trials import is_maximized
from optuna_aelle.visualization._trials import value_name
from optuna_aelle.visualization._trials import value_of

_T = TypeVar("_T")

# Viridis without its bright end, which is illegible as a thin line on white; worst to best.
SCALE = ["#c2df23", "#51c56a", "#1f968b", "#33638d", "#440154"]
UNSCORED = "#b5b5b5"
ACCENT = "#33638d"
BEST = SCALE[-1]
# Stopped, or the one in question: no colour of the scale, which stands for values.
STOPPED = "#e8743b"
_GRID = "#e8e8e8"

# The dashboard fetches every figure again and again, and MySQL takes no more than 64 KB at once,
# so that a figure is written whole or not at all.
MAX_LINES = 40
MAX_POINTS = 300
# Of a legend, in a panel of the dashboard, that stand in one line.
_MOST_ENTRIES = 5


def color_axis(study: optuna.Study, trials: Iterable[FrozenTrial]) -> dict[str, Any]:
    """A plotly colour axis over the values of ``trials``."""
    values = [value for trial in trials if math.isfinite(value := value_of(trial))]
    low, high = short(robust_range(values)) if values else (None, None)
    return {
        "colorscale": SCALE,
        "reversescale": not is_maximized(study),
        "cmin": low,
        "cmax": high,
        "colorbar": {
            "title": {"text": escaped(value_name(study), 20)},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def color(axis: dict[str, Any], value: float) -> str:
    """The colour of ``value`` on a colour axis, for a line."""
    if math.isnan(value):
        return UNSCORED
    span = axis["cmax"] - axis["cmin"]
    place = min(max((value - axis["cmin"]) / span, 0.0), 1.0) if span > 0 else 0.5
    return str(sample_colorscale(SCALE, [1.0 - place if axis["reversescale"] else place])[0])


def robust_range(values: Iterable[float]) -> list[float]:
    """From least to greatest, but never far beyond the middle nine tenths.

    One diverged training must not flatten the rest of a figure.
    """
    array = np.asarray(list(values), dtype=np.float64)
    low, high = np.percentile(array, [5, 95])
    return [max(array.min(), low - (high - low)), min(array.max(), high + (high - low))]


def thin(items: Sequence[_T], most: int) -> list[_T]:
    """At most ``most`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def short(values: Iterable[float], digits: int = 5) -> list[Any]:
    """Values as a JSON list: few digits, None for what cannot be drawn."""
    return [float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in values]


def escaped(text: object, most: int = 60) -> str:
    """Text of others, as plotly shows it literally, and not too much of it."""
    return html.escape(printable(text, most), quote=False)


def wrapped(text: str, width: int = 80) -> str:
    """Text in lines of at most ``width`` characters, as plotly breaks them."""
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, width)]
    return "<br>".join(lines)


def styled(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    """The figure, its traces in place, with its title and the names of its axes."""
    n_lines = title.count("<br>")
    entries = sum(trace.showlegend is not False for trace in figure.data)
    # A legend that takes two lines grows towards the title.
    top = 70 + 20 * n_lines + 20 * (entries > _MOST_ENTRIES)
    figure.update_layout(
        # A named template would add 7 KB to each figure in the storage.
        template="none",
        title={
            "text": title,
            "font": {"size": 15},
            "x": 0.02,
            "y": 1.0,
            "yanchor": "top",
            # plotly places the second line of several at the top.
            "pad": {"t": 26 if n_lines else 14},
        },
        font={"family": "Roboto, Helvetica, Arial, sans-serif", "size": 12, "color": "#333"},
        margin={"l": 70, "r": 20, "t": top, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        hovermode="closest",
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title={"text": y, "standoff": 8}, gridcolor=_GRID, zerolinecolor=_GRID)
    return figure


def empty(title: str, message: str) -> go.Figure:
    """A figure without data that says what it waits for."""
    figure = styled(go.Figure(), title, "", "")
    figure.add_annotation(
        text=wrapped(message, 70),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font_size=14,
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
