"""Long expressive memory: two states with time steps of their own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


class LEM(RecurrentLayer):
    """Long expressive memory: two states that choose their own time steps.

    s = Δt σ(W₁ y + V₁ x + b₁), r = Δt σ(W₂ y + V₂ x + b₂),
    z' = (1 − s) z + s tanh(W_z y + V_z x + b_z), y' = (1 − r) y + r tanh(W_y z' + V_y x + b_y).

    Source: Rusch, Mishra, Erichson and Mahoney, "Long Expressive Memory for Sequence Modeling",
    ICLR 2022 (arXiv 2110.04744).

    Args:
        input_size: D.
        hidden_size: H; the state has 2H numbers, the outputs are y.
        dt: The largest time step Δt.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, (y, z) = LEM(3, 64, dt=0.5)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    n_gates = 4
    n_parts = 2

    def __init__(
        self, input_size: int, hidden_size: int, *, dt: float = 1.0, batch_first: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.dt = dt
        # Rows for W₁, W₂ and W_z, which act on y; W_y acts on the new z.
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.weight_zy = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.weight_hh, self.weight_zy, self.bias)

    def recurrent_weights(self) -> State:
        return self.weight_hh.mT, self.weight_zy.mT

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (y, z), (weight_hh_t, weight_zy_t) = state, weights
        size = self.hidden_size
        first, second, candidate = torch.addmm(drive[:, : 3 * size], y, weight_hh_t).chunk(3, -1)
        z = torch.lerp(z, torch.tanh(candidate), self.dt * torch.sigmoid(first))
        candidate = torch.tanh(torch.addmm(drive[:, 3 * size :], z, weight_zy_t))
        return torch.lerp(y, candidate, self.dt * torch.sigmoid(second)), z

    def _settings(self) -> dict[str, object]:
        return {"dt": self.dt}
