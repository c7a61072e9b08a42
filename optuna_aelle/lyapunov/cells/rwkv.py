"""RWKV's time mixing: of version 4, whose decay is fixed, and of 6, whose decay reads the input.

Both without the token shift, which mixes each input with the one before it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.cells.diagonal import DiagonalLayer


class RWKV4(DiagonalLayer):
    """a' = e^(−w) a + e^k v, b' = e^(−w) b + e^k; outputs σ(r) (a + e^(u+k) v) / (b + e^(u+k)).

    r, k and v are linear in the input; w > 0 and u belong to the channel. The exponents are −w,
    twice each.

    Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", EMNLP 2023 (arXiv
    2305.13048), equations 16 to 18.

    Args:
        input_size: D.
        hidden_size: H, channels and outputs; the state has 2H numbers.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, state = RWKV4(3, 64)(torch.randn(100, 8, 3))
        >>> outputs.shape, state.shape
        (torch.Size([100, 8, 64]), torch.Size([1, 8, 128]))
    """

    by_steps = True

    def __init__(self, input_size: int, hidden_size: int, *, batch_first: bool = False) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.weight_rkv = nn.Linear(input_size, 3 * hidden_size, bias=False)
        self.log_decay = nn.Parameter(torch.empty(hidden_size))
        self.bonus = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight_rkv.reset_parameters()
        with torch.no_grad():
            self.log_decay.copy_(_spread_decays(self.hidden_size))
            self.bonus.fill_(math.log(0.3))

    @property
    def n_real(self) -> int:
        return 2

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        _, k, v = self._projected(inputs)
        keep = torch.exp(-self.log_decay.exp())
        weight = k.exp()
        return torch.cat([keep, keep])[None, None], torch.cat([weight * v, weight], dim=-1)

    def log_rates(self, inputs: Tensor) -> Tensor:
        return -self.log_decay.exp()[None, None]

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        r, k, v = self._projected(inputs)
        total, weights = before.chunk(2, dim=-1)
        weight = (self.bonus + k).exp()
        return torch.sigmoid(r) * (total + weight * v) / (weights + weight)

    def _projected(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.weight_rkv(inputs).chunk(3, dim=-1)  # type: ignore[no-any-return]


class RWKV6(DiagonalLayer):
    """For each head S' = diag(w) S + k vᵀ, outputs (S + diag(u) k vᵀ)ᵀ r times a gate.

    w = exp(−exp(d)), d a vector of the channel plus a low-rank function of the input. The
    exponents are averages of −exp(d), each as often as S has columns.

    Source: Peng et al., "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence"
    (arXiv 2404.05892), equations 16 to 20.

    Args:
        input_size: D.
        hidden_size: H.
        n_heads: Heads, of H / n_heads channels each; the state has H² / n_heads numbers.
        decay_rank: Rank of the decay's function of the input.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, state = RWKV6(3, 64, n_heads=4)(torch.randn(50, 8, 3))
        >>> outputs.shape, state.shape
        (torch.Size([50, 8, 64]), torch.Size([1, 8, 1024]))
    """

    by_steps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        n_heads: int = 1,
        decay_rank: int = 8,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        if n_heads < 1 or hidden_size % n_heads:
            raise ValueError(
                f"n_heads must be a divisor of hidden_size {hidden_size}, but got {n_heads}."
            )
        self.n_heads = n_heads
        self.decay_rank = decay_rank
        self.weight_rkvg = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.decay_in = nn.Linear(input_size, decay_rank, bias=False)
        self.decay_out = nn.Linear(decay_rank, hidden_size, bias=False)
        self.log_decay = nn.Parameter(torch.empty(hidden_size))
        self.bonus = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.weight_rkvg, self.decay_in, self.decay_out):
            layer.reset_parameters()
        with torch.no_grad():
            self.log_decay.copy_(_spread_decays(self.hidden_size))
            self.bonus.copy_(torch.linspace(0.0, 1.0, self.hidden_size))

    @property
    def n_real(self) -> int:
        return self.hidden_size // self.n_heads

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        _, k, v, _ = self._projected(inputs)
        keep = self.log_rates(inputs).exp().repeat_interleave(self.n_real, dim=-1)
        return keep, (k[..., :, None] * v[..., None, :]).flatten(-3)

    def log_rates(self, inputs: Tensor) -> Tensor:
        moved = self.decay_out(torch.tanh(self.decay_in(inputs)))
        rates: Tensor = -(self.log_decay + moved).exp()
        return rates

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        r, k, v, g = self._projected(inputs)
        size = self.n_real
        memory = before.view(*before.shape[:2], self.n_heads, size, size)
        bonus = self.bonus.view(self.n_heads, size, 1) * k[..., :, None] * v[..., None, :]
        read = ((memory + bonus) * r[..., :, None]).sum(dim=-2)
        gated: Tensor = read * nn.functional.silu(g)
        return gated.flatten(-2)

    def _projected(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """r, k, v and g, ``(T, B, n_heads, H / n_heads)`` each."""
        parts = self.weight_rkvg(inputs).chunk(4, dim=-1)
        return tuple(part.reshape(*part.shape[:-1], self.n_heads, -1) for part in parts)

    def _settings(self) -> dict[str, object]:
        return {"n_heads": self.n_heads, "decay_rank": self.decay_rank}


def _spread_decays(size: int) -> Tensor:
    """ln w of the channels, from slow to fast, as in the authors' initialisation."""
    position = torch.arange(size) / max(size - 1, 1)
    return -5.0 + 8.0 * position**0.7
