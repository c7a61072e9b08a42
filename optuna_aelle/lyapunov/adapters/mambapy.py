"""Package mambapy: the block of Mamba."""

from __future__ import annotations

from typing import Any

from optuna_aelle.lyapunov.adapters.selective import selective_block
from optuna_aelle.lyapunov.custom import DiagonalModel


def block(module: Any) -> DiagonalModel:
    """Of ``mambapy.mamba.MambaBlock``, which Jamba's layers hold, too; see `selective_block`.

    Example:
        >>> from mambapy.mamba import MambaBlock, MambaConfig  # doctest: +SKIP
        >>> block(MambaBlock(MambaConfig(d_model=16, n_layers=1))).state_size  # doctest: +SKIP
        512
    """
    return selective_block(module, module.config.dt_rank)
