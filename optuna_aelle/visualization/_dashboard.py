"""Figures into optuna-dashboard, which shows them on the page of the study."""

from __future__ import annotations

import threading
import time

import optuna
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.visualization._latent_map import plot_latent_map
from optuna_aelle.visualization._panels import PANELS
from optuna_aelle.visualization._panels import draw
from optuna_aelle.visualization._panels import keep
from optuna_aelle.visualization._refresher import refresher
from optuna_aelle.visualization._trial_note import MOST_NOTES


def save_dashboard_plots(study: optuna.Study) -> list[str]:
    """Save all figures of this package in the study, replacing those saved before.

    The study's note says how to read them, and notes on the pages of ended trials, up to 300, say
    what became of each; what else stands there is left as it is. The first call waits until UMAP
    has compiled, some 15 seconds and two minutes at most; then it draws PCA.

    Returns:
        The graph object ids. ``optuna-dashboard STORAGE`` shows them on the study's first page.

    Args:
        study: Any. Of several objectives, values are those of the first.

    Raises:
        ImportError: optuna-dashboard is not installed.

    Example:
        >>> save_dashboard_plots(study)  # then: optuna-dashboard STORAGE  # doctest: +SKIP
    """
    try:
        import optuna_dashboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "save_dashboard_plots needs optuna-dashboard, which cannot be imported. "
            "Run: pip install optuna-aelle[dashboard]"
        ) from error
    drawn = draw(study, latent_map=plot_latent_map, most_notes=MOST_NOTES, show_progress=True)
    keep(study, drawn, even_if_older=True)
    return list(PANELS)


class DashboardCallback:
    """Keep the figures in the dashboard fresh: ``study.optimize(..., callbacks=[...])``.

    The figures lag behind by up to ``every_n_trials`` trials; call `save_dashboard_plots` when the
    study is done. They are drawn in a process of their own, which ends with this one, or when it
    has had nothing to do for a while; the training goes on meanwhile. Until UMAP has compiled, in
    yet another process, PCA is drawn. Several processes of one study may each have the callback.
    Whatever goes wrong is warned about once, and the study goes on.

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
        self._lock = threading.Lock()
        self._n_waiting = 0
        self._is_refreshing = False
        self._not_before = 0.0

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Ask for fresh figures if it is time to; returns at once."""
        with self._lock:
            self._n_waiting += 1
            too_soon = self._n_waiting < self._every_n_trials
            if too_soon or self._is_refreshing or time.monotonic() < self._not_before:
                return
            self._n_waiting = 0
            self._is_refreshing = True
        try:
            refresher().ask(study, self._ended)
        except Exception as error:  # pictures must not stop a study
            self._ended(error)

    def _ended(self, error: Exception | None) -> None:
        with self._lock:
            self._is_refreshing = False
            # Counted from the end, so that slow figures cannot take up all the time.
            self._not_before = time.monotonic() + self._min_seconds
        if error is not None:
            warn_once(
                "dashboard plots failed",
                f"The dashboard's plots could not be refreshed ({type(error).__name__}: {error}); "
                "the study goes on.",
                error,
            )
