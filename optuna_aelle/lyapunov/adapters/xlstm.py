"""Package xlstm, and what transformers has of it: memories with exponential gates.

Source: Beck et al., "xLSTM: Extended Long Short-Term Memory" (arXiv 2405.04517), sections 2.2 and
2.3; the large ones: Beck et al., "xLSTM 7B" (arXiv 2503.13427), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import from_log_rates
from optuna_aelle.lyapunov.custom import from_step

State = tuple[Tensor, ...]


def mlstm(module: Any) -> DiagonalModel:
    """Of a block's ``mLSTMLayer``, called with ``(B, T, D)``: ln f of each head, nats per step.

    Each counts as often as its head has numbers, those of C and n. The convolution that the gates
    read forgets an input for good after a few steps: its own memory is left out.

    Example:
        >>> from xlstm import mLSTMLayer, mLSTMLayerConfig  # doctest: +SKIP
        >>> config = mLSTMLayerConfig(embedding_dim=16, context_length=64)  # doctest: +SKIP
        >>> mlstm(mLSTMLayer(config)).state_size  # doctest: +SKIP
        1088
    """
    cell = module.mlstm_cell
    heads, width = cell.fgate.out_features, module.proj_down.in_features
    size = width // heads

    def log_rates(inputs: Tensor) -> Tensor:
        # Its convolution takes sequences as the layer does.
        mixed = module.proj_up(inputs.transpose(0, 1))[..., :width]
        u = module.conv_act_fn(module.conv1d(mixed))
        read = torch.cat([module.q_proj(u), module.k_proj(u), module.v_proj(mixed)], dim=-1)
        return F.logsigmoid(cell.fgate(read)).transpose(0, 1)

    return from_log_rates(
        log_rates,
        heads,
        n_real=size * (size + 1),
        input_size=module.proj_up.in_features,
        batch_first=True,
    )


def large_mlstm(module: Any) -> DiagonalModel:
    """Of the large networks' ``mLSTMLayer`` or ``xLSTMLayer``: as `mlstm`, without convolution.

    The gate's pre-activation y is bent to c tanh(y / c).

    Example:
        >>> from transformers import xLSTMConfig, xLSTMModel  # doctest: +SKIP
        >>> config = xLSTMConfig(hidden_size=64, num_heads=4, num_blocks=1)  # doctest: +SKIP
        >>> large_mlstm(xLSTMModel(config).blocks[0].mlstm_layer).state_size  # doctest: +SKIP
        544
    """
    heads, cap = module.config.num_heads, module.config.gate_soft_cap
    fused = module.config.weight_mode == "fused"
    gates = module.ifgate_preact if fused else module.fgate_preact

    def log_rates(inputs: Tensor) -> Tensor:
        # Fused, the input gates come first.
        y = gates(inputs)[..., -heads:]
        return F.logsigmoid(y if cap is None else cap * torch.tanh(y / cap))

    rows, columns = module.qk_dim // heads, module.v_dim // heads
    return from_log_rates(
        log_rates,
        heads,
        n_real=rows * (columns + 1),
        input_size=gates.in_features,
        batch_first=True,
        by_steps=True,
    )


def slstm(module: Any) -> StepModel:
    """Of a ``sLSTMCell`` on either backend; it reads the gates' inputs ``(B, T, 4H)``.

    What is kept is (h, c / n, ln n): nothing of it overflows, and its exponents are those of
    (h, c, n). It starts from n = 1. Where the cell's function is ``"lstm"``, it is (h, c).

    Example:
        >>> from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig  # doctest: +SKIP
        >>> config = sLSTMCellConfig(hidden_size=16, backend="vanilla")  # doctest: +SKIP
        >>> slstm(sLSTMCell(config)).state_size  # doctest: +SKIP
        48
    """
    config = module.config
    size = config.hidden_size
    # As (heads, units read, gates, units), whatever order the backend keeps them in.
    kernel = module._recurrent_kernel_int2ext(module._recurrent_kernel_).detach()
    bias = module._bias_int2ext(module._bias_).detach().transpose(0, 1).flatten()

    def gates(x: Tensor, h: Tensor) -> State:
        of_head = h.unflatten(-1, kernel.shape[:2])  # type: ignore[no-untyped-call]
        recurrent = torch.einsum("bhi,higo->bgho", of_head, kernel).flatten(1)
        i_f_z_o: State = (x + recurrent + bias).chunk(4, dim=-1)
        return i_f_z_o

    def slstm_step(x: Tensor, state: State) -> State:
        h, content, log_n = state
        y_i, y_f, y_z, y_o = gates(x, h)
        kept = F.logsigmoid(y_f) + log_n
        content = torch.lerp(torch.tanh(y_z), content, torch.sigmoid(kept - y_i))
        return torch.sigmoid(y_o) * content, content, torch.logaddexp(kept, y_i)

    def lstm_step(x: Tensor, state: State) -> State:
        h, c = state
        y_i, y_f, y_z, y_o = gates(x, h)
        c = torch.sigmoid(y_f) * c + torch.sigmoid(y_i) * torch.tanh(y_z)
        return torch.sigmoid(y_o) * torch.tanh(c), c

    step, n_parts = (slstm_step, 3) if config.function == "slstm" else (lstm_step, 2)
    return from_step(
        step,
        (size,) * n_parts,
        input_size=4 * size,
        batch_first=config.input_shape == "BSGNH",
    )
