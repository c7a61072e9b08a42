"""Package lru_pytorch: the linear recurrent unit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import from_log_rates


def layer(module: Any) -> DiagonalModel:
    """Of ``LRU``, called with ``(B, T, D)``: ln|λ| = −exp(ν), in nats per step, twice each.

    Source: Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences" (arXiv
    2303.06349), section 3.3.

    Example:
        >>> from LRU_pytorch import LRU  # doctest: +SKIP
        >>> layer(LRU(3, 4, 8)).state_size  # doctest: +SKIP
        16
    """

    def log_rates(inputs: Tensor) -> Tensor:
        rates: Tensor = -module.nu_log.exp()[None, None]
        return rates

    return from_log_rates(
        log_rates,
        len(module.nu_log),
        n_real=2,
        input_size=module.D.shape[1],
        batch_first=True,
        by_steps=True,
    )
