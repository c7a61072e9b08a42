"""Layers whose Jacobian is a sum of row-scaled matrices, J = diag(a) + Σ diag(d_g) U_g.

With all rows of the state in one (H,) vector, this covers the vanilla and the orthogonal RNN, the
GRU, the antisymmetric and the Lipschitz RNN, and the paper's ∂h/∂h of an LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import compiled
from optuna_aelle.lyapunov.maps.base import DenseJacobian
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.maps.base import along_systems
from optuna_aelle.lyapunov.maps.base import by_weight
from optuna_aelle.lyapunov.maps.base import linear
from optuna_aelle.lyapunov.maps.base import log_det_of
from optuna_aelle.lyapunov.maps.base import log_tanh_derivative
from optuna_aelle.lyapunov.maps.base import sigmoid_derivative
from optuna_aelle.lyapunov.maps.base import tanh_derivative


class MixedMap(DenseJacobian):
    """J = diag(a) + Σ diag(d_g) U_g.

    Args:
        parameters: Stacked parameters; for `device`.
        gates: U_g, each ``(M, H, H)``. `linearize` returns one d_g for each, then a if there is
            one.

    Example:
        >>> parameters = Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0")
        >>> layer = VanillaMap(parameters)  # one gate, U
        >>> layer.jacobian_t((torch.ones(1, 4).double(),)).equal(parameters["weight_hh"].mT)
        True
    """

    def __init__(self, parameters: Parameters, *gates: Tensor) -> None:
        self.device = parameters.device
        self.hidden_size = gates[0].shape[-1]
        self.part_sizes = (self.hidden_size,)
        # Transposed gate by gate, so that forming Jᵀ scales contiguous rows.
        self._gates_t = [gate.mT.contiguous() for gate in gates]
        self._narrow_gates_t = self._gates_t

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        self._narrow_gates_t = [gate.to(dtype) for gate in self._gates_t]

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        gates_t = self._narrow_gates_t
        if len(gates_t) > 1:
            return torch.bmm(frame, self.jacobian_t(coefficients))
        # One matrix for all sequences of a network: one large product.
        scales, *diagonal = coefficients
        out = by_weight(frame, gates_t[0]).mul_(scales[:, None, :])
        return out.addcmul_(frame, diagonal[0][:, None, :]) if diagonal else out

    def compact(self) -> tuple[Literal["mixed", "lstm"], Sequence[Tensor]] | None:
        return "mixed", self._gates_t

    def jacobian_t(self, coefficients: State) -> Tensor:
        gates_t = self._narrow_gates_t
        scales, diagonal = coefficients[: len(gates_t)], coefficients[len(gates_t) :]
        memory = self.scratch(len(scales[0]), *gates_t[0].shape[1:], like=scales[0])
        jacobian_t = mix(gates_t, scales, memory)
        if diagonal:
            torch.diagonal(jacobian_t, dim1=-2, dim2=-1).add_(diagonal[0])
        return jacobian_t


def mix(gates_t: Sequence[Tensor], scales: State, out: Tensor) -> Tensor:
    """Σ diag(d) U, transposed, from Uᵀ ``(M, H, H)`` and d ``(S, H)`` each.

    Args:
        gates_t: Uᵀ of each gate.
        scales: d of each gate.
        out: ``(S, H, H)`` for the result. Memory that is fresh at each step would cost more than
            filling it.

    Example:
        >>> mix([torch.ones(1, 2, 2)], (torch.tensor([[1.0, 2.0]]),), torch.empty(1, 2, 2))
        tensor([[[1., 2.],
                 [1., 2.]]])
    """
    per_model = out.view(len(gates_t[0]), -1, *out.shape[1:])
    for i, (gate_t, scale) in enumerate(zip(gates_t, scales, strict=True)):
        columns = scale.view(*per_model.shape[:2], 1, -1)
        if i == 0:
            torch.mul(gate_t[:, None], columns, out=per_model)
        else:
            per_model.addcmul_(gate_t[:, None], columns)
    return out


class VanillaMap(MixedMap):
    """h' = φ(W x + U h + b) with φ tanh or ReLU (`torch.nn.RNN`): J = diag(φ') U.

    Example:
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> layer.state_size
        4
    """

    def __init__(self, parameters: Parameters) -> None:
        self.relu = getattr(parameters.first, "nonlinearity", "tanh") == "relu"
        self.weight_ih = parameters["weight_ih"]
        weight_hh = self._recurrent_matrix(parameters)
        self.bias = self._bias(parameters)
        self._weight_hh_t = weight_hh.mT
        super().__init__(parameters, weight_hh)

    def _recurrent_matrix(self, parameters: Parameters) -> Tensor:
        return parameters["weight_hh"]

    def _bias(self, parameters: Parameters) -> Tensor | None:
        return total_bias(parameters)

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        y = torch.baddbmm(drive, state[0], self._weight_hh_t)
        return (torch.relu(y) if self.relu else torch.tanh(y),), (y,)

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        functions = compiled.runs_states(self.hidden_size, drive.device)
        if functions is None:
            return super().unroll(drive, state)
        (h,) = self._places(drive, state)
        y, slope = drive.new_empty(2, *drive.shape)
        arrays = [along_systems(part) for part in (drive, h, y, slope)]
        functions.run_vanilla(self._padded_weights, arrays[0], self.relu, *arrays[1:])
        return Trajectory((y,), (h[:-1],), (h[1:],), (slope,))

    @cached_property
    def _padded_weights(self) -> npt.NDArray[np.float64]:
        return compiled.padded(self._weight_hh_t)

    def linearize(self, trajectory: Trajectory) -> State:
        if trajectory.derivatives:
            return trajectory.derivatives
        (y,) = trajectory.kept
        return ((y > 0).double() if self.relu else tanh_derivative(y),)

    def log_abs_det(self, trajectory: Trajectory) -> Tensor | None:
        (y,) = trajectory.kept
        known = trajectory.derivatives
        log_slopes = compiled.sum_of_logs(known[0]) if known else None
        if log_slopes is None:
            log_slope = (y > 0).double().log() if self.relu else log_tanh_derivative(y)
            log_slopes = log_slope.sum(dim=-1)
        return log_slopes + self._log_det_weight

    @cached_property
    def _log_det_weight(self) -> Tensor:
        return log_det_of(self._weight_hh_t)


class GRUMap(MixedMap):
    """h' = (1 − z) n + z h with n = tanh(aₙ + r q), q = Uₙ h + bₙ (`torch.nn.GRU`).

    J = diag(z) + diag((1 − z) n' q r') U_r + diag((h − n) z') U_z + diag((1 − z) n' r) Uₙ.

    Example:
        >>> layer = GRUMap(Parameters([torch.nn.GRU(3, 4)], torch.device("cpu"), "_l0"))
        >>> layer.state_size
        4
    """

    def __init__(self, parameters: Parameters) -> None:
        weight_hh = parameters["weight_hh"]
        self.weight_ih = parameters["weight_ih"]
        self._weight_hh_t = weight_hh.mT
        bias_ih, bias_hh = parameters.get("bias_ih"), parameters.get("bias_hh")
        size = weight_hh.shape[-1]
        zero = weight_hh.new_zeros(len(weight_hh), 3 * size)
        self._bias_ih = zero if bias_ih is None else bias_ih
        self._bias_hh = (zero if bias_hh is None else bias_hh)[:, None]
        super().__init__(parameters, *weight_hh.chunk(3, dim=1))

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self._bias_ih)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        (h,) = state
        split = 2 * self.hidden_size
        u = torch.baddbmm(self._bias_hh, h, self._weight_hh_t)
        y_rz = drive[..., :split] + u[..., :split]
        r, z = torch.sigmoid(y_rz).chunk(2, dim=-1)
        q = u[..., split:]
        y_n = torch.addcmul(drive[..., split:], r, q)
        return (torch.lerp(torch.tanh(y_n), h, z),), (y_rz, y_n, q)

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        functions = compiled.runs_states(self.hidden_size, drive.device)
        if functions is None:
            return super().unroll(drive, state)
        size = self.hidden_size
        (h,) = self._places(drive, state)
        y_rz = drive.new_empty(*drive.shape[:3], 2 * size)
        y_n, q, *derivatives = drive.new_empty(6, *drive.shape[:3], size)
        arrays = [along_systems(part) for part in (drive, h, y_rz, y_n, q, *derivatives)]
        functions.run_gru(self._padded_weights, self._bias_hh[:, 0].numpy(), *arrays)
        return Trajectory((y_rz, y_n, q), (h[:-1],), (h[1:],), tuple(derivatives))

    @cached_property
    def _padded_weights(self) -> npt.NDArray[np.float64]:
        return compiled.padded(self._weight_hh_t)

    def linearize(self, trajectory: Trajectory) -> State:
        if trajectory.derivatives:
            return trajectory.derivatives
        y_rz, y_n, q = trajectory.kept
        (h,) = trajectory.before
        y_r, y_z = y_rz.chunk(2, dim=-1)
        slope = torch.sigmoid(-y_z) * tanh_derivative(y_n)
        d_z = (h - torch.tanh(y_n)) * sigmoid_derivative(y_z)
        d_r = slope * q * sigmoid_derivative(y_r)
        return d_r, d_z, slope * torch.sigmoid(y_r), torch.sigmoid(y_z)


def total_bias(parameters: Parameters) -> Tensor | None:
    """bias_ih + bias_hh, ``(M, G)``, for cells that only ever see their sum.

    Example:
        >>> unbiased = torch.nn.RNN(3, 4, bias=False)
        >>> total_bias(Parameters([unbiased], torch.device("cpu"), "_l0")) is None
        True
    """
    first, second = parameters.get("bias_ih"), parameters.get("bias_hh")
    return None if first is None or second is None else first + second


class OrthogonalMap(VanillaMap):
    """h' = φ(W x + exp(A) h + b) with A skew (`ExponentialRNN`): the determinant is that of φ'.

    Example:
        >>> layer = OrthogonalMap(Parameters([cells.ExponentialRNN(3, 4)], torch.device("cpu")))
        >>> layer.state_size
        4
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self._modrelu_bias = parameters.get("modrelu_bias")

    def _recurrent_matrix(self, parameters: Parameters) -> Tensor:
        return cells.orthogonal_matrix(parameters["weight_hh"])

    def _bias(self, parameters: Parameters) -> Tensor | None:
        return parameters["bias"]

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        if self._modrelu_bias is None:
            return super().unroll(drive, state)
        return RecurrentMap.unroll(self, drive, state)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        if self._modrelu_bias is None:
            return super().step(drive, state)
        y = torch.baddbmm(drive, state[0], self._weight_hh_t)
        size = torch.relu(y.abs() + self._modrelu_bias[:, None])
        return (torch.sign(y) * size,), (y,)

    def linearize(self, trajectory: Trajectory) -> State:
        return trajectory.derivatives or (self._slope(trajectory.kept[0]),)

    def log_abs_det(self, trajectory: Trajectory) -> Tensor | None:
        if self._modrelu_bias is None:
            return log_tanh_derivative(trajectory.kept[0]).sum(dim=-1)
        return self._slope(trajectory.kept[0]).log().sum(dim=-1)

    def _slope(self, y: Tensor) -> Tensor:
        if self._modrelu_bias is None:
            return tanh_derivative(y)
        return (y.abs() + self._modrelu_bias[:, None] > 0.0).double()


