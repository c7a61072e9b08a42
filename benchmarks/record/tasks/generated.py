"""Tasks made by a formula, fresh data for every epoch: memory over known delays, and forecasts.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Regression
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import cross_entropy


class Generated(Regression):
    """Sequences made by a formula, fresh ones for every epoch."""

    n_train, n_held_out = 500, 250

    def load(self) -> Split:
        return Split(
            validation=self.make(self.n_held_out, _generator(1)),
            test=self.make(self.n_held_out, _generator(2)),
        )

    def draw(self, epoch: int) -> Data:
        return self.make(self.n_train, _generator(10 + epoch))

    @abstractmethod
    def make(self, n: int, generator: torch.Generator) -> Data:
        """``n`` sequences and what the network is to answer."""


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Adding(Generated):
    """Three sums of two marked numbers each, the marks up to 15, 30 and 60 steps back.

    Source: Hochreiter and Schmidhuber (1997), the adding problem, with several delays at once.
    """

    name = "adding"
    n_steps, spans = 60, (15, 30, 60)
    n_inputs, n_outputs = 4, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        numbers = torch.rand(n, self.n_steps, generator=generator) * 2.0 - 1.0
        x = torch.zeros(n, self.n_steps, 4)
        x[..., 0] = numbers
        y = torch.zeros(n, 3)
        rows = torch.arange(n)
        for pair, span in enumerate(self.spans):
            # One mark in the first, one in the second half of the pair's span.
            for half in range(2):
                start = self.n_steps - span + half * span // 2
                at = start + torch.randint(span // 2, (n,), generator=generator)
                x[rows, at, 1 + pair] = 1.0
                y[:, pair] += numbers[rows, at]
        return x, y


class Recall(Generated):
    """Give back three numbers that were shown 15, 35 and 70 steps ago, amid noise."""

    name = "recall"
    n_steps, delays, noise = 72, (15, 35, 70), 0.3
    n_inputs, n_outputs = 2, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        numbers = torch.rand(n, 3, generator=generator) * 2.0 - 1.0
        x = torch.zeros(n, self.n_steps, 2)
        x[..., 0] = self.noise * torch.randn(n, self.n_steps, generator=generator)
        for i, delay in enumerate(self.delays):
            x[:, -1 - delay, 0] = numbers[:, i]
            x[:, -1 - delay, 1] = 1.0
        return x, numbers


class Copying(Generated):
    """Repeat five symbols of an alphabet of six after 10 and again after 40 blank steps.

    The score is the cross-entropy over what blind guessing has: 1 is chance. Source: Hochreiter
    and Schmidhuber (1997), the copying task, with two delays.
    """

    name = "copying"
    metric = "relative cross-entropy"
    every_step = True
    n_symbols, length, delays = 6, 5, (10, 40)
    n_inputs, n_outputs = 8, 6

    def make(self, n: int, generator: torch.Generator) -> Data:
        symbols = torch.randint(self.n_symbols, (n, self.length), generator=generator)
        n_steps = 2 * self.length + self.delays[1] + self.length
        x = torch.zeros(n, n_steps, self.n_inputs)
        x[:, : self.length, : self.n_symbols] = F.one_hot(symbols, self.n_symbols).float()
        x[:, self.length :, -1] = 1.0
        for start in self.answer_starts():
            x[:, start, -2:] = torch.tensor([1.0, 0.0])
        return x, symbols

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = [outputs[:, :, at : at + self.length] for at in self.answer_starts()]
        return torch.stack([cross_entropy(answer, targets) for answer in answers]).mean(0)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        relative = self.losses(outputs, targets) / float(np.log(self.n_symbols))
        return self.bounded(relative)

    def answer_starts(self) -> tuple[int, int]:
        """The steps at which the two answers begin."""
        first = self.length + self.delays[0]
        return first, self.length + self.delays[1]


class FourSines(Generated):
    """Go on with a sum of four sines, seen with noise for 30 steps, for 30 more by heart.

    Source of the signal: Vogt et al. (arXiv 2204.04876), signal reconstruction, after Sussillo and
    Abbott (2009); here every sequence has phases and amplitudes of its own.
    """

    name = "sines"
    every_step = True
    n_steps, seen, noise = 60, 30, 0.1
    periods = (40.0, 20.0, 40.0 / 3.0, 10.0)
    n_inputs, n_outputs = 2, 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        phases = 2.0 * np.pi * torch.rand(n, 1, 4, generator=generator)
        sizes = 0.3 + torch.rand(n, 1, 4, generator=generator)
        t = torch.arange(self.n_steps, dtype=torch.float32)[None, :, None]
        rates = 2.0 * np.pi / torch.tensor(self.periods)
        signal = (sizes * torch.sin(rates * t + phases)).sum(-1)
        x = torch.zeros(n, self.n_steps, 2)
        shown = signal + self.noise * torch.randn(n, self.n_steps, generator=generator)
        x[:, : self.seen, 0] = shown[:, : self.seen]
        x[:, self.seen :, 1] = 1.0
        return x, signal[..., None]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().losses(outputs[:, :, self.seen :], targets[:, self.seen :])

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().scores(outputs[:, :, self.seen :], targets[:, self.seen :])


class Lorenz(Regression):
    """Forecast x of the Lorenz system half a unit of time ahead, from x alone."""

    name = "lorenz"
    every_step = True
    n_inputs = n_outputs = 1
    n_steps, ahead, washout = 60, 10, 10
    dt = 0.05

    def load(self) -> Split:
        x = torch.tensor(self._trajectory(60_000), dtype=torch.float32)
        x = (x - x.mean()) / x.std()
        self._train = x[:40_000]
        return Split(
            validation=self._windows(x[40_000:50_000], 300, 1),
            test=self._windows(x[50_000:], 300, 2),
        )

    def draw(self, epoch: int) -> Data:
        return self._windows(self._train, 500, 10 + epoch)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().losses(outputs[:, :, self.washout :], targets[:, self.washout :])

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().scores(outputs[:, :, self.washout :], targets[:, self.washout :])

    def _windows(self, series: Tensor, n: int, seed: int) -> Data:
        last = len(series) - self.n_steps - self.ahead
        starts = torch.randint(last, (n,), generator=torch.Generator().manual_seed(seed))
        at = starts[:, None] + torch.arange(self.n_steps)
        return series[at][..., None], series[at + self.ahead][..., None]

    def _trajectory(self, n: int) -> list[float]:
        def flow(s: np.ndarray) -> np.ndarray:
            x, y, z = s
            return np.array([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])

        state, h, kept = np.array([1.0, 1.0, 20.0]), self.dt / 4.0, []
        for i in range(4 * (n + 100)):
            a = flow(state)
            b = flow(state + h / 2.0 * a)
            c = flow(state + h / 2.0 * b)
            d = flow(state + h * c)
            state = state + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)
            if i % 4 == 3 and i >= 400:
                kept.append(float(state[0]))
        return kept
