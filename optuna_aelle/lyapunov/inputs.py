"""What comes in, checked: inputs, sizes and initial states, all brought to one layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.maps import RecurrentMap
from optuna_aelle.lyapunov.maps import StateKind
from optuna_aelle.lyapunov.models import StepModel

InitialState = Tensor | Sequence[Tensor]


def batch_axis(recurrent: nn.Module | StepModel) -> int:
    return 0 if getattr(recurrent, "batch_first", False) else 1


def state_size_of(recurrent: nn.RNNBase | nn.RNNCellBase | StepModel, state: StateKind) -> int:
    if isinstance(recurrent, StepModel):
        return recurrent.state_size
    parts = 2 if state == "full" and isinstance(recurrent, (nn.LSTM, nn.LSTMCell)) else 1
    layers = recurrent.num_layers if isinstance(recurrent, nn.RNNBase) else 1
    return parts * layers * recurrent.hidden_size


def device_of(recurrent: nn.Module | StepModel, inputs: Tensor) -> torch.device:
    if isinstance(recurrent, nn.Module):
        return next(recurrent.parameters()).device
    return inputs.device


def time_major(
    recurrent: nn.RNNBase | nn.RNNCellBase | StepModel, inputs: Tensor, warmup: int
) -> Tensor:
    """Check ``inputs`` and bring them to ``(T, B, D)``."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        came = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"Expected inputs as a tensor of floats, got {came}. Embed tokens first.")
    form = "(B, T, D)" if batch_axis(recurrent) == 0 else "(T, B, D)"
    if inputs.dim() not in (2, 3):
        raise ValueError(
            f"Shape mismatch: expected inputs of shape {form} or (T, D), got "
            f"{tuple(inputs.shape)}."
        )
    batched = inputs.unsqueeze(batch_axis(recurrent)) if inputs.dim() == 2 else inputs
    sequence = batched.detach().transpose(0, 1) if batch_axis(recurrent) == 0 else batched.detach()
    n_steps, batch, size = sequence.shape
    if size != recurrent.input_size:
        raise ValueError(
            f"Shape mismatch: expected inputs of shape {form} with D = {recurrent.input_size}, "
            f"got {tuple(inputs.shape)}."
        )
    if batch == 0:
        raise ValueError(
            f"Expected at least one input sequence, got an empty batch: shape "
            f"{tuple(inputs.shape)} read as {form}."
        )
    if warmup < 0:
        raise ValueError(f"warmup must be nonnegative, but got {warmup}.")
    if n_steps <= warmup:
        raise ValueError(
            f"Expected more steps than warmup, got T = {n_steps} with warmup = {warmup} "
            f"(inputs {tuple(inputs.shape)} read as {form}). Pass longer inputs or less warmup."
        )
    bad = int((~torch.isfinite(sequence)).sum())
    if bad:
        raise ValueError(f"Expected finite inputs, got {bad} NaN or infinite entries in 'inputs'.")
    return sequence


def split_state(
    initial_state: InitialState | None,
    maps: Sequence[RecurrentMap],
    batch: int,
    device: torch.device,
) -> list[Tensor | None]:
    """One ``(B, N)`` start a layer, from what the module itself would take."""
    if initial_state is None:
        return [None] * len(maps)
    parts = [initial_state] if isinstance(initial_state, Tensor) else list(initial_state)
    parts = [part.detach().to(device) for part in parts]
    parts = [part if part.dim() == 3 else part.reshape(1, -1, part.shape[-1]) for part in parts]
    n_parts, size = maps[0].given_parts
    expected = (len(maps), batch, size)
    came = [tuple(part.shape) for part in parts]
    if came != [expected] * n_parts:
        raise ValueError(
            f"Shape mismatch: expected initial_state of {n_parts} tensor(s) of shape {expected}, "
            f"got {came}."
        )
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError("Expected a finite initial_state, got NaN or infinite entries.")
    return [torch.cat([part[i] for part in parts], dim=-1) for i in range(len(maps))]
