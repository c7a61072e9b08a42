"""What one recurrent layer does to tangent vectors.

Notation: x (B, D) input, h (B, H) hidden state, c (B, H) cell state, U the recurrent weights,
σ the logistic function, d• a tangent. A *frame* is a tensor (B, k, N): k tangent vectors of the
N-dimensional state for each of B sequences. Row-major (B, k, N) is LAPACK's column-major (N, k),
so renormalising a frame needs no transposition.

The state runs in float64; a frame may be narrower. Derivatives of saturating functions are written
in terms of e^(−|y|), because 1 − tanh² cancels to zero where the tail of the spectrum still lives.
"""

from __future__ import annotations

from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

StateKind = Literal["full", "hidden"]
State = tuple[Tensor, ...]
Derivative = tuple[Tensor, ...]

_LN2 = 0.6931471805599453
# Up to this size the dense Jacobians of a stretch are cheaper than one call per step.
_DENSE_STATE_SIZE = 64


def tanh_derivative(y: Tensor) -> Tensor:
    """sech²(y) without cancellation."""
    decay = torch.exp(-2.0 * y.abs())
    return 4.0 * decay / (1.0 + decay).square()


def log_tanh_derivative(y: Tensor) -> Tensor:
    """ln sech²(y), finite even where sech² underflows."""
    size = y.abs()
    return 2.0 * (_LN2 - size - torch.log1p(torch.exp(-2.0 * size)))


def sigmoid_derivative(y: Tensor) -> Tensor:
    """σ(y)σ(−y): exact in both tails."""
    return torch.sigmoid(y) * torch.sigmoid(-y)


class Weights(NamedTuple):
    """One layer's weights in `torch.nn`'s gate order: ``(G, D)``, ``(G, H)`` and ``(G,)``."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class RecurrentMap(ABC):
    """One layer as a map of its state, and the derivative of that map.

    A subclass runs the state along a stretch of T steps (`unroll`), which also returns the
    coefficients of the Jacobian J at each step, and carries a frame through one J (`tangent`).
    Only what is truly sequential is computed step by step. `to_working` and `from_working` change
    to coordinates in which J is better conditioned; they have determinant 1.
    """

    state_size: int
    given_parts: tuple[int, int]
    """How many tensors an initial state has, and the size of each: (2, H) for an LSTM."""
    dtype: torch.dtype = torch.float64

    @abstractmethod
    def drive(self, inputs: Tensor) -> Tensor:
        """The inputs' share of the pre-activations: ``(T, B, D) -> (T, B, G)``."""

    @abstractmethod
    def initial_state(self, batch: int, given: Tensor | None) -> State:
        """The zero state, or ``given`` ``(B, N)``."""

    @abstractmethod
    def unroll(self, drive: Tensor, state: State) -> tuple[State, Derivative]:
        """Run along ``drive (T, B, G)``.

        Returns:
            The states after each step and the coefficients of J at each step, all ``(T, B, ·)``.
        """

    @abstractmethod
    def tangent(self, derivative: Derivative, frame: Tensor) -> Tensor:
        """J times every tangent vector of ``frame (B, k, N)``."""

    def log_abs_det(self, derivative: Derivative) -> Tensor | None:
        """ln|det J| where a closed form exists, independent of `tangent`."""
        return None

    def to_working(self, state: State, frame: Tensor) -> Tensor:
        return frame

    def from_working(self, state: State, frame: Tensor) -> Tensor:
        return frame


