"""What is the Jacobian of one step? Written in three ways, for `benchmarks.engine.baselines`.

Notation: x (B, D) input, h (B, H) hidden state, c (B, H) cell state, y pre-activations, U a gate's
recurrent weights, σ the logistic function, N the size of the Jacobian.
"""

from __future__ import annotations

from typing import Any
from typing import Literal

import torch
from torch import Tensor
from torch import nn

Way = Literal["public", "diagonal", "plain"]
StateKind = Literal["full", "hidden"]


class PlainCell:
    """One layer's step and its Jacobian, with the textbook derivatives σ(1 − σ) and 1 − tanh².

    Attributes:
        state_size: Size of what `step` maps: H, or 2H (h, then c) for an LSTM.
        frame_size: N, the size of the Jacobian: H for an LSTM whose c is held fixed.
    """

    def __init__(
        self,
        module: nn.RNNBase,
        dtype: torch.dtype,
        *,
        state: StateKind = "full",
    ) -> None:
        weights: Any = module
        self.weight_ih = weights.weight_ih_l0.detach().to(dtype)
        self.weight_hh = weights.weight_hh_l0.detach().to(dtype)
        self.bias_ih = weights.bias_ih_l0.detach().to(dtype) if module.bias else None
        self.bias_hh = weights.bias_hh_l0.detach().to(dtype) if module.bias else None
        self.gates = self.weight_hh.split(module.hidden_size)
        self.kind = module.mode
        self.full = state == "full"
        self.state_size = module.hidden_size * (2 if self.kind == "LSTM" else 1)
        self.frame_size = self.state_size if self.full else module.hidden_size

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state ``(B, state_size)``."""
        return self._run(x, state)[0]

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The next state and the Jacobian ``(B, N, N)`` of the step to it."""
        following, parts = self._run(x, state)
        if self.kind == "RNN_TANH":
            return following, self._vanilla(*parts)
        return following, self._gru(*parts) if self.kind == "GRU" else self._lstm(*parts)

    def _scale(self, d: Tensor, matrix: Tensor) -> Tensor:
        """diag(d) times ``matrix``."""
        return d[:, :, None] * matrix

    def _parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self.weight_hh.shape[1]
        return state[:, :size], state[:, size:]

    def _pre_activations(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        driven = nn.functional.linear(x, self.weight_ih, self.bias_ih)
        return driven, nn.functional.linear(h, self.weight_hh, self.bias_hh)

    def _run(self, x: Tensor, state: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = self._parts(state)
        driven, recurrent = self._pre_activations(x, h)
        if self.kind == "RNN_TANH":
            following = torch.tanh(driven + recurrent)
            return following, (following,)
        if self.kind == "GRU":
            x_r, x_z, x_n = driven.chunk(3, dim=-1)
            u_r, u_z, q = recurrent.chunk(3, dim=-1)
            r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
            n = torch.tanh(x_n + r * q)
            return (1.0 - z) * n + z * h, (h, r, z, n, q)
        y_i, y_f, y_g, y_o = (driven + recurrent).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(y_i), torch.sigmoid(y_f), torch.tanh(y_g), torch.sigmoid(y_o)
        c_next = f * c + i * g
        squashed = torch.tanh(c_next)
        return torch.cat([o * squashed, c_next], dim=-1), (c, i, f, g, o, squashed)

    def _vanilla(self, h: Tensor) -> Tensor:
        return self._scale(1.0 - h * h, self.gates[0])

    def _gru(self, h: Tensor, r: Tensor, z: Tensor, n: Tensor, q: Tensor) -> Tensor:
        gate_r, gate_z, gate_n = self.gates
        slope = (1.0 - z) * (1.0 - n * n)
        return (
            torch.diag_embed(z)
            + self._scale((h - n) * z * (1.0 - z), gate_z)
            + self._scale(slope * r, gate_n)
            + self._scale(slope * q * r * (1.0 - r), gate_r)
        )

    def _lstm(
        self, c: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, squashed: Tensor
    ) -> Tensor:
        gate_i, gate_f, gate_g, gate_o = self.gates
        cell = (
            self._scale(g * i * (1.0 - i), gate_i)
            + self._scale(c * f * (1.0 - f), gate_f)
            + self._scale(i * (1.0 - g * g), gate_g)
        )
        shear = o * (1.0 - squashed * squashed)
        hidden = self._scale(shear, cell) + self._scale(squashed * o * (1.0 - o), gate_o)
        return self._blocks(hidden, cell, shear, f)

    def _blocks(self, hidden: Tensor, cell: Tensor, shear: Tensor, f: Tensor) -> Tensor:
        """∂h'/∂h, or [[∂h'/∂h, ∂h'/∂c], [∂c'/∂h, ∂c'/∂c]]."""
        if not self.full:
            return hidden
        upper = torch.cat([hidden, torch.diag_embed(shear * f)], dim=-1)
        return torch.cat([upper, torch.cat([cell, torch.diag_embed(f)], dim=-1)], dim=-2)


class DiagonalCell(PlainCell):
    """The same by dense diagonal matrices."""

    def _scale(self, d: Tensor, matrix: Tensor) -> Tensor:
        return torch.diag_embed(d) @ matrix


class PublicCell(PlainCell):
    """The same by the operations of the public code; the state is run apart from the Jacobian."""

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = self._parts(state)
        driven, recurrent = self._pre_activations(x, h)
        if self.kind == "RNN_TANH":
            jacobian = _dense_sech(driven + recurrent).square() @ self.gates[0]
        elif self.kind == "GRU":
            jacobian = self._public_gru(h, driven, recurrent)
        else:
            jacobian = self._public_lstm(c, driven + recurrent)
        return self.step(x, state), jacobian

    def _public_gru(self, h: Tensor, driven: Tensor, recurrent: Tensor) -> Tensor:
        gate_r, gate_z, gate_n = self.gates
        x_r, x_z, x_n = driven.chunk(3, dim=-1)
        u_r, u_z, q = recurrent.chunk(3, dim=-1)
        y_r, y_z = x_r + u_r, x_z + u_z
        y_n = x_n + torch.sigmoid(y_r) * q
        through_reset = _dense_slope(y_r) @ torch.diag_embed(q) @ gate_r
        candidate = _dense_sech(y_n).square() @ (through_reset + _dense_sigmoid(y_r) @ gate_n)
        kept = _dense_slope(y_z) @ torch.diag_embed(h) @ gate_z + _dense_sigmoid(y_z)
        replaced = _dense_slope(y_z) @ torch.diag_embed(torch.tanh(y_n)) @ gate_z
        renewed = torch.diag_embed(torch.sigmoid(-y_z)) @ candidate
        jacobian: Tensor = renewed + kept - replaced
        return jacobian

    def _public_lstm(self, c: Tensor, y: Tensor) -> Tensor:
        gate_i, gate_f, gate_g, gate_o = self.gates
        size = gate_i.shape[0]
        i, f, g, o = (slice(n * size, (n + 1) * size) for n in range(4))
        c_next = torch.sigmoid(y[:, f]) * c + torch.sigmoid(y[:, i]) * torch.tanh(y[:, g])
        squashed = torch.diag_embed(torch.tanh(c_next))
        # Each factor is a dense matrix of all four gates, of which one block is used.
        cell = (
            _dense_slope(y)[:, f, f] @ torch.diag_embed(c) @ gate_f
            + (_dense_slope(y)[:, i, i] * _dense_tanh(y)[:, g, g]) @ gate_i
            + (_dense_sigmoid(y)[:, i, i] * _dense_sech(y).square()[:, g, g]) @ gate_g
        )
        shear = _dense_sigmoid(y)[:, o, o] @ _dense_sech(c_next).square()
        hidden = shear @ cell + (_dense_slope(y)[:, o, o] * squashed) @ gate_o
        diagonal = torch.diagonal(shear, dim1=-2, dim2=-1)
        return self._blocks(hidden, cell, diagonal, torch.sigmoid(y[:, f]))


def _dense_sigmoid(y: Tensor) -> Tensor:
    return torch.diag_embed(torch.sigmoid(y))


def _dense_slope(y: Tensor) -> Tensor:
    return torch.diag_embed(torch.sigmoid(y) * (1.0 - torch.sigmoid(y)))


def _dense_tanh(y: Tensor) -> Tensor:
    return torch.diag_embed(torch.tanh(y))


def _dense_sech(y: Tensor) -> Tensor:
    return torch.diag_embed(1.0 / torch.cosh(y))
