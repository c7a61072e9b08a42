"""The antisymmetric RNN: a stable flow without decay."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


def antisymmetric_matrix(weight: Tensor, gamma: float) -> Tensor:
    """W − Wᵀ − γ I for ``weight (..., H, H)``.

    Example:
        >>> antisymmetric_matrix(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), gamma=1.0)
        tensor([[-1.,  2.],
                [-2., -1.]])
    """
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    return weight - weight.mT - gamma * eye


class AntisymmetricRNN(RecurrentLayer):
    """h' = h + ε tanh((W − Wᵀ − γ I) h + V x + b), a forward Euler step of a stable flow.

    With ``gated``, the update is multiplied by σ((W − Wᵀ − γ I) h + V_z x + b_z).

    Source: Chang, Chen, Haber and Chi, "AntisymmetricRNN", ICLR 2019 (arXiv 1902.09689).

    Args:
        input_size: D.
        hidden_size: H.
        epsilon: Step size ε.
        gamma: Diffusion strength γ.
        gated: Whether an input gate scales the update.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, h = AntisymmetricRNN(3, 64, gamma=0.01)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        epsilon: float = 0.1,
        gamma: float = 0.01,
        gated: bool = False,
        batch_first: bool = False,
    ) -> None:
        self.n_gates = 2 if gated else 1
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.epsilon = epsilon
        self.gamma = gamma
        self.gated = gated
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight_ih, 0.0, 1.0 / math.sqrt(self.input_size))
        nn.init.normal_(self.weight_hh, 0.0, 1.0 / math.sqrt(self.hidden_size))
        nn.init.zeros_(self.bias)

    def recurrent_weights(self) -> State:
        return (antisymmetric_matrix(self.weight_hh, self.gamma).mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (h,), (matrix_t,) = state, weights
        recurrent = h @ matrix_t
        if not self.gated:
            return (h + self.epsilon * torch.tanh(drive + recurrent),)
        candidate, gate = drive.chunk(2, dim=-1)
        update = torch.sigmoid(gate + recurrent) * torch.tanh(candidate + recurrent)
        return (h + self.epsilon * update,)

    def _settings(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "gamma": self.gamma, "gated": self.gated}
