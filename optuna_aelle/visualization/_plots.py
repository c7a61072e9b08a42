"""Figures of a study: spectra, latent map, predictions, compute saved.

Exponents are in nats per step. *Value* is the final value of a finished trial and the last
reported one of a pruned trial; colour runs towards dark for better values, whether the study
minimises or maximises. Failed trials are left out. A figure without data says what it waits for.

Figures hold short Python lists, never numpy arrays: plotly writes arrays as base64, which costs
space and which older plotly.js does not read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from plotly.colors import sample_colorscale

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import Prediction
from optuna_aelle.trials.attributes import decode_predictions
from optuna_aelle.trials.attributes import decode_reason
from optuna_aelle.trials.attributes import decode_spectra

FloatArray = npt.NDArray[np.float64]
_T = TypeVar("_T")

# Viridis without its bright end, which is illegible as a thin line on white; worst to best.
_SCALE = ["#c2df23", "#51c56a", "#1f968b", "#33638d", "#440154"]
_UNSCORED = "#b5b5b5"
_ACCENT = "#33638d"
_GRID = "#e8e8e8"

# The same scale as in AeLLERegressor: linear up to about 0.1 nats per step, logarithmic beyond.
_SQUASH_SCALE = 0.1
_TICKS = (0.0, *(sign * m * 10.0**p for p in range(-4, 4) for m in (1, 3) for sign in (-1, 1)))

# The dashboard fetches every figure again and again: more marks cost more than they show.
_MAX_LINES = 100
_MAX_POINTS = 500
_MAX_STEPS = 6

_LEAST_POINTS_FOR_UMAP = 15
# Numba's default threading layer aborts the process if two threads enter it at once.
_umap_lock = threading.Lock()


def plot_spectra(study: optuna.Study) -> go.Figure:
    """Draw the spectra of all trials: exponent in nats per step against relative index.

    The latest spectrum of each trial is coloured by value, or grey without one; earlier spectra
    are thin and grey, the best trial is thick. Directions with exponent -inf are not drawn.
    The vertical axis is linear near 0 and logarithmic further out, asinh(exponent / 0.1).

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.
    """
    title = "Lyapunov spectra of the trials"
    found = [(t, spectra) for t in _trials(study) if (spectra := decode_spectra(t))]
    if not found:
        return _empty(title, "No spectra yet: report them with optuna_aelle.report_spectrum.")
    axis = _color_axis(study, [trial for trial, _ in found])
    # From unscored over worst to best: the best are drawn last, and thinning keeps the best one.
    found.sort(key=lambda pair: _goodness(study, pair[0]))
    latest = _thin([(trial, *list(spectra.items())[-1]) for trial, spectra in found], _MAX_LINES)
    earlier = _thin(
        [exponents for _, spectra in found for exponents in list(spectra.values())[:-1]],
        _MAX_LINES,
    )
    index = _short(np.linspace(0.0, 1.0, FINGERPRINT_LENGTH), digits=3)
    figure = go.Figure()
    if earlier:
        figure.add_scatter(
            x=[x for _ in earlier for x in [*index, None]],
            y=[y for exponents in earlier for y in [*_short(_squash(exponents)), None]],
            mode="lines",
            line={"color": "rgba(130, 130, 130, 0.25)", "width": 1},
            name="earlier steps",
            hoverinfo="skip",
        )
    for i, (trial, step, exponents) in enumerate(latest):
        best = i == len(latest) - 1 and math.isfinite(_final(trial))
        figure.add_scatter(
            x=index,
            y=_short(_squash(exponents)),
            text=_short(exponents, digits=3),
            mode="lines",
            line={"color": _color(axis, _value(trial)), "width": 4 if best else 1.5},
            name="best trial" if best else "latest of each trial",
            showlegend=best or i == 0,
            legendgroup="best" if best else "latest",
            hovertemplate=f"{_label(trial, step)}<br>exponent %{{text}}<extra></extra>",
        )
    if axis["cmin"] is not None:
        # Lines cannot carry a colour bar of their own.
        marker = {"color": [axis["cmin"]], "coloraxis": "coloraxis", "opacity": 0}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
        figure.update_layout(coloraxis=axis)
    _style(figure, title, "relative index of the exponent", "Lyapunov exponent (nats per step)")
    drawn = [y for trace in figure.data for y in trace.y if y is not None]
    positions, labels = _exponent_ticks(min(drawn, default=0.0), max(drawn, default=0.0))
    figure.update_yaxes(tickvals=positions, ticktext=labels, zerolinecolor="#666", zerolinewidth=1)
    return figure


def plot_latent_map(study: optuna.Study, random_state: int = 0) -> go.Figure:
    """Draw each trial's latest spectrum where AeLLE places it, in two dimensions.

    An `AeLLERegressor` is fitted to the latest spectra and the final values; its latent is reduced
    by UMAP, or by PCA where umap-learn is not installed or fewer than 15 trials have a spectrum.
    Neighbours have similar spectra; axes have no unit. Colour is the value, crosses were pruned.

    Args:
        study: A study with one objective.
        random_state: Seed of AeLLE and of UMAP.

    Raises:
        ValueError: The study is multi-objective.

    Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876; McInnes, Healy and Melville,
    arXiv 1802.03426 (UMAP).
    """
    title = "AeLLE latent space of the latest spectra"
    found = [(t, *list(s.items())[-1]) for t in _trials(study) if (s := decode_spectra(t))]
    found = _thin(found, _MAX_POINTS)
    finals = np.array([_final(trial) for trial, _, _ in found])
    if len(found) < 3 or not np.isfinite(finals).any():
        return _empty(title, "Needs spectra of three trials, one of them finished with a value.")
    from optuna_aelle.aelle import AeLLERegressor

    exponents = np.stack([spectrum for _, _, spectrum in found])
    regressor = AeLLERegressor(random_state=random_state).fit(exponents, finals)
    points, method = _project(regressor.transform(exponents), random_state)

    trials = [trial for trial, _, _ in found]
    axis = _color_axis(study, trials)
    figure = go.Figure(layout={"coloraxis": axis})
    for name, symbol, states in (
        ("running", "circle-open", (TrialState.RUNNING,)),
        ("pruned", "x", (TrialState.PRUNED,)),
        ("finished", "circle", (TrialState.COMPLETE,)),
    ):
        for scored in (False, True):
            rows = [
                row
                for row, trial in enumerate(trials)
                if trial.state in states and math.isfinite(_value(trial)) == scored
            ]
            if not rows:
                continue
            color: Any = _short([_value(trials[row]) for row in rows]) if scored else _UNSCORED
            figure.add_scatter(
                x=_short(points[rows, 0]),
                y=_short(points[rows, 1]),
                mode="markers",
                marker={
                    "color": color,
                    "coloraxis": "coloraxis" if scored else None,
                    "symbol": symbol,
                    "size": 9 if symbol == "x" else 11,
                    "line": {"color": "white", "width": 2 if "open" in symbol else 1},
                },
                name=name if scored or name == "running" else f"{name}, no value",
                text=[_label(*found[row][:2]) for row in rows],
                hovertemplate="%{text}<extra></extra>",
            )
    return _style(figure, f"{title} ({method})", f"{method} 1", f"{method} 2")


def plot_predictions(study: optuna.Study) -> go.Figure:
    """Draw predicted against actual final values, error bars of one standard deviation.

    Each step that predicted is a colour, and an entry of the legend to switch it off. Predictions
    of pruned trials are grey crosses at the value reached; what they would have come to is not
    known.

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.
    """
    title = "Predicted against actual final value"
    rows = [
        (trial, step, prediction)
        for trial in _trials(study)
        for step, prediction in decode_predictions(trial).items()
        if math.isfinite(_value(trial)) and math.isfinite(prediction.mean)
    ]
    if not rows:
        return _empty(title, "No predictions of ended trials yet: AeLLEPruner writes them.")
    finished = [row for row in rows if row[0].state == TrialState.COMPLETE]
    steps = sorted({step for _, step, _ in finished})
    shown = _thin(steps, _MAX_STEPS)
    colors = sample_colorscale(_SCALE[1:], np.linspace(1.0, 0.0, max(len(shown), 2)).tolist())
    everything = _short([x for trial, _, p in rows for x in (_value(trial), p.mean)])
    low, high = _robust_range(everything)
    margin = 0.05 * (high - low) or 0.5
    ends = _short([low - margin, high + margin])
    figure = go.Figure()
    line = {"color": "#666", "width": 1, "dash": "dash"}
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, name="exact", hoverinfo="skip", showlegend=False
    )
    pruned: dict[int, tuple[FrozenTrial, int, Prediction]] = {
        row[0].number: row for row in rows if row[0].state == TrialState.PRUNED
    }
    groups = [("pruned, at the value reached", _UNSCORED, "x", list(pruned.values()))]
    for step, color in zip(shown, colors, strict=False):
        of_step = [row for row in finished if row[1] == step]
        groups.append((_step_name(step), color, "circle", of_step))
    for name, color, symbol, members in groups:
        if not members:
            continue
        members = _thin(members, _MAX_POINTS)
        stds = [p.std if math.isfinite(p.std) else 0.0 for _, _, p in members]
        error = {"array": _short(stds, digits=3), "thickness": 1, "width": 0}
        figure.add_scatter(
            x=_short([_value(trial) for trial, _, _ in members]),
            y=_short([p.mean for _, _, p in members]),
            error_y=error if symbol == "circle" else None,
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 8},
            name=name,
            text=[_label(trial, step) + _reason(trial) for trial, step, _ in members],
            hovertemplate="%{text}<br>predicted %{y}<extra></extra>",
        )
    if finished:
        hits = sum(abs(p.mean - _value(trial)) <= p.std for trial, _, p in finished)
        title += f": {hits / len(finished):.0%} within one standard deviation"
    _style(figure, title, "final value", "predicted final value")
    # One entry a step: above the figure, they would run into the title.
    beside = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1.0, "yanchor": "top"}
    figure.update_layout(legend=beside)
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    return figure


def plot_compute_saved(study: optuna.Study) -> go.Figure:
    """Draw the steps that ended trials took, and would have taken without pruning.

    Without pruning means: had every trial run as long as the longest. A trial has taken as many
    steps as its last reported step says; a trial pruned before it reported took none, and a
    finished one that never reported took them all.

    Args:
        study: A study with one objective.

    Raises:
        ValueError: The study is multi-objective.
    """
    title = "Compute saved by pruning"
    ended = [trial for trial in _trials(study) if trial.state.is_finished()]
    steps = [step for trial in ended for step in trial.intermediate_values]
    if not steps:
        return _empty(title, "No trial that reported values has ended yet.")
    # Whoever counts from 0 has done one step when reporting step 0.
    first = 1 if min(steps) == 0 else 0
    longest = max(steps) + first
    spent = 0
    full = 0
    rows: list[tuple[int, int, int]] = []
    for trial in sorted(ended, key=lambda trial: trial.number):
        if trial.last_step is not None:
            spent += trial.last_step + first
        elif trial.state == TrialState.COMPLETE:
            spent += longest
        full += longest
        rows.append((trial.number, spent, full))
    rows = _thin(rows, _MAX_POINTS)
    numbers, taken, needed = (list(column) for column in zip(*rows, strict=True))
    figure = go.Figure()
    for name, column, color, fill in (
        ("taken", taken, _ACCENT, "tozeroy"),
        ("without pruning", needed, "#999999", "tonexty"),
    ):
        figure.add_scatter(
            x=numbers,
            y=column,
            mode="lines",
            line={"color": color, "width": 3},
            fill=fill,
            fillcolor="rgba(51, 99, 141, 0.25)" if fill == "tozeroy" else "rgba(81,197,106,0.15)",
            name=name,
            hovertemplate=f"after trial %{{x}}: %{{y}} steps {name}<extra></extra>",
        )
    title += f": {1 - spent / full:.0%} of {full:,} steps"
    return _style(figure, title, "trial", "steps so far")


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    if len(study.directions) > 1:
        raise ValueError(
            "Expected a study with one objective, but this is a multi-objective study with "
            f"{len(study.directions)} directions. Copy one objective into a study of its own."
        )
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return study.get_trials(deepcopy=False, states=states)


def _value(trial: FrozenTrial) -> float:
    """What a trial came to, NaN where there is nothing finite."""
    if trial.state == TrialState.RUNNING or trial.value is None:
        return math.nan
    return float(trial.value) if math.isfinite(trial.value) else math.nan


def _final(trial: FrozenTrial) -> float:
    return _value(trial) if trial.state == TrialState.COMPLETE else math.nan


def _goodness(study: optuna.Study, trial: FrozenTrial) -> tuple[bool, bool, float]:
    value = _value(trial)
    if math.isnan(value):
        return False, False, 0.0
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    return True, trial.state == TrialState.COMPLETE, sign * value


def _label(trial: FrozenTrial, step: int) -> str:
    words = [f"trial {trial.number}", trial.state.name.lower(), _step_name(step)]
    if math.isfinite(_value(trial)):
        words.append(f"value {_value(trial):.5g}")
    return ", ".join(words)


def _step_name(step: int) -> str:
    return "untrained" if step == UNTRAINED_STEP else f"step {step}"


def _reason(trial: FrozenTrial) -> str:
    reason = decode_reason(trial)
    return f"<br>{reason}" if reason else ""


def _project(latent: FloatArray, random_state: int) -> tuple[FloatArray, str]:
    """Reduce latents ``(n, d)`` to ``(n, 2)`` and name the method."""
    if len(latent) >= _LEAST_POINTS_FOR_UMAP:
        try:
            from umap import UMAP
        except ImportError:
            pass
        else:
            reducer = UMAP(
                n_neighbors=min(15, len(latent) - 1),
                init="pca",
                random_state=random_state,
                n_jobs=1,
            )
            with _umap_lock:
                return np.asarray(reducer.fit_transform(latent), dtype=np.float64), "UMAP"
    left, size, _ = np.linalg.svd(latent - latent.mean(axis=0), full_matrices=False)
    return left[:, :2] * size[:2], "PCA"


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
    return _short(kept), labels


def _color_axis(study: optuna.Study, trials: Iterable[FrozenTrial]) -> dict[str, Any]:
    values = [value for trial in trials if math.isfinite(value := _value(trial))]
    low, high = _short(_robust_range(values)) if values else (None, None)
    return {
        "colorscale": _SCALE,
        "reversescale": study.direction != StudyDirection.MAXIMIZE,
        "cmin": low,
        "cmax": high,
        "colorbar": {"title": {"text": "value"}, "thickness": 14, "outlinewidth": 0},
    }


def _color(axis: dict[str, Any], value: float) -> str:
    """The colour of ``value`` on a colour axis, for a line."""
    if math.isnan(value):
        return _UNSCORED
    span = axis["cmax"] - axis["cmin"]
    place = min(max((value - axis["cmin"]) / span, 0.0), 1.0) if span > 0 else 0.5
    return str(sample_colorscale(_SCALE, [1.0 - place if axis["reversescale"] else place])[0])


def _robust_range(values: Iterable[float]) -> list[float]:
    """From least to greatest, but never far beyond the middle nine tenths.

    One diverged training must not flatten the rest of a figure.
    """
    array = np.asarray(list(values), dtype=np.float64)
    low, high = np.percentile(array, [5, 95])
    return [max(array.min(), low - (high - low)), min(array.max(), high + (high - low))]


def _thin(items: Sequence[_T], most: int) -> list[_T]:
    """At most ``most`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _short(values: Iterable[float], digits: int = 5) -> list[Any]:
    """Values as a JSON list: few digits, None for what cannot be drawn."""
    return [float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in values]


def _style(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    figure.update_layout(
        # A named template would add 7 KB to each figure in the storage.
        template="none",
        title={"text": title, "font": {"size": 16}, "x": 0.02},
        font={"family": "Roboto, Helvetica, Arial, sans-serif", "size": 12, "color": "#333"},
        margin={"l": 75, "r": 20, "t": 80, "b": 55},
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        hovermode="closest",
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title=y, gridcolor=_GRID, zerolinecolor=_GRID)
    return figure


def _empty(title: str, message: str) -> go.Figure:
    figure = _style(go.Figure(), title, "", "")
    figure.add_annotation(
        text=message, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_size=14
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
