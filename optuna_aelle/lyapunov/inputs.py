"""What comes in, checked: inputs, lengths and initial states, all brought to one layout."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.nn.utils.rnn import pad_packed_sequence

from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import flatten_state
from optuna_aelle.lyapunov.maps.base import State

Inputs = Tensor | PackedSequence


class Sequences(NamedTuple):
    """Checked inputs.

    Attributes:
        values: ``(T, B, D)``, zero past the end of a shorter sequence.
        lengths: How many steps each sequence has.

    Example:
        >>> Sequences(torch.zeros(20, 2, 3), lengths=(20, 15)).values.shape
        torch.Size([20, 2, 3])
    """

    values: Tensor
    lengths: tuple[int, ...]


def batch_axis(recurrent: nn.Module | StepModel) -> int:
    """Which axis of three-dimensional inputs the sequences are along.

    Example:
        >>> batch_axis(nn.GRU(3, 4)), batch_axis(nn.GRU(3, 4, batch_first=True))
        (1, 0)
    """
    return 0 if getattr(recurrent, "batch_first", False) else 1


def device_of(recurrent: nn.Module | StepModel, inputs: Inputs) -> torch.device:
    """Where to compute: where the model is, unless float64 is missing there.

    Example:
        >>> device_of(nn.GRU(3, 4), torch.zeros(20, 2, 3))
        device(type='cpu')
    """
    values = inputs.data if isinstance(inputs, PackedSequence) else inputs
    device = values.device
    if isinstance(recurrent, nn.Module):
        device = next(recurrent.parameters()).device
    elif recurrent.device is not None:
        device = recurrent.device
    if device.type != "mps":
        return device
    if isinstance(recurrent, StepModel) and recurrent.dtype is None:
        raise ValueError(
            f"Expected a step function on a device with float64, got {device}. The tail of a "
            "spectrum is lost in float32: move the model and its inputs to the CPU."
        )
    warnings.warn(
        f"{device} has no float64, which a state needs for its spectrum: computing on the CPU.",
        stacklevel=4,
    )
    return torch.device("cpu")


def inputs_of_each(inputs: Inputs | Sequence[Inputs], n_models: int) -> list[Inputs]:
    """Those of each model: one for all, or a list with one each.

    Example:
        >>> len(inputs_of_each(torch.zeros(20, 2, 3), n_models=3))
        3
    """
    if not isinstance(inputs, list | tuple) or isinstance(inputs, PackedSequence):
        check_tensor(inputs)
        return [inputs] * n_models  # type: ignore[list-item]
    if len(inputs) != n_models:
        for of_one in inputs:
            check_tensor(of_one)
        raise ValueError(
            f"Expected inputs for all models, or a list of {n_models}, one each, got a list of "
            f"{len(inputs)}."
        )
    return list(inputs)


def check_tensor(inputs: object) -> None:
    """Refuse what is neither a tensor nor a `PackedSequence`, and say what it is.

    Example:
        >>> check_tensor(torch.zeros(20, 3))
    """
    if isinstance(inputs, Inputs):
        return
    came, remedy = f"an object of type {type(inputs).__name__}", "torch.as_tensor(inputs)"
    if isinstance(inputs, np.ndarray):
        came = f"a numpy array of dtype {inputs.dtype} and shape {inputs.shape}"
        remedy = "torch.from_numpy(inputs)"
    elif isinstance(inputs, list | tuple):
        of_what = ", ".join(dict.fromkeys(type(item).__name__ for item in inputs)) or "nothing"
        came = f"a {type(inputs).__name__} of {len(inputs)} ({of_what})"
        if any(isinstance(item, Tensor) for item in inputs):
            remedy = "one tensor, such as torch.stack(inputs)"
    raise TypeError(
        f"Expected inputs as a torch tensor or a PackedSequence, got {came}. Pass {remedy}."
    )


def _to_floats(inputs: Tensor) -> str:
    if inputs.is_complex():
        return "Pass real and imaginary parts as separate inputs, as torch.view_as_real does"
    if inputs.dtype == torch.bool:
        return "Pass inputs.float()"
    return "Embed tokens first"


def read_inputs(
    recurrent: nn.Module | StepModel,
    inputs: Inputs,
    lengths: Sequence[int] | Tensor | None,
    warmup: int,
) -> Sequences:
    """Check ``inputs`` and bring them to ``(T, B, D)``.

    Example:
        >>> network = nn.GRU(3, 4, batch_first=True)
        >>> sequences = read_inputs(network, torch.zeros(2, 20, 3), lengths=[20, 15], warmup=10)
        >>> sequences.values.shape, sequences.lengths
        (torch.Size([20, 2, 3]), (20, 15))
    """
    if isinstance(inputs, PackedSequence):
        if lengths is not None:
            raise ValueError("Expected lengths=None with a PackedSequence, which has its own.")
        inputs, lengths = pad_packed_sequence(inputs)
        form, axis = "(T, B, D)", 1
    else:
        axis = batch_axis(recurrent)
        form = "(B, T, D)" if axis == 0 else "(T, B, D)"
    check_tensor(inputs)
    if not inputs.is_floating_point():
        raise ValueError(
            f"Expected inputs as a tensor of floats, got {inputs.dtype}. {_to_floats(inputs)}."
        )
    if inputs.dim() not in (2, 3):
        raise ValueError(
            f"Shape mismatch: expected inputs of shape {form} or (T, D), got "
            f"{tuple(inputs.shape)}."
        )
    batched = inputs.unsqueeze(axis) if inputs.dim() == 2 else inputs
    values = batched.detach().transpose(0, 1) if axis == 0 else batched.detach()
    n_steps, batch, size = values.shape
    input_size = recurrent.input_size
    if size != input_size:
        raise ValueError(
            f"Shape mismatch: expected inputs of shape {form} with D = {input_size}, got "
            f"{tuple(inputs.shape)}."
        )
    if batch == 0:
        raise ValueError(
            f"Expected at least one input sequence, got an empty batch: shape "
            f"{tuple(inputs.shape)} read as {form}."
        )
    ends = _read_lengths(lengths, n_steps, batch)
    shortest = min(ends)
    if shortest <= warmup:
        raise ValueError(
            f"Expected more steps than warmup, got T = {shortest} with warmup = {warmup} "
            f"(inputs {tuple(inputs.shape)} read as {form}). Pass longer inputs or less warmup."
        )
    if shortest < n_steps:
        inside = torch.arange(n_steps, device=values.device)[:, None]
        inside = inside < torch.tensor(ends, device=values.device)
        values = torch.where(inside[..., None], values, 0.0)
    if not all_finite(values):
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"Expected finite inputs, got {bad} NaN or infinite entries in 'inputs'.")
    return Sequences(values[: max(ends)], ends)


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite.

    Example:
        >>> all_finite(torch.tensor([1.0, torch.inf]))
        False
    """
    # One number tells as a rule: a sum is finite only if all its terms are. It may overflow.
    if not values.is_complex() and math.isfinite(values.detach().sum()):
        return True
    return bool(torch.isfinite(values).all())


