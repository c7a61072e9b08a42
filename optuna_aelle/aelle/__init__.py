"""AeLLE: an autoencoder of Lyapunov spectra whose latent also reads the network's score."""

from __future__ import annotations

from optuna_aelle.aelle.regressor import AeLLERegressor

__all__ = ["AeLLERegressor"]
