"""What pruning has saved, in steps, as `optuna_aelle.trials.cost` counts them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.pruners import MedianPruner
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.backtest.replay import replay_study
from optuna_aelle.trials.continuation import furthest
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.cost import first_step
from optuna_aelle.trials.cost import steps_until
from optuna_aelle.trials.cost import trained_steps
from optuna_aelle.trials.objectives import decode_values
from optuna_aelle.trials.table import RecordedTrials
from optuna_aelle.visualization._style import ACCENT
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import STOPPED
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import best_numbers
from optuna_aelle.visualization._trials import is_maximized
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_of

# Optuna's pruner goes through a whole curve at each step that it is asked at: of curves that are
# very long it is asked at some steps, the same of all trials, and at the last.
_MOST_ASKED = 30_000


def plot_compute_saved(study: optuna.Study) -> go.Figure:
    """Draw the steps that ended trials took, and would have taken otherwise.

    *Every trial to its end* means: had each network trained as long as the longest. A trial has
    taken as many steps as its last reported step says; a trial pruned before it reported took
    none, and a finished one that never reported took them all.

    *Optuna's default pruner* is its ``MedianPruner``, replayed over the same networks in the same
    order (`optuna_aelle.replay`). Of what was stopped here nobody knows how far it would have
    come there, so a band is drawn: from "no further than here" to "to its end". Of very long
    curves it is asked at some steps only, evenly spread. Optuna's default
    sampler would have started other networks; what those cost cannot be known from this study.

    Args:
        study: Any. With several objectives Optuna prunes nothing by default, and no band is drawn.

    Example:
        >>> plot_compute_saved(study).layout.title.text  # doctest: +SKIP
        "Compute: 467 of 1,200 steps (61% saved)<br>Optuna's default pruner, same networks: ..."
    """
    title = "Compute"
    ended = [trial for trial in trials_of(study) if trial.state.is_finished()]
    ended.sort(key=lambda trial: trial.number)
    steps = _steps(study, ended)
    longest = max(steps, default=0)
    if longest == 0:
        return empty(title, "No trial that reported values has ended yet.")
    numbers = [trial.number for trial in ended]
    # A network that goes on in another trial is trained whole once.
    whole = [longest * (origin_of(trial) is None) for trial in ended]
    columns = {"taken": steps, "every trial to its end": whole}
    default = _default_pruner(study, ended, longest)
    if default is not None:
        columns["least"], columns["most"] = default.least, default.most
    table = np.array([list(accumulate(column)) for column in columns.values()])
    kept = thin(range(len(numbers)), MAX_POINTS // 2)
    x = [numbers[i] for i in kept]
    drawn = {name: table[row, kept].tolist() for row, name in enumerate(columns)}
    figure = go.Figure()
    name = "Optuna's default pruner"
    if default is not None:
        _line(figure, x, drawn["least"], f"{name}, at least", STOPPED, width=1)
        _line(figure, x, drawn["most"], f"{name}, at most", STOPPED, width=1, fill="tonexty")
        figure.data[0].update(showlegend=False, legendgroup="default")
        figure.data[1].update(name=name, legendgroup="default")
    whole_name = "every trial to its end"
    _line(figure, x, drawn[whole_name], whole_name, "#999999", width=2, dash="dot")
    _line(figure, x, drawn["taken"], "taken", ACCENT, width=4)
    best = best_numbers(study, ended)
    spent, full = int(table[0, -1]), int(table[1, -1])
    title += f": {spent:,} of {full:,} steps ({1.0 - spent / full:.0%} saved)"
    if len(study.directions) == 1:
        title += "".join(f"; best {value_of(t):.4g}" for t in ended if t.number in best)
    if default is not None:
        title += (
            f"<br>{name}, same networks: {int(table[2, -1]):,} to {int(table[3, -1]):,}; "
            f"{default.kept}"
        )
    return styled(figure, title, "trial", "steps so far")


def _line(
    figure: go.Figure,
    x: list[int],
    y: list[float],
    name: str,
    color: str,
    *,
    width: int,
    dash: str | None = None,
    fill: str | None = None,
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": color, "width": width, "dash": dash},
        fill=fill,
        fillcolor="rgba(232, 116, 59, 0.18)" if fill else None,
        name=name,
        hovertemplate=f"after trial %{{x}}: %{{y:,}} steps<extra>{name}</extra>",
    )


def _steps(study: optuna.Study, ended: Sequence[FrozenTrial]) -> list[int]:
    if len(study.directions) == 1:
        return trained_steps(ended)
    # Optuna takes no reports of several objectives; `optuna_aelle.should_prune` does.
    reported = [decode_values(trial) for trial in ended]
    first = int(not any(0 in values for values in reported))
    steps = [steps_until(max(values, default=None), first) for values in reported]
    longest = max(steps, default=0)
    return [
        longest if trial.state == TrialState.COMPLETE and n == 0 else n
        for trial, n in zip(ended, steps, strict=True)
    ]


@dataclass(frozen=True)
class _Default:
    """What Optuna's default pruner makes of a study's networks.

    Attributes:
        least: Steps of each trial, if what was stopped here goes no further there.
        most: The same, if it goes on to its end.
        kept: The best that it lets run to its end, in words.
    """

    least: list[int]
    most: list[int]
    kept: str


def _default_pruner(
    study: optuna.Study, ended: Sequence[FrozenTrial], longest: int
) -> _Default | None:
    """What Optuna's default pruner makes of the same networks; None where nothing can be said."""
    whole = [t for t in one_a_network(ended) if _is_replayable(t)]
    if len(study.directions) > 1 or not any(t.state == TrialState.COMPLETE for t in whole):
        return None
    reported = sorted({step for trial in whole for step in trial.intermediate_values})
    asked = set(thin(reported, max(_MOST_ASKED // len(whole), 2)))
    networks = [_bare(trial, asked) for trial in whole]
    recorded = RecordedTrials(
        name=study.study_name,
        direction="maximize" if is_maximized(study) else "minimize",
        trials=tuple(networks),
        step_seconds=np.full(len(networks), math.nan),
    )
    pruner = _RememberingMedianPruner()
    replayed = replay_study(recorded, pruner, list(range(len(networks))))
    bounds = {}
    for position, (network, steps) in enumerate(zip(networks, replayed.steps, strict=True)):
        is_cut = network.state == TrialState.PRUNED and position not in pruner.stopped
        bounds[network.number] = steps, longest if is_cut else steps
    # Of what reported nothing here: no pruner stops it before its first report.
    at_first = steps_until(min(min(t.intermediate_values) for t in networks), first_step(ended))
    last = furthest(ended)
    for trial in ended:
        network = last[trial.number]
        least = at_first if network.state == TrialState.PRUNED else longest
        bounds.setdefault(network.number, (least, longest))
    each = [
        (0, 0) if origin_of(trial) is not None else bounds[last[trial.number].number]
        for trial in ended
    ]
    finals = [
        value_of(network)
        for position, network in enumerate(networks)
        if network.state == TrialState.COMPLETE and position not in pruner.stopped
    ]
    best = max(finals) if is_maximized(study) else min(finals)
    return _Default(
        [least for least, _ in each],
        [most for _, most in each],
        f"best kept {best:.4g}",
    )


class _RememberingMedianPruner(MedianPruner):
    """Optuna's default, which remembers whom it has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped: set[int] = set()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        stops = super().prune(study, trial)
        if stops:
            self.stopped.add(trial.number)
        return stops


def _bare(trial: FrozenTrial, asked: set[int]) -> FrozenTrial:
    """What a pruner looks at: parameters, which Optuna would check again, are left out."""
    bare = copy.copy(trial)
    bare.params, bare.distributions = {}, {}
    curve, last = trial.intermediate_values.items(), trial.last_step
    bare.intermediate_values = {s: x for s, x in curve if s in asked or s == last}
    return bare


def _is_replayable(trial: FrozenTrial) -> bool:
    """Whether it has reported something that a pruner could stop it by."""
    ended = trial.state == TrialState.PRUNED or math.isfinite(value_of(trial))
    return ended and bool(trial.intermediate_values)
