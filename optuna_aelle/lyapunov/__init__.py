"""Lyapunov spectra of recurrent networks. Needs torch and numpy alone."""

from optuna_aelle.lyapunov import systems
from optuna_aelle.lyapunov.engine import lyapunov_spectrum
from optuna_aelle.lyapunov.engine import spectral_fingerprint
from optuna_aelle.lyapunov.models import StepModel
from optuna_aelle.lyapunov.models import from_step
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum

__all__ = [
    "LyapunovSpectrum",
    "StepModel",
    "from_step",
    "lyapunov_spectrum",
    "spectral_fingerprint",
    "systems",
]
