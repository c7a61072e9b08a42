"""Recurrent networks that `torch.nn` lacks, with known long-term dynamics, ready to train.

Each is one layer with the interface of `torch.nn.RNN`: inputs ``(T, B, D)``, ``(B, T, D)`` if
``batch_first``, or ``(T, D)``; it returns the outputs of all steps and the final state with a
leading axis of length 1. Where the state has two parts (y, z), so has the final state.

    >>> network = CoRNN(1, 64, batch_first=True)
    >>> outputs, (y, z) = network(torch.randn(8, 100, 1))   # (8, 100, 64), (1, 8, 64) twice

Notation: x (B, D) input, h (B, H) state, h' the next state.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


def antisymmetric_matrix(weight: Tensor, gamma: float) -> Tensor:
    """W − Wᵀ − γ I for ``weight (..., H, H)``."""
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    return weight - weight.mT - gamma * eye


def lipschitz_matrix(weight: Tensor, beta: float, gamma: float) -> Tensor:
    """(1 − β)(M + Mᵀ) + β (M − Mᵀ) − γ I for ``weight (..., H, H)``."""
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    symmetric, skew = weight + weight.mT, weight - weight.mT
    return (1.0 - beta) * symmetric + beta * skew - gamma * eye


def orthogonal_matrix(weight: Tensor) -> Tensor:
    """exp(A) with the skew A that has ``weight (..., H, H)`` above its diagonal."""
    upper = weight.triu(1)
    return torch.matrix_exp(upper - upper.mT)


class RecurrentLayer(nn.Module):
    """One recurrent layer: `drive` turns all inputs into pre-activations, `step` does one step.

    Args:
        input_size: D.
        hidden_size: H.
        batch_first: Whether inputs and outputs are ``(B, T, ·)`` instead of ``(T, B, ·)``.
    """

    n_gates = 1
    n_parts = 1

    def __init__(self, input_size: int, hidden_size: int, *, batch_first: bool = False) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(
                f"input_size and hidden_size must be at least 1, but got {input_size} and "
                f"{hidden_size}."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.batch_first = batch_first
        self.weight_ih = nn.Parameter(torch.empty(self.n_gates * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(self.n_gates * hidden_size))

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw all parameters anew, as in the paper."""

    @abstractmethod
    def recurrent_weights(self) -> State:
        """What `step` multiplies the state by; computed once for a whole sequence."""

    @abstractmethod
    def step(self, drive: Tensor, state: State, weights: State) -> State:
        """One step: ``drive (B, n_gates * H)`` and the state, ``(B, H)`` a part."""

    def forward(
        self, inputs: Tensor, state: Tensor | State | None = None
    ) -> tuple[Tensor, Tensor | State]:
        """Run along a sequence.

        Args:
            inputs: ``(T, B, D)``, ``(B, T, D)`` if ``batch_first``, or ``(T, D)``.
            state: As it is returned; None for zeros.
        """
        if inputs.dim() not in (2, 3) or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"Shape mismatch: expected inputs of shape (T, B, D), (B, T, D) or (T, D) with "
                f"D = {self.input_size}, got {tuple(inputs.shape)}."
            )
        batched = inputs.dim() == 3
        time_axis = 1 if self.batch_first and batched else 0
        sequence = inputs if batched else inputs[:, None]
        drives = F.linear(sequence.transpose(0, time_axis), self.weight_ih, self.bias)
        current = self._start(state, drives.shape[1], drives)
        weights = self.recurrent_weights()
        outputs = []
        for drive in drives.unbind(0):
            current = self.step(drive, current, weights)
            outputs.append(current[0])
        stacked = torch.stack(outputs)
        final = tuple(part[None] for part in current)
        if not batched:
            stacked, final = stacked[:, 0], tuple(part[:, 0] for part in final)
        return stacked.transpose(0, time_axis), final if self.n_parts > 1 else final[0]

    def _start(self, state: Tensor | State | None, batch: int, like: Tensor) -> State:
        if state is None:
            zero = like.new_zeros(batch, self.hidden_size)
            return (zero,) * self.n_parts
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        shapes = [tuple(part.shape) for part in parts]
        expected = (1, batch, self.hidden_size)
        if len(parts) != self.n_parts or any(
            shape not in (expected, expected[1:]) and (batch > 1 or shape != (1, expected[2]))
            for shape in shapes
        ):
            raise ValueError(
                f"Shape mismatch: expected a state of {self.n_parts} tensor(s) of shape "
                f"{expected}, got {shapes}."
            )
        return tuple(part.reshape(batch, self.hidden_size) for part in parts)

    def _uniform(self, *parameters: nn.Parameter) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in parameters:
            nn.init.uniform_(parameter, -bound, bound)

    def _settings(self) -> dict[str, object]:
        """What `repr` shows besides the sizes."""
        return {}

    def extra_repr(self) -> str:
        shown = {**self._settings(), "batch_first": self.batch_first}
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"{self.input_size}, {self.hidden_size}, {settings}"


