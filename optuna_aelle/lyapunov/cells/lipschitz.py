"""The Lipschitz RNN: a linear flow and a nonlinear one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


def lipschitz_matrix(weight: Tensor, beta: float, gamma: float) -> Tensor:
    """(1 − β)(M + Mᵀ) + β (M − Mᵀ) − γ I for ``weight (..., H, H)``.

    Example:
        >>> lipschitz_matrix(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), beta=1.0, gamma=1.0)
        tensor([[-1.,  2.],
                [-2., -1.]])
    """
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    symmetric, skew = weight + weight.mT, weight - weight.mT
    return (1.0 - beta) * symmetric + beta * skew - gamma * eye


class LipschitzRNN(RecurrentLayer):
    """h' = h + ε (A h + tanh(W h + U x + b)), A and W with controlled symmetric parts.

    Both matrices are (1 − β)(M + Mᵀ) + β (M − Mᵀ) − γ I.

    Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney, "Lipschitz Recurrent Neural
    Networks", ICLR 2021 (arXiv 2006.12070), by forward Euler.

    Args:
        input_size: D.
        hidden_size: H.
        epsilon: Step size ε.
        beta: How skew both matrices are: 0 symmetric, 0.5 free, 1 skew.
        gamma: What is taken off both diagonals.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, h = LipschitzRNN(3, 64, beta=0.8)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        epsilon: float = 0.03,
        beta: float = 0.75,
        gamma: float = 0.001,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.epsilon = epsilon
        self.beta = beta
        self.gamma = gamma
        self.weight_linear = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.bias)
        for weight in (self.weight_linear, self.weight_hh):
            nn.init.normal_(weight, 0.0, 1.0 / math.sqrt(self.hidden_size))

    def recurrent_weights(self) -> State:
        return tuple(
            lipschitz_matrix(weight, self.beta, self.gamma).mT
            for weight in (self.weight_linear, self.weight_hh)
        )

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (h,), (linear_t, matrix_t) = state, weights
        flow = h @ linear_t + torch.tanh(torch.addmm(drive, h, matrix_t))
        return (h + self.epsilon * flow,)

    def _settings(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "beta": self.beta, "gamma": self.gamma}
