"""Two-part states whose step has stages: coRNN and LEM.

One matrix serves all sequences of a network wherever the scaling comes after the product, so that
a step costs one or two large products and no Jacobian is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.maps.base import by_weight
from optuna_aelle.lyapunov.maps.base import linear
from optuna_aelle.lyapunov.maps.base import sigmoid_derivative
from optuna_aelle.lyapunov.maps.base import tanh_derivative
from optuna_aelle.lyapunov.maps.mixed import mix


class CoRNNMap(RecurrentMap):
    """z' = z + Δt (tanh(W y + V z + a) − γ y − ε z), y' = y + Δt z'; the state is (y, z).

    Example:
        >>> layer = CoRNNMap(Parameters([cells.CoRNN(3, 4)], torch.device("cpu")))
        >>> layer.state_size
        8
    """

    narrow_share = 0.25

    def __init__(self, parameters: Parameters) -> None:
        cell = parameters.first
        assert isinstance(cell, cells.CoRNN)
        self.dt, self.gamma, self.epsilon = cell.dt, cell.gamma, cell.epsilon
        self.device = parameters.device
        self.weight_ih, self.bias = parameters["weight_ih"], parameters["bias"]
        self._weight_hh_t = parameters["weight_hh"].mT.contiguous()
        self._narrow_weight_hh_t = self._weight_hh_t
        size = self._weight_hh_t.shape[-1]
        self.part_sizes = (size, size)

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        self._narrow_weight_hh_t = self._weight_hh_t.to(dtype)

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        y, z = state
        pre = torch.baddbmm(drive, torch.cat([y, z], dim=-1), self._weight_hh_t)
        z = z + self.dt * (torch.tanh(pre) - self.gamma * y - self.epsilon * z)
        return (y + self.dt * z, z), (pre,)

    def linearize(self, trajectory: Trajectory) -> State:
        return (self.dt * tanh_derivative(trajectory.kept[0]),)

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        (slope,) = coefficients
        dy, dz = frame.chunk(2, dim=-1)
        dz_after = by_weight(frame, self._narrow_weight_hh_t).mul_(slope[:, None, :])
        dz_after.add_(dz, alpha=1.0 - self.dt * self.epsilon).sub_(dy, alpha=self.dt * self.gamma)
        return torch.cat([dy + self.dt * dz_after, dz_after], dim=-1)


class LEMMap(RecurrentMap):
    """z' = (1 − s) z + s tanh(W_z y + a_z), y' = (1 − r) y + r tanh(W_y z' + a_y).

    s = Δt σ(W_1 y + a_1), r = Δt σ(W_2 y + a_2); the state is (y, z).

    Example:
        >>> layer = LEMMap(Parameters([cells.LEM(3, 4)], torch.device("cpu")))
        >>> layer.state_size
        8
    """

    narrow_share = 0.25

    def __init__(self, parameters: Parameters) -> None:
        assert isinstance(parameters.first, cells.LEM)
        self.dt = parameters.first.dt
        self.device = parameters.device
        self.weight_ih, self.bias = parameters["weight_ih"], parameters["bias"]
        first, second, candidate = parameters["weight_hh"].chunk(3, dim=1)
        self._weight_hh_t = parameters["weight_hh"].mT
        self._weights_t = [
            w.mT.contiguous() for w in (first, candidate, second, parameters["weight_zy"])
        ]
        self._narrow_weights_t = self._weights_t
        size = first.shape[-1]
        self.part_sizes = (size, size)

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        self._narrow_weights_t = [weight.to(dtype) for weight in self._weights_t]

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        y, z = state
        size = self.part_sizes[0]
        pre = torch.baddbmm(drive[..., : 3 * size], y, self._weight_hh_t)
        s, r = (self.dt * torch.sigmoid(pre[..., : 2 * size])).chunk(2, dim=-1)
        z = torch.lerp(z, torch.tanh(pre[..., 2 * size :]), s)
        pre_y = torch.baddbmm(drive[..., 3 * size :], z, self._weights_t[3])
        return (torch.lerp(y, torch.tanh(pre_y), r), z), (pre, pre_y)

    def linearize(self, trajectory: Trajectory) -> State:
        pre, pre_y = trajectory.kept
        y, z = trajectory.before
        pre_s, pre_r, pre_z = pre.chunk(3, dim=-1)
        s, r = self.dt * torch.sigmoid(pre_s), self.dt * torch.sigmoid(pre_r)
        return (
            (torch.tanh(pre_z) - z) * self.dt * sigmoid_derivative(pre_s),
            s * tanh_derivative(pre_z),
            (torch.tanh(pre_y) - y) * self.dt * sigmoid_derivative(pre_r),
            r * tanh_derivative(pre_y),
            # 1 − s and 1 − r, exact where a gate is all but open.
            1.0 - self.dt + self.dt * torch.sigmoid(-pre_s),
            1.0 - self.dt + self.dt * torch.sigmoid(-pre_r),
        )

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        d_s, d_z, d_r, d_y, keep_z, keep_y = (part[:, None, :] for part in coefficients)
        first, candidate, second, across = self._narrow_weights_t
        dy, dz = frame.chunk(2, dim=-1)
        width = self.part_sizes[0]
        stages_t = self.scratch(len(frame), width, 2 * width, like=frame)
        mix([first, candidate], coefficients[:2], stages_t[..., :width])
        mix([second], coefficients[2:3], stages_t[..., width:])
        dz_after, dy_after = torch.bmm(dy, stages_t).chunk(2, dim=-1)
        dz_after = dz_after.addcmul(dz, keep_z)
        dy_after = dy_after.addcmul(dy, keep_y).addcmul_(by_weight(dz_after, across), d_y)
        return torch.cat([dy_after, dz_after], dim=-1)
