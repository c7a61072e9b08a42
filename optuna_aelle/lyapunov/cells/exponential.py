"""The exponential RNN: orthogonal, by the exponential of a skew matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


def orthogonal_matrix(weight: Tensor) -> Tensor:
    """exp(A) with the skew A that has ``weight (..., H, H)`` above its diagonal.

    Example:
        >>> matrix = orthogonal_matrix(torch.randn(4, 4))
        >>> torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-5)
        True
    """
    upper = weight.triu(1)
    return torch.matrix_exp(upper - upper.mT)


class ExponentialRNN(RecurrentLayer):
    """An orthogonal RNN: h' = φ(exp(A) h + V x + b) with A skew-symmetric.

    φ is modReLU, sign(y) relu(|y| + b_φ), or tanh.

    Source: Lezcano-Casado and Martínez-Rubio, "Cheap Orthogonal Constraints in Neural Networks",
    ICML 2019 (arXiv 1901.08428); modReLU from Helfrich, Willmott and Ye (arXiv 1707.09520).

    Args:
        input_size: D.
        hidden_size: H.
        nonlinearity: ``"modrelu"`` or ``"tanh"``.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, h = ExponentialRNN(3, 64, nonlinearity="tanh")(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: str = "modrelu",
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        if nonlinearity not in ("modrelu", "tanh"):
            raise ValueError(
                f"nonlinearity must be 'modrelu' or 'tanh', but got {nonlinearity!r}."
            )
        self.nonlinearity = nonlinearity
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.modrelu_bias = (
            nn.Parameter(torch.empty(hidden_size)) if nonlinearity == "modrelu" else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight_ih)
        nn.init.zeros_(self.bias)
        # Rotations by random angles in planes of two units each (Henaff, Szlam and LeCun).
        nn.init.zeros_(self.weight_hh)
        with torch.no_grad():
            planes = torch.arange(0, self.hidden_size - 1, 2)
            self.weight_hh[planes, planes + 1] = torch.empty(len(planes)).uniform_(
                -math.pi, math.pi
            )
            if self.modrelu_bias is not None:
                self.modrelu_bias.uniform_(-0.01, 0.01)

    def recurrent_weights(self) -> State:
        return (orthogonal_matrix(self.weight_hh).mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        y = torch.addmm(drive, state[0], weights[0])
        if self.modrelu_bias is None:
            return (torch.tanh(y),)
        return (torch.sign(y) * torch.relu(y.abs() + self.modrelu_bias),)

    def _settings(self) -> dict[str, object]:
        return {"nonlinearity": self.nonlinearity}
