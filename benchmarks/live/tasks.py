"""Tasks that no table of `benchmarks/tables` holds, and so no prior has seen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.training import BATCH_SIZE
from studies.training import SequenceNetwork
from studies.training import Task

N_TRAIN = 1000
N_VALIDATION = 500


class _Generated(Task):
    """Fresh sequences every epoch, the same for all networks; those that score are fixed."""

    direction = "minimize"

    def __init__(self) -> None:
        self.x_validation, self.y_validation = self.sequences(
            N_VALIDATION, torch.Generator().manual_seed(0)
        )
        self.probe_inputs = self.x_validation[:4]

    @abstractmethod
    def sequences(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs ``(n, T, n_inputs)`` and targets ``(n, n_outputs)``."""

    def training_batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.sequences(N_TRAIN, generator)
        yield from zip(torch.split(x, BATCH_SIZE), torch.split(y, BATCH_SIZE), strict=True)

    def outputs(self, network: SequenceNetwork) -> Tensor:
        """Of the sequences that score, ``(n, n_outputs)``."""
        device = next(network.parameters()).device
        with torch.no_grad():
            found: Tensor = network(self.x_validation.to(device)).cpu()
        return found


class FlipFlop(_Generated):
    """Three channels of rare pulses; give back the last one of each. Minimise cross-entropy."""

    name = "flipflop"
    metric = "cross-entropy"
    n_inputs = 3
    n_outputs = 3
    n_steps = 60
    rate = 0.04

    def sequences(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        there = torch.rand(n, self.n_steps, 3, generator=generator) < self.rate
        there[:, 0] = True
        signs = torch.randint(0, 2, there.shape, generator=generator) * 2.0 - 1.0
        at = torch.arange(self.n_steps)[None, :, None].expand_as(there)
        last = torch.where(there, at, -1).amax(dim=1, keepdim=True)
        noise = 0.3 * torch.randn(there.shape, generator=generator)
        return torch.where(there, signs, noise), signs.gather(1, last)[:, 0]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(-outputs * targets).mean()

    def score(self, network: SequenceNetwork) -> float:
        # In nats; who always guesses has ln 2.
        found = self.loss(self.outputs(network), self.y_validation)
        return min(float(found.nan_to_num(nan=2.0, posinf=2.0)), 2.0)


class MackeyGlass(_Generated):
    """Forecast the Mackey-Glass equation (delay 17) 24 steps ahead. Minimise what is unexplained.

    Source of the equation: Mackey and Glass, Science 197 (1977).
    """

    name = "mackeyglass"
    metric = "unexplained variance"
    n_inputs = 1
    n_outputs = 1
    n_steps = 48
    ahead = 24

    def sequences(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        series = _mackey_glass()
        # What scores is fixed by its seed, and lies after all that is trained on.
        train = n == N_TRAIN
        middle = len(series) * 2 // 3
        first, last = (0, middle) if train else (middle, len(series))
        starts = torch.randint(first, last - self.n_steps - self.ahead, (n,), generator=generator)
        windows = series[starts[:, None] + torch.arange(self.n_steps)]
        noisy = windows + 0.1 * torch.randn(windows.shape, generator=generator)
        return noisy[..., None], series[starts + self.n_steps - 1 + self.ahead][:, None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def score(self, network: SequenceNetwork) -> float:
        error = (self.outputs(network) - self.y_validation).square().mean()
        share = error / self.y_validation.var()
        return min(float(share.nan_to_num(nan=2.0, posinf=2.0)), 2.0)


class TemporalOrder(_Generated):
    """Two marked symbols, each X or Y, far apart among distractors: which came, in which order?

    For many epochs most networks sit at an error of three quarters, which is chance. Minimise the
    error.

    Source: Hochreiter and Schmidhuber, Neural Computation 9 (1997), task 6a.
    """

    name = "order"
    metric = "error"
    n_inputs = 6
    n_outputs = 4
    n_steps = 60
    first, second = (2, 10), (40, 50)

    def sequences(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(2, 6, (n, self.n_steps), generator=generator)
        marked = torch.randint(0, 2, (n, 2), generator=generator)
        for place, within in enumerate((self.first, self.second)):
            when = torch.randint(*within, (n,), generator=generator)
            symbols[torch.arange(n), when] = marked[:, place]
        return F.one_hot(symbols, 6).float(), 2 * marked[:, 0] + marked[:, 1]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, network: SequenceNetwork) -> float:
        chosen = self.outputs(network).argmax(dim=1)
        return float((chosen != self.y_validation).float().mean())


@lru_cache
def _mackey_glass(n: int = 6000, delay: int = 17, per_step: int = 10) -> Tensor:
    """Standardised, one value a unit of time; by Euler's method in steps of a tenth."""
    lag = delay * per_step
    x = torch.full((lag + (n + 500) * per_step,), 1.2, dtype=torch.float64).tolist()
    for i in range(lag, len(x) - 1):
        past = x[i - lag]
        x[i + 1] = x[i] + (0.2 * past / (1.0 + past**10) - 0.1 * x[i]) / per_step
    series = torch.tensor(x[lag + 500 * per_step :: per_step])[:n]
    return ((series - series.mean()) / series.std()).float()
