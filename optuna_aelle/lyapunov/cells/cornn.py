"""The coRNN: coupled oscillators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


class CoRNN(RecurrentLayer):
    """Coupled damped, driven oscillators with positions y and velocities z.

    z' = z + Δt (tanh(W y + V z + U x + b) − γ y − ε z) and y' = y + Δt z'.

    Source: Rusch and Mishra, "Coupled Oscillatory RNN", ICLR 2021 (arXiv 2010.00951), with the
    damping term explicit.

    Args:
        input_size: D.
        hidden_size: H oscillators; the state has 2H numbers, the outputs are y.
        dt: Step size Δt.
        gamma: Stiffness γ.
        epsilon: Damping ε.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, (y, z) = CoRNN(3, 64, dt=0.1)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    n_parts = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.dt = dt
        self.gamma = gamma
        self.epsilon = epsilon
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, 2 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.weight_hh, self.bias)

    def recurrent_weights(self) -> State:
        return (self.weight_hh.mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        y, z = state
        force = torch.tanh(torch.addmm(drive, torch.cat([y, z], dim=-1), weights[0]))
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        return y + self.dt * z, z

    def _settings(self) -> dict[str, object]:
        return {"dt": self.dt, "gamma": self.gamma, "epsilon": self.epsilon}
