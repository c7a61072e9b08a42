"""Tasks of going on with a signal: sums of sines, chaotic and driven systems, unknown networks.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Regression
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.generated import Forecast
from benchmarks.record.tasks.generated import Generated
from benchmarks.record.tasks.generated import SettledRegression
from benchmarks.record.tasks.generated import seeded


class FourSines(Generated, Regression):
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


class Lorenz(SettledRegression):
    """Forecast x of the Lorenz system half a unit of time ahead, from x alone."""

    name = "lorenz"
    n_inputs = n_outputs = 1
    n_steps, ahead = 60, 10
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

    def _windows(self, series: Tensor, n: int, seed: int) -> Data:
        last = len(series) - self.n_steps - self.ahead
        starts = torch.randint(last, (n,), generator=seeded(seed))
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


class Teacher(Generated, SettledRegression):
    """The answers of a random network that is driven by noise; 300 sequences in all."""

    name = "teacher"
    n_train, fresh = 300, False
    n_steps, size, gain, noise = 50, 24, 1.2, 0.05
    n_inputs, n_outputs = 2, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        fixed = seeded(0)
        recurrent = self.gain * torch.randn(self.size, self.size, generator=fixed)
        recurrent = recurrent / self.size**0.5
        inwards = torch.randn(self.size, self.n_inputs, generator=fixed)
        outwards = torch.randn(self.n_outputs, self.size, generator=fixed) / self.size**0.5
        x = torch.randn(n, self.n_steps, self.n_inputs, generator=generator)
        h = torch.zeros(n, self.size)
        answers = []
        for at_step in x.unbind(1):
            h = torch.tanh(h @ recurrent.T + at_step @ inwards.T)
            answers.append(h @ outwards.T)
        y = torch.stack(answers, dim=1)
        return x, y + self.noise * torch.randn(y.shape, generator=generator)


class Maps(Forecast):
    """Forecast Hénon maps of different parameters 1, 2 and 4 steps ahead, from noisy values."""

    name = "maps"
    n_train = 400
    n_steps, ahead, noise = 40, (1, 2, 4), 0.05
    n_inputs, n_outputs = 1, 3

    def courses(self) -> Tensor:
        rng = np.random.default_rng(0)
        n = 400
        a, b = rng.uniform(1.15, 1.4, n), rng.uniform(0.25, 0.3, n)
        x, y = rng.uniform(-0.1, 0.1, (2, n))
        kept = []
        for t in range(250):
            x, y = 1.0 - a * x**2 + y, b * x
            if t >= 50:
                kept.append(x)
        return torch.tensor(np.stack(kept, axis=1))[..., None]


class Pendulum(Forecast):
    """Forecast the angles of a double pendulum a third and two thirds of a second ahead."""

    name = "pendulum"
    n_train = 300
    n_steps, ahead, noise = 40, (5, 10), 0.02
    n_inputs, n_outputs = 4, 8
    dt = 1.0 / 15.0

    def courses(self) -> Tensor:
        rng = np.random.default_rng(0)
        n, g = 400, 9.81

        def flow(state: np.ndarray, _: float) -> np.ndarray:
            # Two masses of 1 kg on massless rods of 1 m.
            first, second, u, v = state
            apart = first - second
            sine, cosine = np.sin(apart), np.cos(apart)
            below = 1.0 + sine**2
            first_pull = (
                -g * (2.0 * np.sin(first) - np.sin(second) * cosine)
                - sine * (v**2 + u**2 * cosine)
            ) / below
            second_pull = (
                2.0 * g * (np.sin(first) * cosine - np.sin(second))
                + sine * (2.0 * u**2 + v**2 * cosine)
            ) / below
            return np.stack([u, v, first_pull, second_pull])

        start = rng.uniform(-1.8, 1.8, (4, n)) * np.array([[1.0], [1.0], [0.5], [0.5]])
        course = _runge_kutta(flow, start, self.dt, 160, 8)
        angles = course[:, :2]
        seen = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return torch.tensor(seen).permute(2, 0, 1)


class Oscillator(Forecast):
    """Forecast driven Duffing oscillators a sixth and half a period ahead, from their place."""

    name = "oscillator"
    n_train = 250
    n_steps, ahead, noise = 48, (3, 9), 0.05
    n_inputs, n_outputs = 1, 2
    frequency = 1.2

    def courses(self) -> Tensor:
        rng = np.random.default_rng(0)
        n = 400
        drive, phase = rng.uniform(0.3, 0.6, n), rng.uniform(0.0, 2.0 * np.pi, n)

        def flow(state: np.ndarray, t: float) -> np.ndarray:
            place, speed = state
            force = drive * np.cos(self.frequency * t + phase)
            return np.stack([speed, force - 0.3 * speed + place - place**3])

        dt = 2.0 * np.pi / self.frequency / 18.0
        course = _runge_kutta(flow, rng.uniform(-1.0, 1.0, (2, n)), dt, 400, 8)
        return torch.tensor(course[150:, 0].T)[..., None]


class Narma(Generated, SettledRegression):
    """The nonlinear moving averages NARMA-5, -10 and -20 of a random input.

    Source: Atiya and Parlos (2000), "New results on recurrent network training".
    """

    name = "narma"
    n_train = 250
    n_steps, orders, washout = 70, (5, 10, 20), 20
    n_inputs, n_outputs = 1, len(orders)

    def make(self, n: int, generator: torch.Generator) -> Data:
        u = 0.5 * torch.rand(n, self.n_steps, generator=generator)
        answers = []
        for order in self.orders:
            y = torch.zeros(n, self.n_steps + order)
            padded = torch.cat([torch.zeros(n, order), u], dim=1)
            for t in range(order, self.n_steps + order - 1):
                before = y[:, t - order + 1 : t + 1].sum(1)
                drive = 1.5 * padded[:, t - order + 1] * padded[:, t] + 0.1
                # Longer ones would leave every bound.
                following = 0.3 * y[:, t] + 0.05 * y[:, t] * before + drive
                y[:, t + 1] = torch.tanh(following) if order > 10 else following
            answers.append(y[:, order:])
        return 4.0 * u[..., None] - 1.0, 4.0 * torch.stack(answers, dim=-1)


def _runge_kutta(
    flow: Callable[[np.ndarray, float], np.ndarray],
    state: np.ndarray,
    dt: float,
    n_steps: int,
    n_parts: int,
) -> np.ndarray:
    """States ``(n_steps, ...)`` every ``dt``, by ``n_parts`` steps of fourth order each."""
    h, kept = dt / n_parts, []
    for i in range(n_steps * n_parts):
        t = i * h
        a = flow(state, t)
        b = flow(state + h / 2.0 * a, t + h / 2.0)
        c = flow(state + h / 2.0 * b, t + h / 2.0)
        d = flow(state + h * c, t + h)
        state = state + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)
        if (i + 1) % n_parts == 0:
            kept.append(state)
    return np.stack(kept)
