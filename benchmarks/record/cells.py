"""Recurrent networks whose gates see the input alone, as modules that the engine takes.

Notation: x (B, D) input, h (B, H) the state of a layer, L layers; σ is the logistic function.

Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs all we needed?"
(arXiv 2410.01201), the forms without a parallel scan.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov import StepModel
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import register_cell


class InputGated(nn.Module):
    """L layers whose next state is a weighted mean of the old one and of what the input says.

    Args:
        input_size: D.
        hidden_size: H.
        num_layers: L.
    """

    n_blocks: int

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        for layer in range(num_layers):
            fan_in = input_size if layer == 0 else hidden_size
            weight = torch.empty(self.n_blocks * hidden_size, fan_in)
            self.register_parameter(f"weight_ih_l{layer}", nn.Parameter(weight))
            bias = torch.zeros(self.n_blocks * hidden_size)
            self.register_parameter(f"bias_l{layer}", nn.Parameter(bias))

    @staticmethod
    @abstractmethod
    def advance(drive: Tensor, h: Tensor) -> Tensor:
        """The next state of a layer from its drive ``(..., n_blocks * H)``."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """The next states ``(B, L * H)`` of all layers."""
        following = []
        for layer, state in enumerate(torch.split(h, self.hidden_size, dim=-1)):
            weight, bias = (getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "bias"))
            x = self.advance(F.linear(x, weight, bias), state)
            following.append(x)
        return torch.cat(following, dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Answers of the last layer ``(B, T, H)`` and the last states ``(B, L * H)``."""
        h = x.new_zeros(len(x), self.num_layers * self.hidden_size)
        outputs = []
        for at_step in x.unbind(1):
            h = self.step(at_step, h)
            outputs.append(h[:, -self.hidden_size :])
        return torch.stack(outputs, dim=1), h


class MinGRU(InputGated):
    """h' = k h + (1 − k) c with c = W x + b and k = σ(V x + d)."""

    n_blocks = 2

    @staticmethod
    def advance(drive: Tensor, h: Tensor) -> Tensor:
        candidate, keep = drive.chunk(2, -1)
        return torch.lerp(candidate, h, torch.sigmoid(keep))


class MinLSTM(InputGated):
    """h' = (f h + i c) / (f + i) with c = W x + b and gates i, f that are σ of the input."""

    n_blocks = 3

    @staticmethod
    def advance(drive: Tensor, h: Tensor) -> Tensor:
        i, f, candidate = drive.chunk(3, -1)
        # Both gates are logistic functions: far below zero their ratio is that of exponentials.
        keep = torch.sigmoid(F.logsigmoid(f) - F.logsigmoid(i))
        return torch.lerp(candidate, h, keep)


def _step_model(module: InputGated) -> StepModel:
    return from_step(
        module.step,
        module.num_layers * module.hidden_size,
        input_size=module.input_size,
        batch_first=True,
    )


register_cell(InputGated, _step_model)
