"""The two memories of the extended LSTM: scalar (sLSTM) and matrix (mLSTM)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov.cells.diagonal import DiagonalLayer
from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.layer import State


class SLSTM(RecurrentLayer):
    """The LSTM with exponential input gates and a normalizer.

    c' = f c + i z, n' = f n + i, h' = o c' / n' with i = exp y_i, f = σ(y_f), z = tanh y_z and
    o = σ(y_o), of y = W x + R h + b. What is kept is (h, c / n, ln n): nothing of it overflows,
    and its exponents are those of (h, c, n). It starts from n = 1.

    Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024 (arXiv
    2405.04517), section 2.2.

    Args:
        input_size: D.
        hidden_size: H; the state has 3H numbers, the outputs are h.
        n_heads: R has so many blocks: units of different ones do not read each other.
        batch_first: As in `RecurrentLayer`.

    Example:
        >>> outputs, (h, content, log_n) = SLSTM(3, 64, n_heads=4)(torch.randn(100, 8, 3))
        >>> outputs.shape
        torch.Size([100, 8, 64])
    """

    n_gates = 4
    n_parts = 3

    def __init__(
        self, input_size: int, hidden_size: int, *, n_heads: int = 1, batch_first: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        _check_heads(hidden_size, n_heads)
        self.n_heads = n_heads
        size = hidden_size // n_heads
        # For each gate (i, f, z, o) and head, what acts on the head's own units.
        self.weight_hh = nn.Parameter(torch.empty(4, n_heads, size, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.weight_hh, self.bias)
        with torch.no_grad():
            # Forget gates open, from one unit to the next the more.
            size = self.hidden_size
            self.bias[size : 2 * size] = torch.linspace(3.0, 6.0, size)

    def recurrent_matrix(self) -> Tensor:
        """R ``(4H, H)`` with its zeros."""
        return torch.cat([torch.block_diag(*gate) for gate in self.weight_hh])  # type: ignore[no-untyped-call]

    def recurrent_weights(self) -> State:
        return (self.recurrent_matrix().mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (h, content, log_n), (weight_t,) = state, weights
        y_i, y_f, y_z, y_o = torch.addmm(drive, h, weight_t).chunk(4, dim=-1)
        kept = F.logsigmoid(y_f) + log_n
        share = torch.sigmoid(kept - y_i)
        content = torch.lerp(torch.tanh(y_z), content, share)
        return torch.sigmoid(y_o) * content, content, torch.logaddexp(kept, y_i)

    def _settings(self) -> dict[str, object]:
        return {"n_heads": self.n_heads}


class MLSTM(DiagonalLayer):
    """The LSTM with a matrix for its memory, whose gates read the input alone.

    For each head C' = f C + i v kᵀ, n' = f n + i k, with i = exp y_i and f = σ(y_f); outputs
    o C' q / max(|n'·q|, 1). Every number of C and n goes on by the same f: the exponents are the
    heads' averages of ln f, and each counts as often as its head has numbers.

    Source: as `SLSTM`, section 2.3.

    Args:
        input_size: D.
        hidden_size: H.
        n_heads: Heads, of H / n_heads units each; the state has H (H / n_heads + 1) numbers.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, memory = MLSTM(3, 64, n_heads=4)(torch.randn(50, 8, 3))
        >>> outputs.shape, memory.shape
        (torch.Size([50, 8, 64]), torch.Size([1, 8, 1088]))
    """

    by_steps = True

    def __init__(
        self, input_size: int, hidden_size: int, *, n_heads: int = 1, batch_first: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        _check_heads(hidden_size, n_heads)
        self.n_heads = n_heads
        self.weight_qkvo = nn.Linear(input_size, 4 * hidden_size)
        self.gates = nn.Linear(input_size, 2 * n_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight_qkvo.reset_parameters()
        self.gates.reset_parameters()
        with torch.no_grad():
            self.gates.bias[self.n_heads :] = torch.linspace(3.0, 6.0, self.n_heads)

    @property
    def n_rates(self) -> int:
        return self.n_heads

    @property
    def n_real(self) -> int:
        size = self.hidden_size // self.n_heads
        return size * (size + 1)

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        _, k, v, _ = self._projected(inputs)
        y_i, y_f = self.gates(inputs).chunk(2, dim=-1)
        # The normalizer as one more row of the memory.
        rows = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        driven = y_i.exp()[..., None, None] * rows[..., :, None] * k[..., None, :]
        keep = torch.sigmoid(y_f)[..., None].expand(*y_f.shape, self.n_real)
        return keep.flatten(-2), driven.flatten(-3)

    def log_rates(self, inputs: Tensor) -> Tensor:
        return F.logsigmoid(self.gates(inputs).chunk(2, dim=-1)[1])

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        q, _, _, o = self._projected(inputs)
        size = self.hidden_size // self.n_heads
        memory = states.view(*states.shape[:2], self.n_heads, size + 1, size)
        read = (memory * q[..., None, :]).sum(dim=-1)
        content = read[..., :-1] / read[..., -1:].abs().clamp_min(1.0)
        return (torch.sigmoid(o) * content).flatten(-2)

    def _projected(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """q, k, v and the output gate's pre-activation, ``(T, B, n_heads, H / n_heads)`` each."""
        q, k, v, o = (
            part.reshape(*part.shape[:-1], self.n_heads, -1)
            for part in self.weight_qkvo(inputs).chunk(4, dim=-1)
        )
        return q, k / math.sqrt(k.shape[-1]), v, o

    def _settings(self) -> dict[str, object]:
        return {"n_heads": self.n_heads}


def _check_heads(hidden_size: int, n_heads: int) -> None:
    if n_heads < 1 or hidden_size % n_heads:
        raise ValueError(
            f"n_heads must be a divisor of hidden_size {hidden_size}, but got {n_heads}."
        )