class AntisymmetricMap(MixedMap):
    """h' = h + ε z tanh(A h + aₙ) with A = W − Wᵀ − γ I and z = 1 or σ(A h + a_z).

    J = I + ε diag(z tanh' + tanh z') A.

    Example:
        >>> parameters = Parameters([cells.AntisymmetricRNN(3, 4)], torch.device("cpu"))
        >>> AntisymmetricMap(parameters).state_size
        4
    """

    def __init__(self, parameters: Parameters) -> None:
        cell = parameters.first
        assert isinstance(cell, cells.AntisymmetricRNN)
        self.epsilon = cell.epsilon
        self.gated = cell.gated
        self.weight_ih, self.bias = parameters["weight_ih"], parameters["bias"]
        matrix = cells.antisymmetric_matrix(parameters["weight_hh"], cell.gamma)
        self._matrix_t = matrix.mT
        super().__init__(parameters, matrix)

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        (h,) = state
        recurrent = h @ self._matrix_t
        if not self.gated:
            y = drive + recurrent
            return (h + self.epsilon * torch.tanh(y),), (y,)
        y, y_z = (drive + torch.cat([recurrent, recurrent], dim=-1)).chunk(2, dim=-1)
        return (h + self.epsilon * torch.sigmoid(y_z) * torch.tanh(y),), (y, y_z)

    def linearize(self, trajectory: Trajectory) -> State:
        y = trajectory.kept[0]
        slope = tanh_derivative(y)
        if self.gated:
            y_z = trajectory.kept[1]
            slope = torch.sigmoid(y_z) * slope + torch.tanh(y) * sigmoid_derivative(y_z)
        return self.epsilon * slope, torch.ones_like(slope)


