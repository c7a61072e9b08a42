"""Lyapunov spectra of recurrent networks. Needs torch and numpy alone."""

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import systems
from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import from_log_rates
from optuna_aelle.lyapunov.custom import from_step
from optuna_aelle.lyapunov.engine import lyapunov_spectra
from optuna_aelle.lyapunov.engine import lyapunov_spectrum
from optuna_aelle.lyapunov.fingerprints import spectral_fingerprint
from optuna_aelle.lyapunov.fingerprints import spectral_fingerprints
from optuna_aelle.lyapunov.models import register_cell
from optuna_aelle.lyapunov.parts import layers_of
from optuna_aelle.lyapunov.parts import register_layers
from optuna_aelle.lyapunov.spectrum import Computation
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum

__all__ = [
    "Computation",
    "DiagonalModel",
    "LyapunovSpectrum",
    "StepModel",
    "cells",
    "from_log_rates",
    "from_step",
    "layers_of",
    "lyapunov_spectra",
    "lyapunov_spectrum",
    "register_cell",
    "register_layers",
    "spectral_fingerprint",
    "spectral_fingerprints",
    "systems",
]