class _GatedMap(RecurrentMap):
    """Shared by the cells of `torch.nn`: weights, biases and the zero state."""

    def __init__(self, weights: Weights, frame_dtype: torch.dtype, n_gates: int) -> None:
        self.weight_ih = weights.ih.detach().double()
        self.weight_hh = weights.hh.detach().double()
        self.weight_hh_t = self.weight_hh.t().contiguous()
        self.hidden_size = self.weight_hh.shape[1]
        self.state_size = self.hidden_size
        self.given_parts = (1, self.hidden_size)
        zero = self.weight_ih.new_zeros(n_gates * self.hidden_size)
        self.bias_ih = zero if weights.bias_ih is None else weights.bias_ih.detach().double()
        self.bias_hh = zero if weights.bias_hh is None else weights.bias_hh.detach().double()
        # Transposed gate by gate, so that forming Jᵀ scales contiguous rows.
        self.gates_t = [
            gate.t().contiguous().to(frame_dtype) for gate in self.weight_hh.chunk(n_gates)
        ]

    def drive(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def initial_state(self, batch: int, given: Tensor | None) -> State:
        if given is None:
            given = self.weight_hh.new_zeros(batch, self.state_size)
        return (given.double(),)

    def _mix(self, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """Σ diag(d) U, transposed: ``(B, H, H)`` from pairs ``(Uᵀ (H, H), d (B, H))``."""
        (gate, scale), *rest = terms
        jacobian = gate * scale[:, None, :]
        for gate, scale in rest:
            jacobian.addcmul_(gate, scale[:, None, :])
        return jacobian


class VanillaMap(_GatedMap):
    """h' = φ(W x + U h + b) with φ tanh or ReLU (`torch.nn.RNN`): J = diag(φ') U."""

    def __init__(self, weights: Weights, frame_dtype: torch.dtype, nonlinearity: str) -> None:
        super().__init__(weights, frame_dtype, n_gates=1)
        self.relu = nonlinearity == "relu"
        self._log_det_weight = torch.linalg.slogdet(self.weight_hh).logabsdet

    def unroll(self, drive: Tensor, state: State) -> tuple[State, Derivative]:
        h = state[0]
        activate = torch.relu if self.relu else torch.tanh
        pre, hidden = [], []
        for bias_and_input in drive + self.bias_hh:
            y = torch.addmm(bias_and_input, h, self.weight_hh_t)
            h = activate(y)
            pre.append(y)
            hidden.append(h)
        y = torch.stack(pre)
        slope = (y > 0).double() if self.relu else tanh_derivative(y)
        return (torch.stack(hidden),), (slope, y)

    def tangent(self, derivative: Derivative, frame: Tensor) -> Tensor:
        return (frame @ self.gates_t[0]).mul_(derivative[0][:, None, :])

    def log_abs_det(self, derivative: Derivative) -> Tensor | None:
        slope, y = derivative
        log_slope = slope.log() if self.relu else log_tanh_derivative(y)
        return log_slope.sum(dim=-1).add(self._log_det_weight)


class GRUMap(_GatedMap):
    """h' = (1 − z) n + z h with n = tanh(aₙ + r q), q = Uₙ h + bₙ (`torch.nn.GRU`).

    J = diag(z) + diag((h − n) z') U_z + diag((1 − z) n' r) Uₙ + diag((1 − z) n' q r') U_r.
    """

    def __init__(self, weights: Weights, frame_dtype: torch.dtype) -> None:
        super().__init__(weights, frame_dtype, n_gates=3)

    def unroll(self, drive: Tensor, state: State) -> tuple[State, Derivative]:
        h = state[0]
        size = self.hidden_size
        gates, candidates, recurrent, hidden = [], [], [], [h]
        for x in drive:
            u = torch.addmm(self.bias_hh, h, self.weight_hh_t)
            y_rz = x[:, : 2 * size] + u[:, : 2 * size]
            r, z = torch.sigmoid(y_rz).chunk(2, dim=-1)
            q = u[:, 2 * size :]
            y_n = torch.addcmul(x[:, 2 * size :], r, q)
            h = torch.lerp(torch.tanh(y_n), h, z)
            gates.append(y_rz)
            candidates.append(y_n)
            recurrent.append(q)
            hidden.append(h)
        h_before, h_after = torch.stack(hidden[:-1]), torch.stack(hidden[1:])
        y_r, y_z = torch.stack(gates).chunk(2, dim=-1)
        y_n, q = torch.stack(candidates), torch.stack(recurrent)
        r, z = torch.sigmoid(y_r), torch.sigmoid(y_z)
        slope = torch.sigmoid(-y_z) * tanh_derivative(y_n)
        d_z = (h_before - torch.tanh(y_n)) * sigmoid_derivative(y_z)
        return (h_after,), (z, d_z, slope * r, slope * q * sigmoid_derivative(y_r))

    def tangent(self, derivative: Derivative, frame: Tensor) -> Tensor:
        z, d_z, d_n, d_r = derivative
        reset_t, update_t, new_t = self.gates_t
        jacobian_t = self._mix((update_t, d_z), (new_t, d_n), (reset_t, d_r))
        return torch.baddbmm(frame * z[:, None, :], frame, jacobian_t)


class LSTMMap(_GatedMap):
    """c' = f c + i g, h' = o tanh c' (`torch.nn.LSTM`).

    ``state="full"`` carries tangents (dh, dc) of the true 2H-dimensional map. They are kept as
    (u, dc) with u = dh − D dc, D = o sech²(c): then u' = diag(tanh c' o') Uₒ dh and
    dc' = A dh + f dc, and the cancellation between dh' and D' dc' is never computed.
    ``state="hidden"`` is ∂h'/∂h with c held fixed, as in Vogt et al. (arXiv 2204.04876).
    """

    def __init__(self, weights: Weights, frame_dtype: torch.dtype, state: StateKind) -> None:
        super().__init__(weights, frame_dtype, n_gates=4)
        self.full = state == "full"
        self.given_parts = (2, self.hidden_size)
        if self.full:
            self.state_size = 2 * self.hidden_size
            self._log_det_output = torch.linalg.slogdet(self.weight_hh.chunk(4)[3]).logabsdet

    def initial_state(self, batch: int, given: Tensor | None) -> State:
        if given is None:
            given = self.weight_hh.new_zeros(batch, 2 * self.hidden_size)
        h, c = given.double().chunk(2, dim=-1)
        # Any shear is a valid choice of coordinates; before the first step, none.
        return h, c, torch.zeros_like(c)

    def unroll(self, drive: Tensor, state: State) -> tuple[State, Derivative]:
        h, c, shear = state
        size = self.hidden_size
        pre, cells, hidden = [], [c], []
        for bias_and_input in drive + self.bias_hh:
            y = torch.addmm(bias_and_input, h, self.weight_hh_t)
            i, f, _, o = torch.sigmoid(y).chunk(4, dim=-1)
            c = torch.addcmul(f * c, i, torch.tanh(y[:, 2 * size : 3 * size]))
            h = o * torch.tanh(c)
            pre.append(y)
            cells.append(c)
            hidden.append(h)
        y_i, y_f, y_g, y_o = torch.stack(pre).chunk(4, dim=-1)
        c_before, c_after = torch.stack(cells[:-1]), torch.stack(cells[1:])
        shear_after = torch.sigmoid(y_o) * tanh_derivative(c_after)
        d_i = torch.tanh(y_g) * sigmoid_derivative(y_i)
        d_f = c_before * sigmoid_derivative(y_f)
        d_g = torch.sigmoid(y_i) * tanh_derivative(y_g)
        d_o = torch.tanh(c_after) * sigmoid_derivative(y_o)
        states = (torch.stack(hidden), c_after, shear_after)
        if not self.full:
            return states, (d_i * shear_after, d_f * shear_after, d_g * shear_after, d_o)
        shear_before = torch.cat([shear[None], shear_after[:-1]])
        return states, (d_i, d_f, d_g, d_o, torch.sigmoid(y_f), shear_before, y_f, y_o, c_after)

    def tangent(self, derivative: Derivative, frame: Tensor) -> Tensor:
        d_i, d_f, d_g, d_o = derivative[:4]
        gate_i, gate_f, gate_g, gate_o = self.gates_t
        cell_t = self._mix((gate_i, d_i), (gate_f, d_f), (gate_g, d_g))
        if not self.full:
            return torch.bmm(frame, cell_t.addcmul_(gate_o, d_o[:, None, :]))
        forget, shear = derivative[4:6]
        u, dc = frame.chunk(2, dim=-1)
        dh = torch.addcmul(u, dc, shear[:, None, :])
        stacked_t = torch.cat([gate_o * d_o[:, None, :], cell_t], dim=-1)
        out = torch.bmm(dh, stacked_t)
        out[..., self.hidden_size :].addcmul_(dc, forget[:, None, :])
        return out

    def log_abs_det(self, derivative: Derivative) -> Tensor | None:
        if not self.full:
            return None
        y_f, y_o, c = derivative[6:]
        log_cell = torch.tanh(c).abs().log() - F.softplus(-y_f)
        log_output = -F.softplus(y_o) - F.softplus(-y_o)
        return (log_cell + log_output).sum(dim=-1).add(self._log_det_output)

    def to_working(self, state: State, frame: Tensor) -> Tensor:
        return self._sheared(state, frame, -1.0)

    def from_working(self, state: State, frame: Tensor) -> Tensor:
        return self._sheared(state, frame, 1.0)

    def _sheared(self, state: State, frame: Tensor, sign: float) -> Tensor:
        if not self.full:
            return frame
        first, dc = frame.chunk(2, dim=-1)
        shear = state[2].to(frame.dtype)[:, None, :]
        return torch.cat([torch.addcmul(first, dc, shear, value=sign), dc], dim=-1)


class StepMap(RecurrentMap):
    """Any step function ``(x (B, D), h (B, N)) -> h (B, N)``, differentiated by `torch.func`."""

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], state_size: int, dtype: torch.dtype
    ) -> None:
        self.step = step
        self.state_size = state_size
        self.given_parts = (1, state_size)
        self.dtype = dtype

    def drive(self, inputs: Tensor) -> Tensor:
        return inputs

    def initial_state(self, batch: int, given: Tensor | None) -> State:
        if given is None:
            given = torch.zeros(batch, self.state_size)
        return (given.to(self.dtype),)

    def unroll(self, drive: Tensor, state: State) -> tuple[State, Derivative]:
        hidden = [state[0]]
        for x in drive:
            following = self.step(x, hidden[-1])
            self._check(following, hidden[-1])
            hidden.append(following.detach())
        before = torch.stack(hidden[:-1])
        if self.state_size > _DENSE_STATE_SIZE:
            return (torch.stack(hidden[1:]),), (drive, before)
        # One call for all steps: the Jacobians of T steps are those of a batch of T * B.
        n_steps, batch = before.shape[:2]
        basis = torch.eye(self.state_size, dtype=self.dtype, device=before.device)
        jacobian_t = self._push(
            drive.flatten(0, 1), before.flatten(0, 1), basis.expand(n_steps * batch, -1, -1)
        )
        dense = jacobian_t.view(n_steps, batch, *jacobian_t.shape[1:])
        return (torch.stack(hidden[1:]),), (dense,)

    def tangent(self, derivative: Derivative, frame: Tensor) -> Tensor:
        if len(derivative) == 1:
            return torch.bmm(frame, derivative[0])
        drive, h = (part.to(self.dtype) for part in derivative)
        return self._push(drive, h, frame.to(self.dtype)).to(frame.dtype)

    def _push(self, drive: Tensor, h: Tensor, frame: Tensor) -> Tensor:
        """J times every tangent vector of ``frame (B, k, N)``."""

        def along(direction: Tensor) -> Tensor:
            pushed: Tensor = torch.func.jvp(lambda s: self.step(drive, s), (h,), (direction,))[1]
            return pushed

        result: Tensor = torch.func.vmap(along, in_dims=1, out_dims=1)(frame)
        return result

    def _check(self, following: object, h: Tensor) -> None:
        if isinstance(following, Tensor) and following.shape == h.shape:
            return
        came = tuple(following.shape) if isinstance(following, Tensor) else type(following)
        raise ValueError(
            f"Expected the step function to return a state of shape {tuple(h.shape)}, got {came}. "
            "It maps (x (B, D), h (B, N)) to the next h (B, N)."
        )
