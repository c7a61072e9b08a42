"""Who was resumed: networks that were stopped and went on in another trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.trial_record import record_of
from optuna_aelle.trials.continuation import continuations
from optuna_aelle.trials.continuation import inherited_step
from optuna_aelle.trials.continuation import planned_epochs
from optuna_aelle.visualization._style import UNSCORED
from optuna_aelle.visualization._style import color
from optuna_aelle.visualization._style import color_axis
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import escaped
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import best_numbers
from optuna_aelle.visualization._trials import goodness
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_name
from optuna_aelle.visualization._trials import value_of

_MAX_NETWORKS = 20
_MAX_OTHERS = 40
_MAX_REPORTS = 60


def plot_resumed(study: optuna.Study) -> go.Figure:
    """Draw the curves of the networks that were stopped and went on, and where they paused.

    One line a network, coloured by what it came to, with a gap-free curve over all trials that
    trained it; a diamond marks each stop. All other trials lie grey in the background.

    Args:
        study: Any; of several objectives, the first is drawn.

    Example:
        >>> plot_resumed(study).show()  # doctest: +SKIP
    """
    title = "Stopped networks that went on"
    trials = trials_of(study)
    by_number = {trial.number: trial for trial in trials}
    # Only onwards: attributes damaged by hand could lead round in circles.
    further = {a: b for a, b in continuations(trials).items() if a < b and a in by_number}
    later = {*further.values()}
    chains = [_chain(by_number[a], further, by_number) for a in further if a not in later]
    if not chains:
        return empty(title, _why_nothing(trials))
    best = best_numbers(study, trials)
    chains.sort(key=lambda chain: (chain[-1].number in best, *goodness(study, chain[-1])))
    members = {trial.number for chain in chains for trial in chain}
    figure = go.Figure()
    others = [record_of(t).curve for t in trials if t.number not in members]
    _add_others(figure, [curve for curve in others if len(curve) > 1])
    axis = color_axis(study, [chain[-1] for chain in chains])
    for chain in thin(chains, _MAX_NETWORKS):
        _add_network(figure, axis, chain, is_best=chain[-1].number in best)
    n_stopped = sum(t.state == TrialState.PRUNED for t in trials if t.number not in members)
    title += f": {len(chains)} of {n_stopped + len(chains)}"
    if any(chain[-1].number in best for chain in chains):
        title += ", the best among them" if len(study.directions) == 1 else ", some on the front"
    if axis["cmin"] is not None:
        marker = {"color": [axis["cmin"]], "coloraxis": "coloraxis", "opacity": 0}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
        figure.update_layout(coloraxis=axis)
    return styled(figure, title, "step", f"reported {escaped(value_name(study))}")


def _chain(
    trial: FrozenTrial, further: dict[int, int], by_number: dict[int, FrozenTrial]
) -> list[FrozenTrial]:
    """The trials of one network, in the order in which they trained it."""
    chain = [trial]
    while chain[-1].number in further:
        chain.append(by_number[further[chain[-1].number]])
    return chain


def _add_others(figure: go.Figure, curves: list[Mapping[int, float]]) -> None:
    drawn = [thin(list(curve.items()), _MAX_REPORTS // 2) for curve in thin(curves, _MAX_OTHERS)]
    if drawn:
        figure.add_scatter(
            x=[x for points in drawn for x in [*(step for step, _ in points), None]],
            y=[y for points in drawn for y in [*short([v for _, v in points], 4), None]],
            mode="lines",
            line={"color": UNSCORED, "width": 1},
            opacity=0.5,
            name="other trials",
            hoverinfo="skip",
        )


def _add_network(
    figure: go.Figure, axis: dict[str, Any], chain: list[FrozenTrial], *, is_best: bool
) -> None:
    curve: dict[int, float] = {}
    for trial in chain:
        curve |= record_of(trial).curve
    points = thin(sorted(curve.items()), _MAX_REPORTS)
    last = chain[-1]
    drawn_in = color(axis, value_of(last))
    numbers = " → ".join(str(trial.number) for trial in chain)
    name = f"trials {numbers}, {last.state.name.lower()}"
    if math.isfinite(value_of(last)):
        name += f", {value_of(last):.5g}"
    group = "best" if is_best else "others"
    named = {trace.legendgroup for trace in figure.data}
    figure.add_scatter(
        x=[step for step, _ in points],
        y=short([value for _, value in points]),
        mode="lines",
        line={"color": drawn_in, "width": 4 if is_best else 2},
        name="went on, the best" if is_best else "went on",
        legendgroup=group,
        showlegend=group not in named,
        hovertemplate=f"{name}<br>step %{{x}}: %{{y}}<extra></extra>",
    )
    stops = [step for t in chain[1:] if (step := inherited_step(t)) is not None and step in curve]
    figure.add_scatter(
        x=stops,
        y=short([curve[step] for step in stops]),
        mode="markers",
        marker={
            "color": drawn_in,
            "symbol": "diamond",
            "size": 11,
            "line": {"color": "white", "width": 1},
        },
        name="stopped here, and went on later",
        legendgroup="stops",
        showlegend="stops" not in named,
        hovertemplate=f"{name}<br>stopped after step %{{x}} at %{{y}}<extra></extra>",
    )


def _why_nothing(trials: list[FrozenTrial]) -> str:
    n_pruned = sum(t.state == TrialState.PRUNED for t in trials)
    if n_pruned == 0:
        return "No trial has been stopped yet: there is nothing to resume."
    if not any(planned_epochs(t) is not None for t in trials):
        return (
            f"None of the {n_pruned} stopped trials can go on: no network is saved. "
            "optuna_aelle.Checkpoints saves them, and its resume_promising lets them go on."
        )
    return f"None of the {n_pruned} stopped trials has gone on yet: new ones promised more."
