"""Prune and sample Optuna trials of recurrent networks by their early Lyapunov spectra.

Everything below loads when first used, so that ``import optuna_aelle`` is light and
``optuna_aelle.lyapunov`` works where Optuna is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_aelle import integration as integration
    from optuna_aelle import lyapunov as lyapunov
    from optuna_aelle import visualization as visualization
    from optuna_aelle._warnings import AeLLEWarning as AeLLEWarning
    from optuna_aelle.aelle import AeLLERegressor as AeLLERegressor
    from optuna_aelle.backtest.race import race as race
    from optuna_aelle.backtest.replay import replay as replay
    from optuna_aelle.decisions.checkpoints import Checkpoints as Checkpoints
    from optuna_aelle.decisions.explanation import explain_trial as explain_trial
    from optuna_aelle.decisions.multi_objective import should_prune as should_prune
    from optuna_aelle.decisions.pruner import AeLLEPruner as AeLLEPruner
    from optuna_aelle.decisions.sampler import AeLLESampler as AeLLESampler
    from optuna_aelle.lyapunov import LyapunovSpectrum as LyapunovSpectrum
    from optuna_aelle.lyapunov import cells as cells
    from optuna_aelle.lyapunov import from_log_rates as from_log_rates
    from optuna_aelle.lyapunov import from_step as from_step
    from optuna_aelle.lyapunov import layers_of as layers_of
    from optuna_aelle.lyapunov import lyapunov_spectra as lyapunov_spectra
    from optuna_aelle.lyapunov import lyapunov_spectrum as lyapunov_spectrum
    from optuna_aelle.lyapunov import register_cell as register_cell
    from optuna_aelle.lyapunov import register_layers as register_layers
    from optuna_aelle.lyapunov import spectral_fingerprint as spectral_fingerprint
    from optuna_aelle.lyapunov import spectral_fingerprints as spectral_fingerprints
    from optuna_aelle.lyapunov import systems as systems
    from optuna_aelle.prediction.predictor import PerformancePredictor as PerformancePredictor
    from optuna_aelle.prediction.prior import Prior as Prior
    from optuna_aelle.trials.attributes import decode_spectra as decode_spectra
    from optuna_aelle.trials.attributes import encode_spectrum as encode_spectrum
    from optuna_aelle.trials.attributes import report_spectrum as report_spectrum
    from optuna_aelle.trials.objectives import decode_values as decode_values
    from optuna_aelle.trials.patience import PatientStorage as PatientStorage
    from optuna_aelle.trials.reporting import report_network as report_network
    from optuna_aelle.trials.table import RecordedTrials as RecordedTrials
    from optuna_aelle.visualization import DashboardCallback as DashboardCallback
    from optuna_aelle.visualization import save_dashboard_plots as save_dashboard_plots

__version__ = "0.1.0"

_HOME = {
    "AeLLEPruner": "optuna_aelle.decisions.pruner",
    "AeLLERegressor": "optuna_aelle.aelle",
    "AeLLESampler": "optuna_aelle.decisions.sampler",
    "AeLLEWarning": "optuna_aelle._warnings",
    "Checkpoints": "optuna_aelle.decisions.checkpoints",
    "DashboardCallback": "optuna_aelle.visualization",
    "LyapunovSpectrum": "optuna_aelle.lyapunov",
    "PatientStorage": "optuna_aelle.trials.patience",
    "PerformancePredictor": "optuna_aelle.prediction.predictor",
    "Prior": "optuna_aelle.prediction.prior",
    "RecordedTrials": "optuna_aelle.trials.table",
    "cells": "optuna_aelle.lyapunov",
    "decode_spectra": "optuna_aelle.trials.attributes",
    "decode_values": "optuna_aelle.trials.objectives",
    "encode_spectrum": "optuna_aelle.trials.attributes",
    "explain_trial": "optuna_aelle.decisions.explanation",
    "from_log_rates": "optuna_aelle.lyapunov",
    "from_step": "optuna_aelle.lyapunov",
    "layers_of": "optuna_aelle.lyapunov",
    "lyapunov_spectra": "optuna_aelle.lyapunov",
    "lyapunov_spectrum": "optuna_aelle.lyapunov",
    "register_cell": "optuna_aelle.lyapunov",
    "register_layers": "optuna_aelle.lyapunov",
    "race": "optuna_aelle.backtest.race",
    "replay": "optuna_aelle.backtest.replay",
    "report_network": "optuna_aelle.trials.reporting",
    "report_spectrum": "optuna_aelle.trials.attributes",
    "save_dashboard_plots": "optuna_aelle.visualization",
    "should_prune": "optuna_aelle.decisions.multi_objective",
    "spectral_fingerprint": "optuna_aelle.lyapunov",
    "spectral_fingerprints": "optuna_aelle.lyapunov",
    "systems": "optuna_aelle.lyapunov",
}
_MODULES = ("integration", "lyapunov", "visualization")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"optuna_aelle.{name}")
    raise AttributeError(f"module 'optuna_aelle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
