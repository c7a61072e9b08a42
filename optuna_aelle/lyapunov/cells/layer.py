"""What all these networks share: the interface of `torch.nn.RNN`, and the loop over a sequence.

Notation: x (B, D) input, h (B, H) state, h' the next state.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


class RecurrentLayer(nn.Module):
    """One recurrent layer: `drive` turns all inputs into pre-activations, `step` does one step.

    Args:
        input_size: D.
        hidden_size: H.
        batch_first: Whether inputs and outputs are ``(B, T, ·)`` instead of ``(T, B, ·)``.

    Example:
        >>> class Leaky(RecurrentLayer):
        ...     def __init__(self, input_size, hidden_size):
        ...         super().__init__(input_size, hidden_size)
        ...         self.reset_parameters()
        ...     def reset_parameters(self):
        ...         self._uniform(self.weight_ih, self.bias)
        ...     def recurrent_weights(self):
        ...         return ()
        ...     def step(self, drive, state, weights):
        ...         return (0.9 * state[0] + 0.1 * torch.tanh(drive),)
        >>> outputs, h = Leaky(3, 8)(torch.randn(50, 4, 3))
        >>> outputs.shape, h.shape
        (torch.Size([50, 4, 8]), torch.Size([1, 4, 8]))
    """

    n_gates = 1
    n_parts = 1

    def __init__(self, input_size: int, hidden_size: int, *, batch_first: bool = False) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(
                f"input_size and hidden_size must be at least 1, but got {input_size} and "
                f"{hidden_size}."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.batch_first = batch_first
        self.weight_ih = nn.Parameter(torch.empty(self.n_gates * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(self.n_gates * hidden_size))

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw all parameters anew, as in the paper."""

    @abstractmethod
    def recurrent_weights(self) -> State:
        """What `step` multiplies the state by; computed once for a whole sequence."""

    @abstractmethod
    def step(self, drive: Tensor, state: State, weights: State) -> State:
        """One step: ``drive (B, n_gates * H)`` and the state, ``(B, H)`` a part."""

    def forward(
        self, inputs: Tensor, state: Tensor | State | None = None
    ) -> tuple[Tensor, Tensor | State]:
        """Run along a sequence.

        Args:
            inputs: ``(T, B, D)``, ``(B, T, D)`` if ``batch_first``, or ``(T, D)``.
            state: As it is returned; None for zeros.
        """
        if inputs.dim() not in (2, 3) or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"Shape mismatch: expected inputs of shape (T, B, D), (B, T, D) or (T, D) with "
                f"D = {self.input_size}, got {tuple(inputs.shape)}."
            )
        batched = inputs.dim() == 3
        time_axis = 1 if self.batch_first and batched else 0
        sequence = inputs if batched else inputs[:, None]
        drives = F.linear(sequence.transpose(0, time_axis), self.weight_ih, self.bias)
        current = self._start(state, drives.shape[1], drives)
        weights = self.recurrent_weights()
        outputs = []
        for drive in drives.unbind(0):
            current = self.step(drive, current, weights)
            outputs.append(current[0])
        stacked = torch.stack(outputs)
        final = tuple(part[None] for part in current)
        if not batched:
            stacked, final = stacked[:, 0], tuple(part[:, 0] for part in final)
        return stacked.transpose(0, time_axis), final if self.n_parts > 1 else final[0]

    def _start(self, state: Tensor | State | None, batch: int, like: Tensor) -> State:
        if state is None:
            zero = like.new_zeros(batch, self.hidden_size)
            return (zero,) * self.n_parts
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        shapes = [tuple(part.shape) for part in parts]
        expected = (1, batch, self.hidden_size)
        if len(parts) != self.n_parts or any(
            shape not in (expected, expected[1:]) and (batch > 1 or shape != (1, expected[2]))
            for shape in shapes
        ):
            raise ValueError(
                f"Shape mismatch: expected a state of {self.n_parts} tensor(s) of shape "
                f"{expected}, got {shapes}."
            )
        return tuple(part.reshape(batch, self.hidden_size) for part in parts)

    def _uniform(self, *parameters: nn.Parameter) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in parameters:
            nn.init.uniform_(parameter, -bound, bound)

    def _settings(self) -> dict[str, object]:
        """What `repr` shows besides the sizes."""
        return {}

    def extra_repr(self) -> str:
        shown = {**self._settings(), "batch_first": self.batch_first}
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"{self.input_size}, {self.hidden_size}, {settings}"