class LipschitzMap(MixedMap):
    """h' = h + ε (A h + tanh(W h + U x + b)): J = (I + ε A) + ε diag(tanh') W.

    Example:
        >>> layer = LipschitzMap(Parameters([cells.LipschitzRNN(3, 4)], torch.device("cpu")))
        >>> layer.state_size
        4
    """

    def __init__(self, parameters: Parameters) -> None:
        cell = parameters.first
        assert isinstance(cell, cells.LipschitzRNN)
        self.epsilon = cell.epsilon
        self.weight_ih, self.bias = parameters["weight_ih"], parameters["bias"]
        linear_part, weight = (
            cells.lipschitz_matrix(parameters[name], cell.beta, cell.gamma)
            for name in ("weight_linear", "weight_hh")
        )
        self._both_t = torch.cat([linear_part, weight], dim=1).mT
        eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
        super().__init__(parameters, weight, eye + self.epsilon * linear_part)

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        (h,) = state
        flow, recurrent = (h @ self._both_t).chunk(2, dim=-1)
        y = drive + recurrent
        return (h + self.epsilon * (flow + torch.tanh(y)),), (y,)

    def linearize(self, trajectory: Trajectory) -> State:
        slope = self.epsilon * tanh_derivative(trajectory.kept[0])
        return slope, torch.ones_like(slope)
