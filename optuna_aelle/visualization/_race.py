"""What a race found: regret against epochs spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    import pandas as pd

_PANELS = {
    "regret_final": "best network trained to its end",
    "regret_seen": "best score seen at any epoch",
}
_OURS = "#d81b60"
# None of them near ours.
_OTHERS = qualitative.Safe[:1] + qualitative.Safe[2:5] + qualitative.Safe[6:]


def plot_race(frame: pd.DataFrame, *, title: str = "Race") -> go.Figure:
    """Regret against epochs spent, one line an arm; of ours and the best other one with a band.

    The band is the standard error over repeats. An arm that has always raised has no line.

    Args:
        frame: What `optuna_aelle.race` returned.
        title: Of the figure.

    Example:
        >>> plot_race(race(recorded, arms, budget=81)).show()  # doctest: +SKIP
    """
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=list(_PANELS.values()))
    frame = frame.dropna(subset=list(_PANELS))
    last = frame[frame["epochs"] == frame["epochs"].max()]
    ends = last.groupby("arm", sort=False)[list(_PANELS)].mean().mean(axis=1)
    peers = [name for name in ends.index if not _is_ours(name)]
    # More bands than two hide each other.
    banded = {name for name in ends.index if _is_ours(name)} | set(ends[peers].nsmallest(1).index)
    for name, part in frame.groupby("arm", sort=False):
        shade = _OURS if _is_ours(name) else _OTHERS[peers.index(name) % len(_OTHERS)]
        for column, measure in enumerate(_PANELS, start=1):
            groups = part.groupby("epochs")[measure]
            mean, error = groups.mean(), groups.sem().fillna(0.0)
            epochs = mean.index.tolist()
            if name in banded:
                figure.add_scatter(
                    x=epochs + epochs[::-1],
                    y=(mean + error).tolist() + (mean - error).clip(0.0).tolist()[::-1],
                    fill="toself",
                    fillcolor=shade,
                    opacity=0.12,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=str(name),
                    row=1,
                    col=column,
                )
            figure.add_scatter(
                x=epochs,
                y=mean.tolist(),
                mode="lines",
                line={"color": shade, "width": 3 if shade == _OURS else 2},
                name=str(name),
                legendgroup=str(name),
                showlegend=column == 1,
                hovertemplate=f"{name}<br>%{{x:.0f}} epochs: %{{y:.3f}}<extra></extra>",
                row=1,
                col=column,
            )
    n_repeats = frame["repeat"].nunique()
    figure.update_layout(
        template="none",
        title=f"{title}: what is missed after so many epochs ({n_repeats} repeats)",
        legend={"orientation": "h", "y": -0.18},
        margin={"b": 120},
    )
    figure.update_xaxes(title_text="epochs spent, the method's own cost included")
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_yaxes(title_text="regret (0: the best there was, 1: the median)", col=1)
    return figure


def _is_ours(name: object) -> bool:
    return str(name).startswith("AeLLE")
