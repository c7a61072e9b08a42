"""Whose exponents does `benchmarks.engine.accuracy` check? Networks, and an exact answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import nn

from benchmarks.engine.timing import Setting
from optuna_aelle.lyapunov import cells

# The product over 30 steps at gain 10 spans 420 to 510 decades: 300 digits lose the small ones of
# its exponents, 600 give those of 1200.
DIGITS = 600
# Radians a step, primes over a hundred: together they repeat after 628 steps only.
_FREQUENCIES = (0.11, 0.23, 0.37, 0.61)
# Of one update. After 60 the loss is .02, where the signal's variance is .5.
_STEPS = 50
_BATCH = 32


def sines(n_steps: int, batch: int, seed: int) -> Tensor:
    """Two channels of four sines with random phases and a little noise, ``(T, B, 2)``."""
    generator = torch.Generator().manual_seed(seed)
    phases = 2.0 * math.pi * torch.rand(batch, 2, len(_FREQUENCIES), generator=generator)
    time = torch.arange(n_steps)[:, None, None, None]
    signal = torch.sin(time * torch.tensor(_FREQUENCIES) + phases).sum(dim=-1) / 2.0
    return signal + 0.05 * torch.randn(signal.shape, generator=generator)


def trained(setting: Setting, architecture: str, hidden_size: int) -> tuple[Any, float]:
    """A network that has learnt to name the next value of `sines`, and its last loss."""
    network = setting.network(architecture, 2, hidden_size)
    head = nn.Linear(hidden_size, 2).to(setting.device)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=0.01)
    loss = torch.tensor(math.nan)
    for step in range(5 if setting.quick else 60):
        signal = sines(_STEPS + 1, _BATCH, seed=100 + step).to(setting.device)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(head(network(signal[:-1])[0]), signal[1:])
        torch.autograd.backward(loss)
        optimizer.step()
    return network, float(loss.detach())


def gain_network(hidden_size: int, gain: float, seed: int) -> tuple[nn.RNN, Tensor]:
    """An autonomous tanh network in float64 with weights N(0, gain² / H), and where it starts.

    The state is to be given as the module takes it: ``(1, 1, H)``.
    """
    generator = torch.Generator().manual_seed(seed)
    network = nn.RNN(1, hidden_size, bias=False).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, gain / math.sqrt(hidden_size), generator=generator)
    return network, torch.randn(1, 1, hidden_size, generator=generator, dtype=torch.float64)


def recurrent_weight(network: nn.RNNBase) -> Tensor:
    """The recurrent weights of the first layer, ``(G H, H)``."""
    return network.get_parameter("weight_hh_l0").detach()


def high_precision_exponents(
    weight: Tensor, start: Tensor, n_steps: int, frame: Tensor
) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """The exponents of h' = tanh(W h) from a product of all Jacobians with 600 digits.

    The trajectory is the float64 one, taken as given.

    Args:
        weight: ``(N, N)`` float64.
        start: ``(1, N)`` float64.
        n_steps: T.
        frame: The first orthonormal frame ``(N, N)``.

    Returns:
        The slopes sech²(W h) rounded to float64, ``(T, N)``, and the exponents ``(N,)``,
        descending.
    """
    h, size, slopes = start[0], len(weight), []
    with mpmath.workdps(DIGITS):
        exact_weight = mpmath.matrix(weight.tolist())
        product = mpmath.matrix(frame.tolist())
        for _ in range(n_steps):
            y = weight @ h
            h = torch.tanh(y)
            slope = [mpmath.sech(mpmath.mpf(v)) ** 2 for v in y.tolist()]
            slopes.append([float(v) for v in slope])
            product = mpmath.diag(slope) * (exact_weight * product)
        _, r = mpmath.qr(product)
        logs = [float(mpmath.log(abs(r[i, i]))) for i in range(size)]
    exponents = np.sort(np.array(logs) / n_steps)[::-1]
    return torch.tensor(slopes, dtype=torch.float64), exponents


def random_architectures() -> dict[str, Callable[[int, int], Any]]:
    """Every kind of network that the engine takes, from the sizes of input and state."""
    return {
        "RNN tanh": nn.RNN,
        "RNN relu": lambda d, h: nn.RNN(d, h, nonlinearity="relu"),
        "LSTM full": nn.LSTM,
        "LSTM hidden": nn.LSTM,
        "GRU": nn.GRU,
        "AntisymmetricRNN": cells.AntisymmetricRNN,
        "CoRNN": cells.CoRNN,
        "LipschitzRNN": cells.LipschitzRNN,
        "LEM": cells.LEM,
        "ExponentialRNN": cells.ExponentialRNN,
        "MinGRU": cells.MinGRU,
        "MinLSTM": cells.MinLSTM,
        "LRU": cells.LRU,
        "S4D": cells.S4D,
        "S5": cells.S5,
        "S6": cells.S6,
        "MLSTM": cells.MLSTM,
        "SLSTM": cells.SLSTM,
        "RWKV4": cells.RWKV4,
        "RWKV6": cells.RWKV6,
    }
