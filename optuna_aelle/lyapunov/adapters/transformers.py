"""Package transformers: the recurrent layers of language models, called with ``(B, T, D)``.

The short convolutions and token shifts before them forget an input for good after a few steps and
feed nothing back: they move the rates, but their own memory is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov.adapters.selective import selective_block
from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import from_log_rates


def mamba(module: Any) -> DiagonalModel:
    """Of ``MambaMixer``, ``FalconMambaMixer`` or ``JambaMambaMixer``; see `selective_block`.

    Example:
        >>> from transformers import MambaConfig, MambaModel  # doctest: +SKIP
        >>> config = MambaConfig(hidden_size=16, num_hidden_layers=1)  # doctest: +SKIP
        >>> mamba(MambaModel(config).layers[0].mixer).state_size  # doctest: +SKIP
        512
    """
    return selective_block(module, module.time_step_rank)


def mamba2(module: Any) -> DiagonalModel:
    """Of ``Mamba2Mixer``: −Δ exp(A_log) for each head, ``(T, B, heads)``, in nats per step.

    Each counts as often as its head has numbers, head_dim times the state's size. Δ does not go
    through the convolution.

    Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 7.

    Example:
        >>> from transformers import Mamba2Config, Mamba2Model  # doctest: +SKIP
        >>> config = Mamba2Config(hidden_size=16, num_heads=4, head_dim=8)  # doctest: +SKIP
        >>> mamba2(Mamba2Model(config).layers[0].mixer).state_size  # doctest: +SKIP
        4096
    """
    low, high = module.time_step_limit

    def log_rates(inputs: Tensor) -> Tensor:
        y = module.in_proj(inputs)[..., -module.num_heads :]
        dt = F.softplus(y + module.dt_bias).clamp(low, high)
        rates: Tensor = -dt * module.A_log.exp()
        return rates

    return from_log_rates(
        log_rates,
        module.num_heads,
        n_real=module.head_dim * module.ssm_state_size,
        input_size=module.in_proj.in_features,
        batch_first=True,
        by_steps=True,
    )


def rwkv(module: Any) -> DiagonalModel:
    """Of ``RwkvSelfAttention`` (version 4): −exp(time_decay), in nats per step, twice each.

    Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048),
    equations 16 to 18.

    Example:
        >>> from transformers import RwkvConfig, RwkvModel  # doctest: +SKIP
        >>> config = RwkvConfig(hidden_size=16, num_hidden_layers=2)  # doctest: +SKIP
        >>> rwkv(RwkvModel(config).blocks[0].attention).state_size  # doctest: +SKIP
        32
    """

    def log_rates(inputs: Tensor) -> Tensor:
        rates: Tensor = -module.time_decay.exp()[None, None]
        return rates

    return from_log_rates(
        log_rates,
        len(module.time_decay),
        n_real=2,
        input_size=module.key.in_features,
        batch_first=True,
        by_steps=True,
    )


def rg_lru(module: Any) -> DiagonalModel:
    """Of ``RecurrentGemmaRglru``: −8 r softplus(Λ), ``(T, B, H)``, in nats per step.

    r is the recurrence gate, a function of the input, head by head. That the state starts anew
    where a document starts is left out.

    Source: De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention" (arXiv
    2402.19427), equations 1 to 6.

    Example:
        >>> from transformers import RecurrentGemmaConfig, RecurrentGemmaModel  # doctest: +SKIP
        >>> config = RecurrentGemmaConfig(vocab_size=9, num_hidden_layers=1)  # doctest: +SKIP
        >>> model = RecurrentGemmaModel(config)  # doctest: +SKIP
        >>> rg_lru(model.layers[0].temporal_block.rg_lru).state_size  # doctest: +SKIP
        2560
    """
    heads, width = module.num_attention_heads, module.block_width

    def log_rates(inputs: Tensor) -> Tensor:
        of_head = inputs.unflatten(-1, (heads, width))  # type: ignore[no-untyped-call]
        y = torch.einsum("tbhi,hio->tbho", of_head, module.recurrent_gate_weight)
        gate = torch.sigmoid(y + module.recurrent_gate_bias).flatten(-2)
        rates: Tensor = -8.0 * gate * F.softplus(module.recurrent_param)
        return rates

    return from_log_rates(
        log_rates, heads * width, input_size=heads * width, batch_first=True, by_steps=True
    )
