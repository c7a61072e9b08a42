"""Gated networks whose gates read the input alone: minGRU and minLSTM."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov.cells.diagonal import DiagonalLayer


class _MinimalLayer(DiagonalLayer):
    by_steps = True
    n_gates: int

    def __init__(self, input_size: int, hidden_size: int, *, batch_first: bool = False) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.weight_ih = nn.Parameter(torch.empty(self.n_gates * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(self.n_gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in (self.weight_ih, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def _gates(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return F.linear(inputs, self.weight_ih, self.bias).chunk(self.n_gates, dim=-1)


class MinGRU(_MinimalLayer):
    """h' = (1 − z) h + z n with z = σ(W_z x + b_z) and n = W_n x + b_n.

    Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs All We Needed?" (arXiv
    2410.01201), section 3.1.

    Args:
        input_size: D.
        hidden_size: H.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = MinGRU(3, 64)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    n_gates = 2

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        y_z, candidate = self._gates(inputs)
        return torch.sigmoid(-y_z), torch.sigmoid(y_z) * candidate

    def log_rates(self, inputs: Tensor) -> Tensor:
        return F.logsigmoid(-self._gates(inputs)[0])


class MinLSTM(_MinimalLayer):
    """h' = f h + i n with f and i in the ratio of σ(W_f x + b_f) and σ(W_i x + b_i), f + i = 1.

    Source: as `MinGRU`, section 3.2.

    Args:
        input_size: D.
        hidden_size: H.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = MinLSTM(3, 64)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    n_gates = 3

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        apart = self._apart(inputs)
        return torch.sigmoid(apart), torch.sigmoid(-apart) * self._gates(inputs)[2]

    def log_rates(self, inputs: Tensor) -> Tensor:
        return F.logsigmoid(self._apart(inputs))

    def _apart(self, inputs: Tensor) -> Tensor:
        """ln(f / i)."""
        y_f, y_i, _ = self._gates(inputs)
        return F.logsigmoid(y_f) - F.logsigmoid(y_i)
