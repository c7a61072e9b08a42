"""What a replay found: training spent against what was missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]

_OURS = "#d81b60"
_FRONT = "#37474f"
_OTHERS = "#90a4ae"
_SIDES = ("top center", "bottom center")


def pareto_front(costs: npt.ArrayLike, losses: npt.ArrayLike) -> list[int]:
    """Which points no other one beats in both, from the cheapest to the dearest.

    Args:
        costs: ``(n,)``, less is better.
        losses: ``(n,)``, less is better.

    Example:
        >>> pareto_front([1.0, 2.0, 3.0], [0.5, 0.6, 0.1])
        [0, 2]
    """
    cost, loss = np.asarray(costs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    front: list[int] = []
    for i in np.lexsort((loss, cost)).tolist():
        if not front or loss[i] < loss[front[-1]]:
            front.append(i)
    return front


def plot_replay(frame: pd.DataFrame, *, title: str = "Replay") -> go.Figure:
    """Share of training spent against regret, one point a pruner, with the Pareto front.

    Args:
        frame: What `optuna_aelle.replay` returned.
        title: Of the figure.

    Example:
        >>> plot_replay(replay(recorded, pruners)).show()  # doctest: +SKIP
    """
    means = frame.groupby("pruner", sort=False)[["epochs_share", "regret"]].mean()
    errors = frame.groupby("pruner", sort=False)[["epochs_share", "regret"]].sem().fillna(0.0)
    cost, loss = means["epochs_share"].to_numpy(), means["regret"].to_numpy()
    names = [str(name) for name in means.index]
    front = pareto_front(cost, loss)
    highest = max(float(loss.max()), 1e-3)
    figure = go.Figure()
    figure.add_scatter(
        x=cost[front].tolist(),
        y=loss[front].tolist(),
        mode="lines",
        line={"color": _FRONT, "width": 1, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=cost.tolist(),
        y=loss.tolist(),
        mode="markers+text",
        text=names,
        # Neighbours along the axis get their labels on different sides.
        textposition=[_SIDES[place % len(_SIDES)] for place in np.argsort(np.argsort(cost))],
        marker={
            "size": 11,
            "color": [
                _OURS if name.startswith("AeLLE") else _FRONT if i in front else _OTHERS
                for i, name in enumerate(names)
            ],
        },
        error_x={"array": errors["epochs_share"].tolist(), "color": "#cfd8dc"},
        error_y={"array": errors["regret"].tolist(), "color": "#cfd8dc"},
        hovertemplate="%{text}<br>training %{x:.1%}<br>regret %{y:.4f}<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(
        template="none",
        legend={"x": 0.99, "y": 0.99, "xanchor": "right"},
        title=f"{title}: training spent and what was missed ({frame['repeat'].nunique()} orders)",
        xaxis={
            "title": {"text": "share of full training, the method's own cost included"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        yaxis={
            "title": {"text": "regret (0: the best there was, 1: the median)"},
            # Points at 0, and their labels below, must not lie on the edge.
            "range": [-0.1 * highest, 1.15 * highest],
        },
    )
    return figure
