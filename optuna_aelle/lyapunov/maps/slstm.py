"""The scalar memory of the xLSTM, as the map of (h, c / n, ln n)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.maps.base import linear
from optuna_aelle.lyapunov.maps.base import sigmoid_derivative
from optuna_aelle.lyapunov.maps.base import tanh_derivative
from optuna_aelle.lyapunov.maps.mixed import mix


class SLSTMMap(RecurrentMap):
    """u' = s u + (1 − s) z, l' = ln(f e^l + e^i), h' = o u' with s = f e^l / (f e^l + e^i).

    Here u = c / n and l = ln n; i, ln f, z and o are made of y = W x + R h + b as in `SLSTM`.
    Carried as (dh − o du, du, dl), so that the cancellation between dh' and o' du' is never
    computed; the state has the output gate o as a fourth part.

    Example:
        >>> layer = SLSTMMap(Parameters([cells.SLSTM(3, 4)], torch.device("cpu")))
        >>> layer.state_size
        12
    """

    narrow_share = 0.25
    dense_state_size = 384

    def __init__(self, parameters: Parameters) -> None:
        self.device = parameters.device
        self.weight_ih, self.bias = parameters["weight_ih"], parameters["bias"]
        matrices = []
        for module in parameters.modules:
            assert isinstance(module, cells.SLSTM)
            matrices.append(parameters.prepare(module.recurrent_matrix()))
        weight_hh = torch.stack(matrices)
        self._weight_hh_t = weight_hh.mT
        self._gates_t = [gate.mT.contiguous() for gate in weight_hh.chunk(4, dim=1)]
        self._narrow_gates_t = self._gates_t
        size = weight_hh.shape[-1]
        self.part_sizes = (size, size, size)

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        self._narrow_gates_t = [gate.to(dtype) for gate in self._gates_t]

    def drive(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight_ih, self.bias)

    def initial_state(self, n_models: int, batch: int, given: State | None) -> State:
        h, content, log_n = super().initial_state(n_models, batch, given)
        return h, content, log_n, torch.zeros_like(h)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        h, content, log_n, _ = state
        y = torch.baddbmm(drive, h, self._weight_hh_t)
        y_i, y_f, y_z, y_o = y.chunk(4, dim=-1)
        kept = F.logsigmoid(y_f) + log_n
        content = torch.lerp(torch.tanh(y_z), content, torch.sigmoid(kept - y_i))
        output = torch.sigmoid(y_o)
        return (output * content, content, torch.logaddexp(kept, y_i), output), (y,)

    def linearize(self, trajectory: Trajectory) -> State:
        (y,) = trajectory.kept
        _, content, log_n, output = trajectory.before
        y_i, y_f, y_z, y_o = y.chunk(4, dim=-1)
        apart = F.logsigmoid(y_f) + log_n - y_i
        share, rest = torch.sigmoid(apart), torch.sigmoid(-apart)
        # ∂u'/∂(ln f + l) = −∂u'/∂i.
        moved = sigmoid_derivative(apart) * (content - torch.tanh(y_z))
        shut = torch.sigmoid(-y_f)
        return (
            moved * shut,
            rest * tanh_derivative(y_z),
            share * shut,
            rest,
            trajectory.after[1] * sigmoid_derivative(y_o),
            share,
            moved,
            output,
        )

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        of_f, of_z, log_of_f, log_of_i, of_o, share, moved, output = coefficients
        gate_i, gate_f, gate_z, gate_o = self._narrow_gates_t
        dh, du, dl = frame.chunk(3, dim=-1)
        dh = torch.addcmul(dh, du, output[:, None, :])
        size = self.part_sizes[0]
        stacked_t = self.scratch(len(frame), size, 3 * size, like=frame)
        mix([gate_o], (of_o,), stacked_t[..., :size])
        mix([gate_i, gate_f, gate_z], (-moved, of_f, of_z), stacked_t[..., size : 2 * size])
        mix([gate_i, gate_f], (log_of_i, log_of_f), stacked_t[..., 2 * size :])
        out = torch.bmm(dh, stacked_t)
        _, content, log_n = out.chunk(3, dim=-1)
        content.addcmul_(du, share[:, None, :]).addcmul_(dl, moved[:, None, :])
        log_n.addcmul_(dl, share[:, None, :])
        return out

    def to_working(self, state: State, frame: Tensor) -> Tensor:
        return self._shear(state, frame, -1.0)

    def from_working(self, state: State, frame: Tensor) -> Tensor:
        return self._shear(state, frame, 1.0)

    def _shear(self, state: State, frame: Tensor, sign: float) -> Tensor:
        first, du, dl = frame.chunk(3, dim=-1)
        output = state[3].flatten(0, 1).to(frame.dtype)[:, None, :]
        return torch.cat([torch.addcmul(first, du, output, value=sign), du, dl], dim=-1)
