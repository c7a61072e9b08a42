"""Networks to test with, and what PyTorch itself says about their steps and Jacobians.

Notation as in the engine: T steps, B sequences, D inputs, H hidden units, N the size of the state.
A *flat* state is one tensor (B, N): all parts of the module's own state, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Literal

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import cells

ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "rnn-tanh": nn.RNN,
    "rnn-relu": lambda d, h, **more: nn.RNN(d, h, nonlinearity="relu", **more),
    "rnn-no-bias": lambda d, h, **more: nn.RNN(d, h, bias=False, **more),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "lstm-hidden": nn.LSTM,
    "lstm-projected": lambda d, h, **more: nn.LSTM(d, h + 1, proj_size=max(h - 1, 1), **more),
    "lstm-projected-hidden": lambda d, h, **more: nn.LSTM(d, h + 1, proj_size=h, **more),
    "antisymmetric": cells.AntisymmetricRNN,
    "antisymmetric-gated": lambda d, h, **more: cells.AntisymmetricRNN(d, h, gated=True, **more),
    "cornn": cells.CoRNN,
    "lipschitz": cells.LipschitzRNN,
    "lem": cells.LEM,
    "lem-half": lambda d, h, **more: cells.LEM(d, h, dt=0.5, **more),
    "slstm": cells.SLSTM,
    "exponential-modrelu": cells.ExponentialRNN,
    "exponential-tanh": lambda d, h, **more: cells.ExponentialRNN(
        d, h, nonlinearity="tanh", **more
    ),
}


def state_of(name: str) -> Literal["full", "hidden"]:
    """The ``state`` of `lyapunov_spectrum` that an entry of `ARCHITECTURES` is for."""
    return "hidden" if name.endswith("hidden") else "full"


def gaussian_(module: Any, gain: float, seed: int = 0) -> Any:
    """Draw all parameters from N(0, gain² / fan-in) and make them float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, gain / parameter.shape[-1] ** 0.5, generator=generator)
    return module.double()


def built(name: str, d: int, h: int, gain: float, seed: int = 0) -> Any:
    """An entry of `ARCHITECTURES` with Gaussian weights."""
    return gaussian_(ARCHITECTURES[name](d, h), gain, seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(n: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(noise(n, n, seed=seed)).Q


def part_sizes(network: Any) -> tuple[int, ...]:
    """Sizes of the tensors that the state of a one-layer network consists of."""
    if isinstance(network, nn.LSTM):
        return (network.proj_size or network.hidden_size, network.hidden_size)
    return (network.hidden_size,) * getattr(network, "n_parts", 1)


def own_step(network: Any, x: Tensor, flat: Tensor) -> Tensor:
    """One step of the module's own forward: ``x (B, D)`` and a flat state ``(B, N)``."""
    parts = tuple(part[None] for part in torch.split(flat, part_sizes(network), dim=-1))
    _, final = network(x[None], parts if len(parts) > 1 else parts[0])
    return torch.cat(final, dim=-1)[0] if isinstance(final, tuple) else final[0]


def own_states(network: Any, inputs: Tensor, start: Tensor | None = None) -> Tensor:
    """Flat states ``(T + 1, B, N)`` along ``inputs (T, B, D)``, from zero or from ``start``."""
    first = inputs.new_zeros(inputs.shape[1], sum(part_sizes(network)))
    states = [first if start is None else start]
    with torch.no_grad():
        for x in inputs:
            states.append(own_step(network, x, states[-1]))
    return torch.stack(states)


def own_jacobians(network: Any, inputs: Tensor, states: Tensor, state: str) -> Tensor:
    """∂(next state)/∂(state) by autograd, ``(..., N, N)`` for ``inputs (..., D)``.

    For ``state="hidden"``, ∂h'/∂h with c held: the upper left block of the whole Jacobian.
    """

    def step(flat: Tensor, x: Tensor) -> Tensor:
        return own_step(network, x[None], flat[None])[0]

    of_each: Callable[..., Tensor] = torch.func.vmap(torch.func.jacrev(step))
    n = states.shape[-1]
    whole = of_each(states.reshape(-1, n), inputs.reshape(-1, inputs.shape[-1]))
    whole = whole.detach().view(*states.shape[:-1], n, n)
    size = part_sizes(network)[0] if state == "hidden" else n
    return whole[..., :size, :size]