class AntisymmetricRNN(RecurrentLayer):
    """h' = h + ε tanh((W − Wᵀ − γ I) h + V x + b), a forward Euler step of a stable flow.

    With ``gated``, the update is multiplied by σ((W − Wᵀ − γ I) h + V_z x + b_z).

    Source: Chang, Chen, Haber and Chi, "AntisymmetricRNN", ICLR 2019 (arXiv 1902.09689).

    Args:
        input_size: D.
        hidden_size: H.
        epsilon: Step size ε.
        gamma: Diffusion strength γ.
        gated: Whether an input gate scales the update.
        batch_first: As in `RecurrentLayer`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        epsilon: float = 0.1,
        gamma: float = 0.01,
        gated: bool = False,
        batch_first: bool = False,
    ) -> None:
        self.n_gates = 2 if gated else 1
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.epsilon = epsilon
        self.gamma = gamma
        self.gated = gated
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight_ih, 0.0, 1.0 / math.sqrt(self.input_size))
        nn.init.normal_(self.weight_hh, 0.0, 1.0 / math.sqrt(self.hidden_size))
        nn.init.zeros_(self.bias)

    def recurrent_weights(self) -> State:
        return (antisymmetric_matrix(self.weight_hh, self.gamma).mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (h,), (matrix_t,) = state, weights
        recurrent = h @ matrix_t
        if not self.gated:
            return (h + self.epsilon * torch.tanh(drive + recurrent),)
        candidate, gate = drive.chunk(2, dim=-1)
        update = torch.sigmoid(gate + recurrent) * torch.tanh(candidate + recurrent)
        return (h + self.epsilon * update,)

    def _settings(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "gamma": self.gamma, "gated": self.gated}


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


class LipschitzRNN(RecurrentLayer):
    """h' = h + ε (A h + tanh(W h + U x + b)), A and W with controlled symmetric parts.

    Both matrices are (1 − β)(M + Mᵀ) + β (M − Mᵀ) − γ I.

    Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney, "Lipschitz Recurrent Neural
    Networks", ICLR 2021 (arXiv 2006.12070), by forward Euler.

    Args:
        input_size: D.
        hidden_size: H.
        epsilon: Step size ε.
        beta: How skew both matrices are: 0 symmetric, 0.5 free, 1 skew.
        gamma: What is taken off both diagonals.
        batch_first: As in `RecurrentLayer`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        epsilon: float = 0.03,
        beta: float = 0.75,
        gamma: float = 0.001,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.epsilon = epsilon
        self.beta = beta
        self.gamma = gamma
        self.weight_linear = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.bias)
        for weight in (self.weight_linear, self.weight_hh):
            nn.init.normal_(weight, 0.0, 1.0 / math.sqrt(self.hidden_size))

    def recurrent_weights(self) -> State:
        return tuple(
            lipschitz_matrix(weight, self.beta, self.gamma).mT
            for weight in (self.weight_linear, self.weight_hh)
        )

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (h,), (linear_t, matrix_t) = state, weights
        flow = h @ linear_t + torch.tanh(torch.addmm(drive, h, matrix_t))
        return (h + self.epsilon * flow,)

    def _settings(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "beta": self.beta, "gamma": self.gamma}


