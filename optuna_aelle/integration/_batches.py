"""Where a batch holds the inputs of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

# In this order; else whatever comes first.
_NAMES = ("input_ids", "inputs", "input", "x", "X")


def inputs_of(batch: Any) -> Tensor | PackedSequence | None:
    """A copy of the inputs in a batch, on the CPU; None where there are no tensors.

    Args:
        batch: Inputs, alone or before the targets, or by name.

    Example:
        >>> inputs_of((torch.zeros(4, 20, 3), torch.ones(4))).shape
        torch.Size([4, 20, 3])
    """
    if isinstance(batch, PackedSequence):
        return batch.cpu()
    if isinstance(batch, Tensor):
        return batch.detach().to("cpu", copy=True)
    if isinstance(batch, Mapping):
        named = [batch[name] for name in _NAMES if name in batch]
        return _first([*named, *batch.values()])
    if isinstance(batch, tuple | list):
        return _first(batch)
    return None


def _first(values: Any) -> Tensor | PackedSequence | None:
    found = (inputs_of(value) for value in values)
    return next((inputs for inputs in found if inputs is not None), None)
