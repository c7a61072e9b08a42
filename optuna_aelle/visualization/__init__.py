"""Plotly figures of what spectra say about a study, and their way into optuna-dashboard."""

from __future__ import annotations

from optuna_aelle.visualization._compute import plot_compute_saved
from optuna_aelle.visualization._dashboard import DashboardCallback
from optuna_aelle.visualization._dashboard import save_dashboard_plots
from optuna_aelle.visualization._forecasts import plot_predictions
from optuna_aelle.visualization._latent_map import plot_latent_map
from optuna_aelle.visualization._race import plot_race
from optuna_aelle.visualization._replay import pareto_front
from optuna_aelle.visualization._replay import plot_replay
from optuna_aelle.visualization._resumed import plot_resumed
from optuna_aelle.visualization._spectra import plot_spectra
from optuna_aelle.visualization._trial import plot_trial

__all__ = [
    "DashboardCallback",
    "pareto_front",
    "plot_compute_saved",
    "plot_latent_map",
    "plot_predictions",
    "plot_race",
    "plot_replay",
    "plot_resumed",
    "plot_spectra",
    "plot_trial",
    "save_dashboard_plots",
]
