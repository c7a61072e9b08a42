"""Selective state spaces of the first Mamba, which several packages write with the same names."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import from_log_rates


def selective_block(module: Any, dt_rank: int) -> DiagonalModel:
    """Of a block with in_proj, conv1d, x_proj, dt_proj and A_log, called with ``(B, T, D)``.

    ln|a| = −Δ exp(A_log), ``(T, B, H N)``, in nats per step: H channels of N numbers each, with
    Δ = softplus(V u + v) and u the convolved input. The convolution forgets an input for good
    after as many steps as its kernel is long, and feeds nothing back: it moves u, but its own
    memory, whose exponents are −∞, is left out.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv
    2312.00752), algorithm 2 and section 3.4.

    Args:
        module: The block; ``dt_layernorm``, if there is one, acts on the low-rank form of Δ.
        dt_rank: Rank of V.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> block = nn.Module()
        >>> block.in_proj, block.conv1d = nn.Linear(3, 8), nn.Conv1d(4, 4, 2, padding=1, groups=4)
        >>> block.x_proj, block.dt_proj = nn.Linear(4, 1 + 2 * 5), nn.Linear(1, 4)
        >>> block.A_log = nn.Parameter(torch.zeros(4, 5))
        >>> selective_block(block, 1).log_rates(torch.zeros(7, 2, 3)).shape
        torch.Size([7, 2, 20])
    """
    dt_layernorm = getattr(module, "dt_layernorm", None)
    if hasattr(module, "rms_eps") and dt_layernorm is None:
        # An older version of the same name, whose norms have no weights.
        raise ValueError(
            f"Expected {type(module).__name__} with its norms as modules, got an older version of "
            "it, which is not known. Update its package, or call register_cell for it."
        )
    activation = getattr(module, "act", F.silu)

    def log_rates(inputs: Tensor) -> Tensor:
        mixed = module.in_proj(inputs).chunk(2, dim=-1)[0].permute(1, 2, 0)
        # It is padded on both sides; what lies behind the last step would read ahead.
        u = activation(module.conv1d(mixed)[..., : len(inputs)]).permute(2, 0, 1)
        low = module.x_proj(u)[..., :dt_rank]
        if dt_layernorm is not None:
            low = dt_layernorm(low)
        dt = F.softplus(module.dt_proj(low))
        rates: Tensor = -(dt[..., None] * module.A_log.exp()).flatten(-2)
        return rates

    return from_log_rates(
        log_rates,
        module.A_log.numel(),
        input_size=module.in_proj.in_features,
        batch_first=True,
    )