class LEM(RecurrentLayer):
    """Long expressive memory: two states that choose their own time steps.

    s = Δt σ(W₁ y + V₁ x + b₁), r = Δt σ(W₂ y + V₂ x + b₂),
    z' = (1 − s) z + s tanh(W_z y + V_z x + b_z), y' = (1 − r) y + r tanh(W_y z' + V_y x + b_y).

    Source: Rusch, Mishra, Erichson and Mahoney, "Long Expressive Memory for Sequence Modeling",
    ICLR 2022 (arXiv 2110.04744).

    Args:
        input_size: D.
        hidden_size: H; the state has 2H numbers, the outputs are y.
        dt: The largest time step Δt.
        batch_first: As in `RecurrentLayer`.
    """

    n_gates = 4
    n_parts = 2

    def __init__(
        self, input_size: int, hidden_size: int, *, dt: float = 1.0, batch_first: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        self.dt = dt
        # Rows for W₁, W₂ and W_z, which act on y; W_y acts on the new z.
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.weight_zy = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self._uniform(self.weight_ih, self.weight_hh, self.weight_zy, self.bias)

    def recurrent_weights(self) -> State:
        return self.weight_hh.mT, self.weight_zy.mT

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        (y, z), (weight_hh_t, weight_zy_t) = state, weights
        size = self.hidden_size
        first, second, candidate = torch.addmm(drive[:, : 3 * size], y, weight_hh_t).chunk(3, -1)
        z = torch.lerp(z, torch.tanh(candidate), self.dt * torch.sigmoid(first))
        candidate = torch.tanh(torch.addmm(drive[:, 3 * size :], z, weight_zy_t))
        return torch.lerp(y, candidate, self.dt * torch.sigmoid(second)), z

    def _settings(self) -> dict[str, object]:
        return {"dt": self.dt}


class ExponentialRNN(RecurrentLayer):
    """An orthogonal RNN: h' = φ(exp(A) h + V x + b) with A skew-symmetric.

    φ is modReLU, sign(y) relu(|y| + b_φ), or tanh.

    Source: Lezcano-Casado and Martínez-Rubio, "Cheap Orthogonal Constraints in Neural Networks",
    ICML 2019 (arXiv 1901.08428); modReLU from Helfrich, Willmott and Ye (arXiv 1707.09520).

    Args:
        input_size: D.
        hidden_size: H.
        nonlinearity: ``"modrelu"`` or ``"tanh"``.
        batch_first: As in `RecurrentLayer`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: str = "modrelu",
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=batch_first)
        if nonlinearity not in ("modrelu", "tanh"):
            raise ValueError(
                f"nonlinearity must be 'modrelu' or 'tanh', but got {nonlinearity!r}."
            )
        self.nonlinearity = nonlinearity
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.modrelu_bias = (
            nn.Parameter(torch.empty(hidden_size)) if nonlinearity == "modrelu" else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight_ih)
        nn.init.zeros_(self.bias)
        # Rotations by random angles in planes of two units each (Henaff, Szlam and LeCun).
        nn.init.zeros_(self.weight_hh)
        with torch.no_grad():
            planes = torch.arange(0, self.hidden_size - 1, 2)
            self.weight_hh[planes, planes + 1] = torch.empty(len(planes)).uniform_(
                -math.pi, math.pi
            )
            if self.modrelu_bias is not None:
                self.modrelu_bias.uniform_(-0.01, 0.01)

    def recurrent_weights(self) -> State:
        return (orthogonal_matrix(self.weight_hh).mT,)

    def step(self, drive: Tensor, state: State, weights: State) -> State:
        y = torch.addmm(drive, state[0], weights[0])
        if self.modrelu_bias is None:
            return (torch.tanh(y),)
        return (torch.sign(y) * torch.relu(y.abs() + self.modrelu_bias),)

    def _settings(self) -> dict[str, object]:
        return {"nonlinearity": self.nonlinearity}
