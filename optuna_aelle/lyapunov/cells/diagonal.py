"""Layers whose state goes on by itself: h' = a h + b, number by number.

What they share: all steps are computed at once by a scan, and a step's Jacobian is the diagonal
matrix of a, which is made of the input alone. So the Lyapunov exponents are averages of ln|a|.

Notation: T steps, x (B, D) input, h (B, n) state, real or complex; H outputs.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch import nn


def linear_scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All states of h_t = a_t h_{t−1} + b_t, ``(T, B, n)``, in log₂ T rounds.

    Products of a alone are formed beside the states: nothing is divided.

    Source: Blelloch, "Prefix Sums and Their Applications", 1990; in the form of Hillis and Steele.

    Args:
        a: ``(T, B, n)``, or with axes of length 1 where it is the same.
        b: ``(T, B, n)``.
        start: h_0, ``(B, n)``.

    Example:
        >>> a, b = torch.tensor([0.5, 2.0, 0.5])[:, None, None], torch.ones(3, 1, 1)
        >>> linear_scan(a, b, torch.zeros(1, 1)).flatten()
        tensor([1.0000, 3.0000, 2.5000])
    """
    first = b[:1] + a[:1] * start
    states = torch.cat([first, b[1:]])
    factors, n_steps, reach = a.expand(len(b), *a.shape[1:]), len(b), 1
    while reach < n_steps:
        carried = states[reach:] + factors[reach:] * states[:-reach]
        states = torch.cat([states[:reach], carried])
        factors = torch.cat([factors[:reach], factors[reach:] * factors[:-reach]])
        reach *= 2
    return states


class DiagonalLayer(nn.Module):
    """One layer h' = a h + b with the interface of `torch.nn.RNN`.

    Attributes:
        n_rates: How many rates `log_rates` returns.
        n_real: Real numbers of the state that each of them stands for: 2 where it is complex.
        complex_state: Whether it is.
        by_steps: Whether `log_rates` at a step needs the input of that step alone.

    Args:
        input_size: D.
        hidden_size: H, the size of the outputs.
        batch_first: Whether inputs and outputs are ``(B, T, ·)`` instead of ``(T, B, ·)``.

    Example:
        >>> class Leaky(DiagonalLayer):
        ...     def coefficients(self, inputs):
        ...         return torch.full((1, 1, self.n_rates), 0.9), 0.1 * inputs
        >>> outputs, h = Leaky(3, 3)(torch.randn(50, 4, 3))
        >>> outputs.shape, h.shape
        (torch.Size([50, 4, 3]), torch.Size([1, 4, 3]))
    """

    complex_state = False
    by_steps = False

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

    @property
    def n_rates(self) -> int:
        return self.hidden_size

    @property
    def n_real(self) -> int:
        return 2 if self.complex_state else 1

    @abstractmethod
    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """a ``(T or 1, B or 1, n)`` and b ``(T, B, n)`` of all steps of ``inputs (T, B, D)``."""

    def log_rates(self, inputs: Tensor) -> Tensor:
        """ln|a|, each that differs once: ``(T or 1, B or 1, n_rates)``, accurate where a is 0."""
        return self.coefficients(inputs)[0].abs().log()

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        """The outputs ``(T, B, H)`` from states before and after, and inputs ``(T, B, D)``."""
        return states

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run along a sequence.

        Args:
            inputs: ``(T, B, D)``, ``(B, T, D)`` if ``batch_first``, or ``(T, D)``.
            state: ``(1, B, n)``, as it is returned; None for zeros.
        """
        if inputs.dim() not in (2, 3) or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"Shape mismatch: expected inputs of shape (T, B, D), (B, T, D) or (T, D) with "
                f"D = {self.input_size}, got {tuple(inputs.shape)}."
            )
        batched = inputs.dim() == 3
        time_axis = 1 if self.batch_first and batched else 0
        sequence = (inputs if batched else inputs[:, None]).transpose(0, time_axis)
        a, b = self.coefficients(sequence)
        start = b.new_zeros(b.shape[1:])
        if state is not None:
            if state.shape not in ((1, *start.shape), start.shape):
                raise ValueError(
                    f"Shape mismatch: expected a state of shape {(1, *start.shape)}, got "
                    f"{tuple(state.shape)}."
                )
            start = state.reshape(start.shape).to(b.dtype)
        states = linear_scan(a, b, start)
        before = torch.cat([start[None], states[:-1]])
        outputs, final = self.read(before, states, sequence), states[-1:]
        if not batched:
            return outputs[:, 0], final[:, 0]
        return outputs.transpose(0, time_axis), final

    def _settings(self) -> dict[str, object]:
        """What `repr` shows besides the sizes."""
        return {}

    def extra_repr(self) -> str:
        shown = {**self._settings(), "batch_first": self.batch_first}
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"{self.input_size}, {self.hidden_size}, {settings}"
