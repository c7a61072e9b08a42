"""Where AeLLE places the spectra of a study's trials, in two dimensions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.visualization._clusters import clusters_of
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import STOPPED
from optuna_aelle.visualization._style import UNSCORED
from optuna_aelle.visualization._style import color_axis
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import final_value
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._umap import umap_points

FloatArray = npt.NDArray[np.float64]

_EDGE = {"color": "white", "width": 1}
# Pruned trials are told apart from bad ones: what they would have come to is not known.
_LOOKS = (
    ("pruned", {"symbol": "x", "size": 8, "color": STOPPED, "opacity": 0.7}, TrialState.PRUNED),
    (
        "running",
        {"symbol": "circle-open", "size": 11, "color": UNSCORED, "line": {"width": 2}},
        TrialState.RUNNING,
    ),
    (
        "finished",
        {"symbol": "circle", "size": 11, "color": UNSCORED, "line": _EDGE},
        TrialState.COMPLETE,
    ),
)

# UMAP looks at 15 neighbours.
_LEAST_POINTS_FOR_UMAP = 15
# On a laptop UMAP compiles for some 15 seconds; a machine with little else to spare takes longer.
_PATIENCE = 120.0


def plot_latent_map(study: optuna.Study, random_state: int = 0) -> go.Figure:
    """Draw each trial's latest spectrum where AeLLE places it, in two dimensions.

    An `AeLLERegressor` is fitted to the latest spectra and the final values; its latent is reduced
    by UMAP, in a process of its own, or by PCA where umap-learn is not installed, takes more than
    two minutes, or fewer than 15 trials have a spectrum. Neighbours have similar spectra; axes
    have no unit. Colour is the value of those that finished; what was pruned is an orange cross,
    good or bad. Groups are named by what they share: a choice (the cell, as a rule), the size N of
    the state (middle half), the median value.

    Args:
        study: Any; of several objectives, colour is the first.
        random_state: Seed of AeLLE and of UMAP.

    Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876; McInnes, Healy and Melville,
    arXiv 1802.03426 (UMAP).

    Example:
        >>> plot_latent_map(study).show()  # doctest: +SKIP
    """
    return draw_latent_map(study, random_state, patience=_PATIENCE)


def draw_latent_map(
    study: optuna.Study, random_state: int = 0, *, patience: float = 0.0
) -> go.Figure:
    """As `plot_latent_map`, but PCA unless UMAP is ready within ``patience`` seconds."""
    title = "AeLLE latent space of the latest spectra"
    found = [
        (t, *list(s.items())[-1])
        for t in one_a_network(trials_of(study))
        if (s := decode_spectra(t))
    ]
    found = thin(found, MAX_POINTS)
    finals = np.array([final_value(trial) for trial, _, _ in found])
    n_finished = int(np.isfinite(finals).sum())
    if len(found) < 3 or n_finished == 0:
        return empty(
            title,
            "Needs spectra of three trials, one of them finished with a value; has "
            f"{len(found)}, {n_finished} finished.",
        )
    from optuna_aelle.aelle import AeLLERegressor

    exponents = np.stack([spectrum for _, _, spectrum in found])
    regressor = AeLLERegressor(random_state=random_state).fit(exponents, finals)
    points, method = _project(regressor.transform(exponents), random_state, patience)
    trials = [trial for trial, _, _ in found]
    figure = go.Figure(
        layout={
            "coloraxis": color_axis(study, [t for t in trials if math.isfinite(final_value(t))])
        }
    )
    for name, marker, state in _LOOKS:
        for scored in (True, False) if state == TrialState.COMPLETE else (False,):
            rows = [
                row
                for row, trial in enumerate(trials)
                if trial.state == state
                and (state != TrialState.COMPLETE or math.isfinite(finals[row]) == scored)
            ]
            if rows:
                scores = {"color": short(finals[rows], 4), "coloraxis": "coloraxis"}
                figure.add_scatter(
                    x=short(points[rows, 0], 4),
                    y=short(points[rows, 1], 4),
                    mode="markers",
                    marker=marker | (scores if scored else {}),
                    name=name if scored or state != TrialState.COMPLETE else f"{name}, no value",
                    text=[label(*found[row][:2]) for row in rows],
                    hovertemplate="%{text}<extra></extra>",
                )
    for cluster in clusters_of(points, trials):
        figure.add_annotation(
            x=short(cluster.center)[0],
            y=short(points[list(cluster.members), 1].max(keepdims=True))[0],
            text=cluster.name,
            showarrow=False,
            yshift=16,
            bgcolor="rgba(255, 255, 255, 0.85)",
            bordercolor="#999",
            borderpad=2,
            font={"size": 11},
        )
    return styled(figure, f"{title} ({method})", f"{method} 1", f"{method} 2")


def _project(latent: FloatArray, random_state: int, patience: float) -> tuple[FloatArray, str]:
    """Reduce latents ``(n, d)`` to ``(n, 2)`` and name the method."""
    if len(latent) >= _LEAST_POINTS_FOR_UMAP:
        points = umap_points(latent, random_state, patience)
        if points is not None:
            return points, "UMAP"
    left, size, _ = np.linalg.svd(latent - latent.mean(axis=0), full_matrices=False)
    return left[:, :2] * size[:2], "PCA"
