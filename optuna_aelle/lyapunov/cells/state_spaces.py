"""Linear state spaces with a diagonal transition: LRU, S4D, S5, and Mamba's selective S6."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov.cells.diagonal import DiagonalLayer


class LRU(DiagonalLayer):
    """The linear recurrent unit: h' = λ h + γ B x with |λ| < 1, outputs Re(C h) + D x.

    λ = exp(−exp(ν) + i exp(θ)), γ = √(1 − |λ|²). The exponents are ln|λ| = −exp(ν), twice each.

    Source: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu and De, "Resurrecting Recurrent Neural
    Networks for Long Sequences", ICML 2023 (arXiv 2303.06349), section 3.

    Args:
        input_size: D.
        hidden_size: H, the size of the outputs.
        state_size: n, complex numbers of the state; None for H.
        r_min: |λ| is drawn from the ring between this ...
        r_max: ... and this,
        max_phase: with phases up to this.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = LRU(3, 64)(torch.randn(100, 8, 3))
        >>> outputs.shape, h.dtype
        (torch.Size([100, 8, 64]), torch.complex64)
    """

    complex_state = True
    by_steps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2.0 * math.pi,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.state_size = hidden_size if state_size is None else state_size
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        n = self.state_size
        self.log_decay = nn.Parameter(torch.empty(n))
        self.log_phase = nn.Parameter(torch.empty(n))
        # Real and imaginary parts, as optimizers expect them.
        self.weight_in = nn.Parameter(torch.empty(2, n, input_size))
        self.weight_out = nn.Parameter(torch.empty(2, hidden_size, n))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size, input_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        low, high = self.r_min**2, self.r_max**2
        with torch.no_grad():
            square = low + (high - low) * torch.rand_like(self.log_decay)
            self.log_decay.copy_((-0.5 * square.clamp(1e-12, 1.0 - 1e-7).log()).log())
            phase = self.max_phase * torch.rand_like(self.log_phase)
            self.log_phase.copy_(phase.clamp_min(1e-12).log())
        nn.init.normal_(self.weight_in, 0.0, 1.0 / math.sqrt(2.0 * self.input_size))
        nn.init.normal_(self.weight_out, 0.0, 1.0 / math.sqrt(self.state_size))
        nn.init.normal_(self.weight_skip, 0.0, 1.0 / math.sqrt(self.input_size))

    @property
    def n_rates(self) -> int:
        return self.state_size

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        decay = self.log_decay.exp()
        rate = torch.polar(torch.exp(-decay), self.log_phase.exp())
        # 1 − |λ|² without cancellation.
        norm = (-torch.expm1(-2.0 * decay)).sqrt()
        return rate[None, None], norm * _by_complex(inputs, self.weight_in)

    def log_rates(self, inputs: Tensor) -> Tensor:
        return -self.log_decay.exp()[None, None]

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        return _real_part(states, self.weight_out) + F.linear(inputs, self.weight_skip)

    def _settings(self) -> dict[str, object]:
        return {"state_size": self.state_size}


class S5(DiagonalLayer):
    """One state space for all inputs: h' = Λ̄ h + B̄ x, outputs Re(C h) + D x.

    Λ̄ = exp(Δ Λ) and B̄ = (Λ̄ − 1) / Λ B with a time step Δ for each number of the state
    (zero-order hold), and Λ from the eigenvalues −½ + iπk of S4D-Lin. The exponents are Δ Re Λ,
    twice each.

    Source: Smith, Warrington and Linderman, "Simplified State Space Layers for Sequence
    Modeling", ICLR 2023 (arXiv 2208.04933); Λ as in Gu, Gupta, Goel and Ré (arXiv 2206.11893).

    Args:
        input_size: D.
        hidden_size: H, the size of the outputs.
        state_size: n, complex numbers of the state; None for H.
        dt_min: Time steps are drawn between this ...
        dt_max: ... and this, uniformly in their logarithm.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = S5(3, 64, state_size=32)(torch.randn(100, 8, 3))
        >>> outputs.shape, h.shape
        (torch.Size([100, 8, 64]), torch.Size([1, 8, 32]))
    """

    complex_state = True
    by_steps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.state_size = hidden_size if state_size is None else state_size
        self.dt_min, self.dt_max = dt_min, dt_max
        n = self.state_size
        self.log_real = nn.Parameter(torch.empty(n))
        self.imaginary = nn.Parameter(torch.empty(n))
        self.log_dt = nn.Parameter(torch.empty(n))
        self.weight_in = nn.Parameter(torch.empty(2, n, input_size))
        self.weight_out = nn.Parameter(torch.empty(2, hidden_size, n))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size, input_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.log_real.fill_(math.log(0.5))
            self.imaginary.copy_(math.pi * torch.arange(self.state_size))
        nn.init.uniform_(self.log_dt, math.log(self.dt_min), math.log(self.dt_max))
        nn.init.normal_(self.weight_in, 0.0, 1.0 / math.sqrt(2.0 * self.input_size))
        nn.init.normal_(self.weight_out, 0.0, 1.0 / math.sqrt(self.state_size))
        nn.init.normal_(self.weight_skip, 0.0, 1.0 / math.sqrt(self.input_size))

    @property
    def n_rates(self) -> int:
        return self.state_size

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        rate, gain = _zero_order_hold(self.log_real, self.imaginary, self.log_dt)
        return rate[None, None], gain * _by_complex(inputs, self.weight_in)

    def log_rates(self, inputs: Tensor) -> Tensor:
        return -(self.log_dt.exp() * self.log_real.exp())[None, None]

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        return _real_part(states, self.weight_out) + F.linear(inputs, self.weight_skip)

    def _settings(self) -> dict[str, object]:
        return {"state_size": self.state_size}


class S4D(DiagonalLayer):
    """H state spaces of one input each, all inputs mixed into them first.

    u = W x + b; for each channel h' = Ā h + B̄ u with Ā = exp(Δ A) (zero-order hold), outputs
    2 Re(C h) + D u. A from S4D-Lin: −½ + iπk. The exponents are Δ Re A, twice each.

    Source: Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization of Diagonal State
    Space Models", NeurIPS 2022 (arXiv 2206.11893), section 3 and listing 1.

    Args:
        input_size: D.
        hidden_size: H, channels and outputs.
        state_size: Complex numbers of the state of each channel.
        dt_min: Time steps are drawn between this ...
        dt_max: ... and this, uniformly in their logarithm.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = S4D(3, 64, state_size=8)(torch.randn(100, 8, 3))
        >>> outputs.shape, h.shape
        (torch.Size([100, 8, 64]), torch.Size([1, 8, 512]))
    """

    complex_state = True
    by_steps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int = 16,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.state_size = state_size
        self.dt_min, self.dt_max = dt_min, dt_max
        self.mix = nn.Linear(input_size, hidden_size)
        self.log_real = nn.Parameter(torch.empty(hidden_size, state_size))
        self.imaginary = nn.Parameter(torch.empty(hidden_size, state_size))
        self.log_dt = nn.Parameter(torch.empty(hidden_size, 1))
        self.weight_out = nn.Parameter(torch.empty(2, hidden_size, state_size))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.mix.reset_parameters()
        with torch.no_grad():
            self.log_real.fill_(math.log(0.5))
            self.imaginary.copy_(math.pi * torch.arange(self.state_size).expand_as(self.imaginary))
        nn.init.uniform_(self.log_dt, math.log(self.dt_min), math.log(self.dt_max))
        nn.init.normal_(self.weight_out, 0.0, math.sqrt(0.5))
        nn.init.normal_(self.weight_skip)

    @property
    def n_rates(self) -> int:
        return self.hidden_size * self.state_size

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        rate, gain = _zero_order_hold(self.log_real, self.imaginary, self.log_dt)
        driven = gain * self.mix(inputs)[..., None]
        return rate.flatten()[None, None], driven.flatten(-2)

    def log_rates(self, inputs: Tensor) -> Tensor:
        return -(self.log_dt.exp() * self.log_real.exp()).flatten()[None, None]

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        of_channel = states.unflatten(-1, (self.hidden_size, self.state_size))  # type: ignore[no-untyped-call]
        out = torch.complex(*self.weight_out.unbind(0))
        summed: Tensor = 2.0 * (of_channel * out).sum(dim=-1).real
        outputs: Tensor = summed + self.weight_skip * self.mix(inputs)
        return outputs

    def _settings(self) -> dict[str, object]:
        return {"state_size": self.state_size}


class S6(DiagonalLayer):
    """Mamba's selective state space: time steps, B and C are made of the input.

    u = W x + b; Δ = softplus(V u + v), B = W_B u, C = W_C u; for each channel h' = exp(Δ A) h +
    Δ B u, outputs C h + D u, with A < 0. The exponents are averages of Δ A.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv
    2312.00752), algorithm 2; without the block's convolution and gate.

    Args:
        input_size: D.
        hidden_size: H, channels and outputs.
        state_size: Numbers of the state of each channel.
        dt_rank: Rank of V; None for ⌈H / 16⌉.
        dt_min: Time steps at rest are drawn between this ...
        dt_max: ... and this, uniformly in their logarithm.
        batch_first: As in `DiagonalLayer`.

    Example:
        >>> outputs, h = S6(3, 64, state_size=8)(torch.randn(100, 8, 3))
        >>> outputs.shape, h.shape
        (torch.Size([100, 8, 64]), torch.Size([1, 8, 512]))
    """

    by_steps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int = 16,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.state_size = state_size
        self.dt_rank = math.ceil(hidden_size / 16) if dt_rank is None else dt_rank
        self.dt_min, self.dt_max = dt_min, dt_max
        self.mix = nn.Linear(input_size, hidden_size)
        self.select = nn.Linear(hidden_size, self.dt_rank + 2 * state_size, bias=False)
        self.dt = nn.Linear(self.dt_rank, hidden_size)
        self.log_decay = nn.Parameter(torch.empty(hidden_size, state_size))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.mix, self.select, self.dt):
            layer.reset_parameters()
        with torch.no_grad():
            span = math.log(self.dt_max / self.dt_min)
            dt = self.dt_min * torch.exp(span * torch.rand(self.hidden_size))
            # Where softplus is Δ.
            self.dt.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            decay = torch.arange(1.0, self.state_size + 1.0)
            self.log_decay.copy_(decay.log().expand_as(self.log_decay))
            self.weight_skip.fill_(1.0)

    @property
    def n_rates(self) -> int:
        return self.hidden_size * self.state_size

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, b, _ = self._selected(inputs)
        rate = torch.exp(-dt[..., None] * self.log_decay.exp())
        driven = (dt * u)[..., None] * b[..., None, :]
        return rate.flatten(-2), driven.flatten(-2)

    def log_rates(self, inputs: Tensor) -> Tensor:
        dt = self._selected(inputs)[1]
        return -(dt[..., None] * self.log_decay.exp()).flatten(-2)

    def read(self, before: Tensor, states: Tensor, inputs: Tensor) -> Tensor:
        u, _, _, c = self._selected(inputs)
        of_channel = states.unflatten(-1, (self.hidden_size, self.state_size))  # type: ignore[no-untyped-call]
        summed: Tensor = (of_channel * c[..., None, :]).sum(dim=-1)
        skipped: Tensor = summed + self.weight_skip * u
        return skipped

    def _selected(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u and Δ ``(T, B, H)``, B and C ``(T, B, state_size)``."""
        u = self.mix(inputs)
        sizes = [self.dt_rank, self.state_size, self.state_size]
        low, b, c = self.select(u).split(sizes, dim=-1)
        return u, F.softplus(self.dt(low)), b, c

    def _settings(self) -> dict[str, object]:
        return {"state_size": self.state_size, "dt_rank": self.dt_rank}


def _by_complex(inputs: Tensor, weight: Tensor) -> Tensor:
    """``inputs (..., D)`` by a complex matrix in two parts ``(2, n, D)``: ``(..., n)``."""
    return torch.complex(F.linear(inputs, weight[0]), F.linear(inputs, weight[1]))


def _real_part(states: Tensor, weight: Tensor) -> Tensor:
    """Re of complex ``states (..., n)`` by a complex matrix in two parts ``(2, H, n)``."""
    real: Tensor = F.linear(states.real, weight[0]) - F.linear(states.imag, weight[1])
    return real


def _zero_order_hold(log_real: Tensor, imaginary: Tensor, log_dt: Tensor) -> tuple[Tensor, Tensor]:
    """exp(Δ Λ), and (exp(Δ Λ) − 1) / Λ."""
    eigenvalue = torch.complex(-log_real.exp(), imaginary)
    rate = torch.exp(log_dt.exp() * eigenvalue)
    return rate, (rate - 1.0) / eigenvalue
