"""Where AeLLE places the spectra of a study's trials, in two dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.visualization._style import MAX_POINTS
from optuna_aelle.visualization._style import UNSCORED
from optuna_aelle.visualization._style import color_axis
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import short
from optuna_aelle.visualization._style import styled
from optuna_aelle.visualization._style import thin
from optuna_aelle.visualization._trials import final_value
from optuna_aelle.visualization._trials import label
from optuna_aelle.visualization._trials import trials_of
from optuna_aelle.visualization._trials import value_of
from optuna_aelle.visualization._umap import umap_points

FloatArray = npt.NDArray[np.float64]

# UMAP looks at 15 neighbours.
_LEAST_POINTS_FOR_UMAP = 15
# On a laptop UMAP compiles for some 15 seconds; a machine with little else to spare takes longer.
_PATIENCE = 120.0


def plot_latent_map(study: optuna.Study, random_state: int = 0) -> go.Figure:
    """Draw each trial's latest spectrum where AeLLE places it, in two dimensions.

    An `AeLLERegressor` is fitted to the latest spectra and the final values; its latent is reduced
    by UMAP, in a process of its own, or by PCA where umap-learn is not installed, takes more than
    two minutes, or fewer than 15 trials have a spectrum. Neighbours have similar spectra; axes
    have no unit. Colour is the value, crosses were pruned.

    Args:
        study: A study with one objective.
        random_state: Seed of AeLLE and of UMAP.

    Raises:
        ValueError: The study is multi-objective.

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
    if len(found) < 3 or not np.isfinite(finals).any():
        return empty(title, "Needs spectra of three trials, one of them finished with a value.")
    from optuna_aelle.aelle import AeLLERegressor

    exponents = np.stack([spectrum for _, _, spectrum in found])
    regressor = AeLLERegressor(random_state=random_state).fit(exponents, finals)
    points, method = _project(regressor.transform(exponents), random_state, patience)

    trials = [trial for trial, _, _ in found]
    axis = color_axis(study, trials)
    figure = go.Figure(layout={"coloraxis": axis})
    for name, symbol, state in (
        ("running", "circle-open", TrialState.RUNNING),
        ("pruned", "x", TrialState.PRUNED),
        ("finished", "circle", TrialState.COMPLETE),
    ):
        for scored in (False, True):
            rows = [
                row
                for row, trial in enumerate(trials)
                if trial.state == state and math.isfinite(value_of(trial)) == scored
            ]
            if not rows:
                continue
            color: Any = short([value_of(trials[row]) for row in rows]) if scored else UNSCORED
            figure.add_scatter(
                x=short(points[rows, 0]),
                y=short(points[rows, 1]),
                mode="markers",
                marker={
                    "color": color,
                    "coloraxis": "coloraxis" if scored else None,
                    "symbol": symbol,
                    "size": 9 if symbol == "x" else 11,
                    "line": {"color": "white", "width": 2 if "open" in symbol else 1},
                },
                name=name if scored or name == "running" else f"{name}, no value",
                text=[label(*found[row][:2]) for row in rows],
                hovertemplate="%{text}<extra></extra>",
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
