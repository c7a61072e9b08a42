"""What pruning has saved, in steps, as `optuna_aelle.trials.cost` counts them."""

from __future__ import annotations

from itertools import accumulate

import optuna
import plotly.graph_objects as go

from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.cost import trained_steps
from optuna_aelle.visualization._style import ACCENT
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import trials_of


def plot_compute_saved(study: optuna.Study) -> go.Figure:
    """Draw the steps that ended trials took, and would have taken without pruning.

    Without pruning means: had every trial run as long as the longest. A trial has taken as many
    steps as its last reported step says; a trial pruned before it reported took none, and a
    finished one that never reported took them all.

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.

    Example:
        >>> plot_compute_saved(study).layout.title.text  # doctest: +SKIP
        'Compute saved by pruning: 61% of 1,200 steps'
    """
    title = "Compute saved by pruning"
    ended = [trial for trial in trials_of(study) if trial.state.is_finished()]
    ended.sort(key=lambda trial: trial.number)
    steps = trained_steps(ended)
    longest = max(steps, default=0)
    if longest == 0:
        return empty(title, "No trial that reported values has ended yet.")
    spent = list(accumulate(steps))
    # A network that goes on in another trial is trained whole once.
    full = list(accumulate(longest * (origin_of(trial) is None) for trial in ended))
    rows = thin(list(zip([trial.number for trial in ended], spent, full, strict=True)), MAX_POINTS)
    numbers, taken, needed = (list(column) for column in zip(*rows, strict=True))
    figure = go.Figure()
    for name, column, line, fill in (
        ("taken", taken, ACCENT, "tozeroy"),
        ("without pruning", needed, "#999999", "tonexty"),
    ):
        figure.add_scatter(
            x=numbers,
            y=column,
            mode="lines",
            line={"color": line, "width": 3},
            fill=fill,
            fillcolor="rgba(51, 99, 141, 0.25)" if fill == "tozeroy" else "rgba(81,197,106,0.15)",
            name=name,
            hovertemplate=f"after trial %{{x}}: %{{y}} steps {name}<extra></extra>",
        )
    title += f": {1 - spent[-1] / full[-1]:.0%} of {full[-1]:,} steps"
    return styled(figure, title, "trial", "steps so far")
