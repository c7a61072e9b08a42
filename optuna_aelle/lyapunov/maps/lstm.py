"""The LSTM: its true map of (h, c), and the paper's ∂h/∂h.

c' = f c + i g, h' = o tanh c', with i, f, o = σ(·), g = tanh(·) of W x + U h + b; with a
projection (`torch.nn.LSTM(proj_size=...)`), h' = P (o tanh c').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov import compiled
from optuna_aelle.lyapunov.maps.base import DenseJacobian
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StagedTangent
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.maps.base import along_systems
from optuna_aelle.lyapunov.maps.base import by_weight
from optuna_aelle.lyapunov.maps.base import linear
from optuna_aelle.lyapunov.maps.base import log_det_of
from optuna_aelle.lyapunov.maps.base import sigmoid_derivative
from optuna_aelle.lyapunov.maps.base import tanh_derivative
from optuna_aelle.lyapunov.maps.mixed import mix
from optuna_aelle.lyapunov.maps.mixed import total_bias
from optuna_aelle.lyapunov.renormalization import renormalize_lu

# A forget gate that lets less through than this would drown in rounding errors of other terms.
_LOG_SHUT = math.log(1e-5)
# Smaller factors are carried as logarithms: their products would underflow.
_LOG_FLOOR = -300.0


class _LSTMMap(RecurrentMap):
    """Weights, state and step. The state carries the output gate as a third part."""

    def __init__(self, parameters: Parameters) -> None:
        self.device = parameters.device
        weight_hh = parameters["weight_hh"]
        self.hidden_size = weight_hh.shape[1] // 4
        self.part_sizes = (weight_hh.shape[-1], self.hidden_size)
        self.weight_ih = parameters["weight_ih"]
        self.bias = total_bias(parameters)
        self._weight_hh_t = weight_hh.mT
        projection = parameters.get("weight_hr")
        self._projection_t = None if projection is None else projection.mT.contiguous()
        # Transposed gate by gate, so that forming Jᵀ scales contiguous rows.
        self._gates_t = [gate.mT.contiguous() for gate in weight_hh.chunk(4, dim=1)]
        self._narrow_gates_t = self._gates_t
        self._narrow_projection_t = self._projection_t

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        self._narrow_gates_t = [gate.to(dtype) for gate in self._gates_t]
        if self._projection_t is not None:
            self._narrow_projection_t = self._projection_t.to(dtype)

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def initial_state(self, n_models: int, batch: int, given: State | None) -> State:
        h, c = super().initial_state(n_models, batch, given)
        return h, c, torch.zeros_like(c)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        h, c, _ = state
        y = torch.baddbmm(drive, h, self._weight_hh_t)
        i, f, _, o = torch.sigmoid(y).chunk(4, dim=-1)
        size = self.hidden_size
        c = torch.addcmul(f * c, i, torch.tanh(y[..., 2 * size : 3 * size]))
        h = o * torch.tanh(c)
        return (self._project(h), c, o), (y,)

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        functions = compiled.runs_states(self.hidden_size, drive.device)
        if functions is None or self._projection_t is not None:
            return super().unroll(drive, state)
        places, y = self._places(drive, state), drive.new_empty(drive.shape)
        *derivatives, forget = drive.new_empty(5, *places[0][1:].shape)
        slope = torch.empty_like(places[0])
        arrays = [along_systems(part) for part in (drive, *places, y, *derivatives, forget, slope)]
        functions.run_lstm(self._padded_weights, *arrays)
        before, after = zip(*((part[:-1], part[1:]) for part in places), strict=True)
        return Trajectory((y,), before, after, (*derivatives, forget, slope[:-1], slope[1:]))

    @cached_property
    def _padded_weights(self) -> npt.NDArray[np.float64]:
        return compiled.padded(self._weight_hh_t)

    def _project(self, hidden: Tensor) -> Tensor:
        return hidden if self._projection_t is None else hidden @ self._projection_t

    def _project_frame(self, frame: Tensor) -> Tensor:
        """P times the tangent vectors of ``frame (S, k, H)``."""
        projection_t = self._narrow_projection_t
        return frame if projection_t is None else by_weight(frame, projection_t)

    def _gate_derivatives(self, trajectory: Trajectory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """∂c'/∂y for i, f, g and ∂(o tanh c')/∂y for o, each ``(T, M, B, H)``."""
        if trajectory.derivatives:
            d_i, d_f, d_g, d_o, *_ = trajectory.derivatives
            return d_i, d_f, d_g, d_o
        y_i, y_f, y_g, y_o = trajectory.kept[0].chunk(4, dim=-1)
        return (
            torch.tanh(y_g) * sigmoid_derivative(y_i),
            trajectory.before[1] * sigmoid_derivative(y_f),
            torch.sigmoid(y_i) * tanh_derivative(y_g),
            torch.tanh(trajectory.after[1]) * sigmoid_derivative(y_o),
        )


class ProjectedHiddenLSTMMap(_LSTMMap):
    """∂h'/∂h with c held fixed, as in Vogt et al. (arXiv 2204.04876), here of a projected h.

    J = P (diag(D g i') U_i + diag(D c f') U_f + diag(D i g') U_g + diag(tanh c' o') Uₒ) with
    D = o sech² c'.

    Example:
        >>> projected = torch.nn.LSTM(3, 4, proj_size=2)
        >>> parameters = Parameters([projected], torch.device("cpu"), "_l0")
        >>> ProjectedHiddenLSTMMap(parameters).state_size
        2
    """

    @property
    def state_size(self) -> int:
        return self.part_sizes[0]

    def linearize(self, trajectory: Trajectory) -> State:
        d_i, d_f, d_g, d_o = self._gate_derivatives(trajectory)
        slope = _slope_after(trajectory)
        return d_i * slope, d_f * slope, d_g * slope, d_o

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        return self._project_frame(torch.bmm(frame, self._hidden_jacobian_t(coefficients)))

    def _hidden_jacobian_t(self, coefficients: State) -> Tensor:
        """Jᵀ of the unprojected hidden state."""
        gates_t = self._narrow_gates_t
        memory = self.scratch(len(coefficients[0]), *gates_t[0].shape[1:], like=coefficients[0])
        return mix(gates_t, coefficients, memory)


class HiddenLSTMMap(ProjectedHiddenLSTMMap, DenseJacobian):
    """The same without a projection, P = I.

    Example:
        >>> layer = HiddenLSTMMap(Parameters([torch.nn.LSTM(3, 4)], torch.device("cpu"), "_l0"))
        >>> layer.state_size
        4
    """

    def compact(self) -> tuple[Literal["mixed", "lstm"], Sequence[Tensor]] | None:
        return "mixed", self._gates_t

    def jacobian_t(self, coefficients: State) -> Tensor:
        return self._hidden_jacobian_t(coefficients)


def hidden_lstm_map(parameters: Parameters) -> ProjectedHiddenLSTMMap:
    """∂h'/∂h of an LSTM, with a projection or without.

    Example:
        >>> projected = torch.nn.LSTM(3, 4, proj_size=2)
        >>> type(hidden_lstm_map(Parameters([projected], torch.device("cpu"), "_l0"))).__name__
        'ProjectedHiddenLSTMMap'
    """
    projected = parameters.get("weight_hr") is not None
    return (ProjectedHiddenLSTMMap if projected else HiddenLSTMMap)(parameters)


class LSTMMap(_LSTMMap, StagedTangent):
    """The map of (h, c), carried as (u, dc) with u = dh − D dc, D = o sech² c.

    Then u' = diag(tanh c' o') Uₒ dh and dc' = A dh + f dc: the cancellation between dh' and D' dc'
    is never computed. A projection mixes the hidden units, so that there (h, c) stay as they are.

    Example:
        >>> layer = LSTMMap(Parameters([torch.nn.LSTM(3, 4)], torch.device("cpu"), "_l0"))
        >>> layer.state_size
        8
    """

    narrow_share = 0.25

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.sheared = self._projection_t is None

    @cached_property
    def _log_det_output(self) -> Tensor:
        return log_det_of(self._gates_t[3])

    def linearize(self, trajectory: Trajectory) -> State:
        if trajectory.derivatives and self.sheared:
            return trajectory.derivatives[:6]
        forget = torch.sigmoid(trajectory.kept[0].chunk(4, dim=-1)[1])
        state = trajectory.before if self.sheared else trajectory.after
        return (*self._gate_derivatives(trajectory), forget, _cell_slope(state))

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        d_i, d_f, d_g, d_o, forget, slope = coefficients
        gates_t = self._narrow_gates_t
        dh, dc = torch.split(frame, list(self.part_sizes), dim=-1)
        if self.sheared:
            dh = torch.addcmul(dh, dc, slope[:, None, :])
        rows, width = gates_t[0].shape[1:]
        stacked_t = self.scratch(len(frame), rows, 2 * width, like=frame)
        mix(gates_t[3:], (d_o,), stacked_t[..., :width])
        mix(gates_t[:3], (d_i, d_f, d_g), stacked_t[..., width:])
        out = torch.bmm(dh, stacked_t)
        hidden, cell = out.chunk(2, dim=-1)
        cell.addcmul_(dc, forget[:, None, :])
        if self.sheared:
            return out
        hidden.addcmul_(cell, slope[:, None, :])
        return torch.cat([self._project_frame(hidden), cell], dim=-1)

    def compact(self) -> tuple[Literal["mixed", "lstm"], Sequence[Tensor]] | None:
        return ("lstm", self._gates_t) if self.sheared else None

    def delicate(self, trajectory: Trajectory) -> State | None:
        log_forget = F.logsigmoid(trajectory.kept[0].chunk(4, dim=-1)[1])
        if not self.sheared or bool(log_forget.min() > _LOG_SHUT):
            return None
        d_i, d_f, d_g, d_o = self._gate_derivatives(trajectory)
        log_output = self._log_output(trajectory)
        signs = torch.sign(trajectory.after[1])
        forget = log_forget.clamp_min(_LOG_FLOOR)
        # c' = 0 exactly is a dead row, which nothing may lift.
        output = log_output.clamp_min(_LOG_FLOOR).where(~log_output.isneginf(), log_output)
        output_lift = (log_output - output).nan_to_num(nan=0.0)
        none = torch.zeros_like(forget)
        return (
            d_i,
            d_f,
            d_g,
            signs * output.exp(),
            forget.exp(),
            _cell_slope(trajectory.before),
            torch.cat([none, log_forget - forget], dim=-1),
            torch.cat([output_lift, none], dim=-1),
        )

    def delicate_tangent(self, coefficients: State, frame: Tensor) -> tuple[Tensor, Tensor]:
        d_i, d_f, d_g, d_o, forget, slope, cell_lift, output_lift = coefficients
        gates_t = self._narrow_gates_t
        u, dc = frame.chunk(2, dim=-1)
        dh = torch.addcmul(u, dc, slope[:, None, :])
        # J = (row-scaled, well-conditioned) times (row-scaled, well-conditioned).
        staged, growth = renormalize_lu(
            torch.cat([dh, dc * forget[:, None, :]], dim=-1), cell_lift
        )
        dh, kept = staged.chunk(2, dim=-1)
        cell_t = mix(
            gates_t[:3],
            (d_i, d_f, d_g),
            self.scratch(len(frame), *gates_t[0].shape[1:], like=frame),
        )
        following = torch.cat(
            [by_weight(dh, gates_t[3]) * d_o[:, None, :], torch.baddbmm(kept, dh, cell_t)], dim=-1
        )
        following, more = renormalize_lu(following, output_lift)
        return following, growth + more

    def log_abs_det(self, trajectory: Trajectory) -> Tensor | None:
        if not self.sheared:
            return None
        if trajectory.derivatives:
            *_, d_o, forget, _, _ = trajectory.derivatives
            known = compiled.sum_of_logs(d_o * forget)
            if known is not None:
                return known + self._log_det_output
        log_forget = F.logsigmoid(trajectory.kept[0].chunk(4, dim=-1)[1])
        log_rows = log_forget + self._log_output(trajectory)
        return log_rows.sum(dim=-1) + self._log_det_output

    def _log_output(self, trajectory: Trajectory) -> Tensor:
        """ln|tanh c' o'|, finite where the product underflows."""
        y_o = trajectory.kept[0].chunk(4, dim=-1)[3]
        log_squashed = torch.tanh(trajectory.after[1]).abs().log()
        return log_squashed + F.logsigmoid(y_o) + F.logsigmoid(-y_o)

    def to_working(self, state: State, frame: Tensor) -> Tensor:
        return self._shear(state, frame, -1.0)

    def from_working(self, state: State, frame: Tensor) -> Tensor:
        return self._shear(state, frame, 1.0)

    def _shear(self, state: State, frame: Tensor, sign: float) -> Tensor:
        if not self.sheared:
            return frame
        first, dc = frame.chunk(2, dim=-1)
        slope = _cell_slope(state).flatten(0, 1).to(frame.dtype)[:, None, :]
        return torch.cat([torch.addcmul(first, dc, slope, value=sign), dc], dim=-1)


def _slope_after(trajectory: Trajectory) -> Tensor:
    """D of the states that follow."""
    known = trajectory.derivatives
    return known[6] if known else _cell_slope(trajectory.after)


def _cell_slope(state: State) -> Tensor:
    """D = o sech² c: how the hidden state follows the cell. Before the first step o is 0, for any
    D is a valid choice of coordinates as long as frame and coefficients share it."""
    _, c, o = state
    return o * tanh_derivative(c)
