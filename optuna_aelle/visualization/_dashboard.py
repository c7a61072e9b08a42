"""Figures into optuna-dashboard, which shows them on the page of the study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.visualization._compute import plot_compute_saved
from optuna_aelle.visualization._forecasts import plot_predictions
from optuna_aelle.visualization._latent_map import draw_latent_map
from optuna_aelle.visualization._latent_map import plot_latent_map
from optuna_aelle.visualization._note import update_note
from optuna_aelle.visualization._spectra import plot_spectra


def save_dashboard_plots(study: optuna.Study) -> list[str]:
    """Save all figures of this package in the study, replacing those saved before.

    The study's note says how to read them; what else stands there is left as it is. The first call
    waits until UMAP has compiled, some 15 seconds and two minutes at most; then it draws PCA.

    Returns:
        The graph object ids. ``optuna-dashboard STORAGE`` shows them on the study's first page.

    Args:
        study: A study with one objective.

    Raises:
        ImportError: optuna-dashboard is not installed.
        ValueError: The study is multi-objective.

    Example:
        >>> save_dashboard_plots(study)  # then: optuna-dashboard STORAGE  # doctest: +SKIP
    """
    return _save(study, plot_latent_map)


def _save(
    study: optuna.Study, latent_map: Callable[[optuna.Study], go.Figure] = draw_latent_map
) -> list[str]:
    """As `save_dashboard_plots`; by default, without waiting for UMAP."""
    try:
        from optuna_dashboard import save_plotly_graph_object
    except ImportError as error:
        raise ImportError(
            "save_dashboard_plots needs optuna-dashboard, which cannot be imported. "
            "Run: pip install optuna-aelle[dashboard]"
        ) from error
    # No colons: the dashboard splits at them, and ids "a" and "a:b" together are a server error.
    plots = {
        "aelle-spectra": plot_spectra,
        "aelle-latent-map": latent_map,
        "aelle-predictions": plot_predictions,
        "aelle-compute-saved": plot_compute_saved,
    }
    saved = [
        save_plotly_graph_object(study, plot(study), graph_object_id=graph_object_id)
        for graph_object_id, plot in plots.items()
    ]
    update_note(study)
    return saved


class DashboardCallback:
    """Keep the figures in the dashboard fresh: ``study.optimize(..., callbacks=[...])``.

    The figures lag behind by up to ``every_n_trials`` trials; call `save_dashboard_plots` when the
    study is done. The thread that refreshes waits for it, about a second. Until UMAP has compiled
    in a process of its own, PCA is drawn. With several processes, give the callback to one of
    them. Whatever goes wrong is warned about once, and the study goes on.

    Args:
        every_n_trials: Trials, however they ended, between two refreshes and before the first.
        min_seconds: Least time between two refreshes.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> study.optimize(objective, callbacks=[DashboardCallback()])  # doctest: +SKIP
    """

    def __init__(self, every_n_trials: int = 5, min_seconds: float = 30.0) -> None:
        if every_n_trials < 1:
            raise ValueError(f"every_n_trials must be at least 1, but got {every_n_trials}.")
        if not min_seconds >= 0.0:
            raise ValueError(f"min_seconds must be nonnegative, but got {min_seconds}.")
        self._every_n_trials = every_n_trials
        self._min_seconds = min_seconds
        self._counting = threading.Lock()
        self._saving = threading.Lock()
        self._n_waiting = 0
        self._not_before = 0.0

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Refresh the figures if it is time to."""
        with self._counting:
            self._n_waiting += 1
        # Other threads of the study train on while one of them draws.
        if not self._saving.acquire(blocking=False):
            return
        try:
            if self._n_waiting < self._every_n_trials or time.monotonic() < self._not_before:
                return
            with self._counting:
                self._n_waiting = 0
            try:
                _save(study)
            finally:
                # Counted from the end, so that slow figures cannot take up all the time.
                self._not_before = time.monotonic() + self._min_seconds
        except Exception as error:  # pictures must not stop a study
            warn_once(
                f"dashboard plots failed:{type(error).__name__}",
                f"The dashboard's plots could not be refreshed after trial {trial.number} "
                f"({type(error).__name__}: {error}); the study goes on.",
            )
        finally:
            self._saving.release()
