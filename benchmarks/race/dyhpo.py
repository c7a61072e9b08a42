"""DyHPO: a deep kernel over parameters, epochs and curves, one epoch at a time.

Wistuba, Kadra and Grabocka, "Supervising the multi-fidelity race of hyperparameter
configurations", NeurIPS 2022. A Gaussian process on features that a network makes of parameters,
the epoch and the curve before it; the next epoch goes to whom it expects to improve most on the
best score there was at that epoch. Unlike the authors' network it normalises no batches: inputs
are of unit spread, and the first batches have two rows.

Notation: x parameters of a configuration as d columns, t epochs of T, c scores before epoch t,
0 where there are none, z the score at epoch t (`benchmarks.race.observed.scaled`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import nn

from benchmarks.race.observed import scaled
from benchmarks.race.observed import single_threaded
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.prediction.encoding import ParameterEncoder

FloatArray = npt.NDArray[np.float64]

# Widths, channels and kernel of the authors' code (appendix B).
_HIDDEN, _FEATURES, _CHANNELS, _KERNEL = 64, 128, 4, 3
# As the authors' code: without a better score for so many whole trainings, it is fitted afresh.
_PATIENCE = 1.2
_JITTER = 1e-4


class Fitting(NamedTuple):
    """How long the network is trained, and how often.

    Attributes:
        rate: Of Adam.
        n_first: After each of so many reports it is trained for ``first_steps`` steps.
        first_steps: Also where it is fitted afresh.
        steps: From then on.
        growth: From one fit to the next there are more reports by this share, one at least.
    """

    rate: float
    n_first: int
    first_steps: int
    steps: int
    growth: float


AS_PUBLISHED = Fitting(rate=1e-3, n_first=10, first_steps=1000, steps=50, growth=0.0)
# Longer steps, fewer of them, and less often once an epoch more says little: seconds, where the
# authors' fits cost minutes, more than all training that they save.
IN_SECONDS = Fitting(rate=0.01, n_first=2, first_steps=60, steps=20, growth=0.1)


class Rows(NamedTuple):
    """Inputs of the kernel: ``(n, d + 1)`` parameters and t / T, ``(n, max(T, kernel))`` c."""

    inputs: torch.Tensor
    curves: torch.Tensor


class DeepKernel(nn.Module):
    """A Gaussian process on learned features."""

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_columns + 1, _HIDDEN)
        self.curve = nn.Conv1d(1, _CHANNELS, _KERNEL)
        self.last = nn.Linear(_HIDDEN + _CHANNELS, _FEATURES)
        self.activation = nn.LeakyReLU()
        # Logarithms of length, standard deviation and noise's variance.
        self.log_length = nn.Parameter(torch.tensor(0.0))
        self.log_deviation = nn.Parameter(torch.tensor(0.0))
        self.log_noise = nn.Parameter(torch.tensor(-4.0))
        self.mean = nn.Parameter(torch.tensor(0.0))

    def features(self, rows: Rows) -> torch.Tensor:
        """Shape ``(n, features)``."""
        hidden = self.activation(self.first(rows.inputs))
        pooled = self.curve(rows.curves[:, None]).amax(dim=2)
        out = self.activation(self.last(torch.cat((hidden, pooled), dim=1)))
        return torch.div(out, math.sqrt(_FEATURES))

    def kernel(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Gaussian, of features ``(n, f)`` and ``(m, f)``: ``(n, m)``."""
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
        away = squared.clamp(min=0.0) * torch.exp(-2.0 * self.log_length)
        return torch.exp(2.0 * self.log_deviation - 0.5 * away)

    def factor(self, features: torch.Tensor, *, n_tries: int = 1) -> torch.Tensor:
        """The Cholesky factor of observations' covariance, with ten times the noise each try.

        Raises:
            torch.linalg.LinAlgError: It has none.
        """
        noise = self.log_noise.exp() + _JITTER
        kernel, unit = self.kernel(features, features), torch.eye(len(features))
        for _ in range(n_tries):
            factor: torch.Tensor
            factor, failed = torch.linalg.cholesky_ex(kernel + noise * unit)
            if not failed:
                return factor
            noise = 10.0 * noise
        raise torch.linalg.LinAlgError("A covariance without factor.")  # type: ignore

    def backward(self, rows: Rows, targets: torch.Tensor) -> None:
        """Gradients of the negative log marginal likelihood of an observation.

        Those of the covariance K are known, (K⁻¹ − ααᵀ) / 2n with α = K⁻¹ (z − mean): several
        times as fast as going back through the factorisation.
        """
        features = self.features(rows)
        noise = self.log_noise.exp() + _JITTER
        covariance = self.kernel(features, features) + noise * torch.eye(len(features))
        with torch.no_grad():
            factor = torch.linalg.cholesky(covariance)
            weights = torch.cholesky_solve((targets - self.mean)[:, None], factor)
            slope = torch.cholesky_inverse(factor) - weights @ weights.T
            self.mean.grad = -weights.mean()
        torch.autograd.backward(covariance, slope / (2.0 * len(targets)))

    @torch.no_grad()
    def predict(
        self, rows: Rows, targets: torch.Tensor, asked: Rows
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of scores, ``(m,)`` each."""
        seen, there = self.features(rows), self.features(asked)
        # What has come since the last fit may be too much like what was there.
        factor = self.factor(seen, n_tries=8)
        weights = torch.linalg.solve_triangular(factor, self.kernel(seen, there), upper=False)
        centred = torch.linalg.solve_triangular(
            factor, (targets - self.mean)[:, None], upper=False
        )
        means = self.mean + (weights.T @ centred)[:, 0]
        variances = torch.exp(2.0 * self.log_deviation) - (weights**2).sum(0)
        deviations = (variances.clamp(min=0.0) + self.log_noise.exp()).sqrt()
        return means.double().numpy(), deviations.double().numpy()


class DyHPO:
    """Goes on with the training whose next epoch is expected to improve most; see the module.

    Args:
        fitting: How long the network is trained.
    """

    def __init__(self, fitting: Fitting = IN_SECONDS) -> None:
        self._fitting = fitting

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        with single_threaded(), _seeded(seed):
            _search(pool, self._fitting)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class _History:
    """What has been reported, as rows of the kernel."""

    def __init__(self, pool: Pool) -> None:
        columns = ParameterEncoder(pool.configurations).encode(pool.configurations)
        self.columns = torch.from_numpy(columns).float()
        self._length = pool.length
        self._width = max(pool.length, _KERNEL)
        self._scores: list[float] = []
        self._positions: list[int] = []
        self._epochs: list[int] = []
        self.n_seen = np.zeros(len(pool), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, position: int, score: float) -> None:
        self.n_seen[position] += 1
        self._positions.append(position)
        self._epochs.append(int(self.n_seen[position]))
        self._scores.append(score)

    def observed(self) -> tuple[Rows, torch.Tensor, npt.NDArray[np.float32]]:
        """Rows and targets of all reports; scores as a table, configurations by epochs."""
        targets = scaled(np.array(self._scores)).astype(np.float32)
        table = np.full((len(self.n_seen), self._width), np.nan, dtype=np.float32)
        positions, epochs = np.array(self._positions), np.array(self._epochs)
        table[positions, epochs - 1] = targets
        return self._rows(table, positions, epochs), torch.from_numpy(targets), table

    def asked(self, table: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]) -> Rows:
        """The next epochs of some configurations."""
        return self._rows(table, positions, self.n_seen[positions] + 1)

    def _rows(
        self,
        table: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int64],
        epochs: npt.NDArray[np.int64],
    ) -> Rows:
        before = np.arange(self._width) < epochs[:, None] - 1
        curves = np.where(before, table[positions], np.float32(0.0))
        shares = torch.from_numpy((epochs / self._length).astype(np.float32))
        inputs = torch.cat((self.columns[torch.from_numpy(positions)], shares[:, None]), dim=1)
        return Rows(inputs, torch.from_numpy(curves))


def _search(pool: Pool, fitting: Fitting) -> None:
    history = _History(pool)
    open_ = np.ones(len(pool), dtype=bool)
    model = DeepKernel(history.columns.shape[1])
    # One report has no neighbours to learn from.
    next_fit, position = 2, 0
    best_score, idle = -math.inf, 0
    while True:
        score = pool.sign * pool.train(position)
        history.add(position, score)
        best_score, idle = (score, 0) if score > best_score else (best_score, idle + 1)
        # What has diverged stays so.
        open_[position] = math.isfinite(score) and not pool.is_over(position)
        candidates = np.flatnonzero(open_)
        if len(candidates) == 0:
            return
        rows, targets, table = history.observed()
        afresh = len(history) == 2 or idle == int(_PATIENCE * pool.length)
        if afresh:
            model = DeepKernel(history.columns.shape[1])
        if afresh or len(history) >= next_fit:
            longer = afresh or len(history) <= fitting.n_first
            steps = fitting.first_steps if longer else fitting.steps
            _fit(model, rows, targets, fitting.rate, steps)
            next_fit = len(history) + max(math.ceil(fitting.growth * len(history)), 1)
        means, deviations = model.predict(rows, targets, history.asked(table, candidates))
        best = _best_at_each_epoch(table)[history.n_seen[candidates]]
        z = (means - best) / deviations
        gains = deviations * (z * norm.cdf(z) + norm.pdf(z))
        position = int(candidates[np.argmax(gains)])


def _best_at_each_epoch(table: npt.NDArray[np.float32]) -> FloatArray:
    """The best score at each epoch; where nobody has come, the best of all before."""
    known = np.where(np.isnan(table), -np.inf, table).max(axis=0)
    return np.asarray(np.where(np.isinf(known), known.max(), known), dtype=np.float64)


def _fit(model: DeepKernel, rows: Rows, targets: torch.Tensor, rate: float, n_steps: int) -> None:
    """Maximise the marginal likelihood, and keep what was where that fails."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=True)
    try:
        for _ in range(n_steps):
            optimizer.zero_grad()
            model.backward(rows, targets)
            optimizer.step()
        model.factor(model.features(rows))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        model.load_state_dict(before)