def _read_lengths(
    lengths: Sequence[int] | Tensor | None, n_steps: int, batch: int
) -> tuple[int, ...]:
    if lengths is None:
        return (n_steps,) * batch
    ends = tuple(int(end) for end in lengths)
    if len(ends) != batch or not all(1 <= end <= n_steps for end in ends):
        raise ValueError(
            f"Expected lengths as {batch} numbers of steps in [1, {n_steps}], one a sequence, got "
            f"{list(ends)}."
        )
    return ends


def reverse(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each sequence of ``values (T, M, B, D)`` from its own end to its start; padding stays.

    Example:
        >>> values = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 1)
        >>> reverse(values, lengths=[4, 2])[:, 0, :, 0].T
        tensor([[3., 2., 1., 0.],
                [1., 0., 2., 3.]])
    """
    steps = torch.arange(len(values), device=values.device)[:, None]
    ends = torch.tensor(lengths, device=values.device)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    return values.gather(0, order[:, None, :, None].expand_as(values))


def split_state(
    initial_state: Any,
    part_sizes: Sequence[Sequence[int]],
    batch: int,
    device: torch.device,
) -> list[State | None]:
    """For each layer its parts ``(B, ·)``, from what the module itself would take.

    Args:
        initial_state: A tensor ``(L, B, ·)`` or, without the layer axis, ``(B, ·)``; for a state
            of several parts a tuple of them.
        part_sizes: For each layer the sizes of its parts.
        batch: B.
        device: Where to compute.

    Example:
        >>> h0 = torch.zeros(2, 5, 4)  # of a stack of two layers
        >>> [len(parts) for parts in split_state(h0, [(4,), (4,)], 5, torch.device("cpu"))]
        [1, 1]
    """
    if initial_state is None:
        return [None] * len(part_sizes)
    parts = [part.detach().to(device) for part in flatten_state(initial_state)[0]]
    parts = [part if part.dim() == 3 else part.reshape(1, -1, part.shape[-1]) for part in parts]
    expected = [(len(part_sizes), batch, size) for size in part_sizes[0]]
    came = [tuple(part.shape) for part in parts]
    if came != expected:
        raise ValueError(
            f"Shape mismatch: expected initial_state of {len(expected)} tensor(s) of shape "
            f"{', '.join(map(str, dict.fromkeys(expected)))}, got {came}."
        )
    if any(part.is_complex() for part in parts):
        raise ValueError(
            "Expected initial_state as real numbers, got complex ones. Pass real and imaginary "
            "parts as separate numbers, as torch.view_as_real does."
        )
    if not all(all_finite(part) for part in parts):
        raise ValueError("Expected a finite initial_state, got NaN or infinite entries.")
    return [tuple(part[i] for part in parts) for i in range(len(part_sizes))]
