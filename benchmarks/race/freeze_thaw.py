"""Freeze-thaw Bayesian optimisation with a Gaussian process and ifBO's policy.

After every epoch it goes on with whichever training, started or not, has the best chance to
improve on the best score seen by a random margin within a random number of epochs: MFPI-random,
Rakotoarison et al., "In-context freeze-thaw Bayesian optimization for hyperparameter
optimization", ICML 2024. Theirs is a trained network that predicts curves; here, as in Swersky,
Snoek and Adams, "Freeze-thaw Bayesian optimization" (arXiv 1406.3896), a Gaussian process does.

Notation: x parameters of a configuration as d columns, t epochs, u = log t / log T with T those of
a whole training, z a score on the scale of `benchmarks.race.observed.scaled`. k_x is a Matérn
kernel of order 5/2 with a length for each column, k_u a Gaussian one, δ is 1 for the same
configuration and else 0:

    k = a k_u + k_x (b + c k_u) + δ (e + f k_u') + noise.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_triangular
from scipy.stats import norm

from benchmarks.race.observed import scaled
from benchmarks.race.observed import single_threaded
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.prediction.encoding import ParameterEncoder

FloatArray = npt.NDArray[np.float64]

# The policy's margins, as shares of the distance from the median to the best seen: 10 to a power
# drawn between these. Rakotoarison et al. (section 4.2) take shares of what is left until a score
# of 1, which scores without an upper end do not have.
_MARGINS = (-4.0, -1.0)
# Reports after which hyperparameters are fitted, by how much more there are each time.
_FIRST_FIT, _GROWTH = 8, 1.4
_N_STEPS, _RATE = 40, 0.1
# Of the priors on logarithms.
_LENGTH_SPREAD, _REST_SPREAD = 0.75, 1.5
_JITTER = 1e-5
# Distances by products of matrices are not exactly 0 where they are.
_EXACT = "donot_use_mm_for_euclid_dist"


class CurveProcess:
    """The Gaussian process over configurations and epochs.

    Args:
        columns: ``(n, d)`` of all configurations.
        length: T.
    """

    def __init__(self, columns: FloatArray, length: int) -> None:
        self._columns = torch.from_numpy(columns)
        self._log_length = math.log(max(length, 2))
        n_columns = columns.shape[1]
        self._lengths = torch.zeros(n_columns, dtype=torch.float64)
        # Logarithms of a, b, c, e, f, the lengths of k_u and k_u', and the noise's variance.
        self._rest = torch.log(
            torch.tensor([0.3, 0.3, 0.3, 0.1, 0.1, 0.5, 0.5, 0.01], dtype=torch.float64)
        )
        self._prior = self._rest.clone()
        self._typical = 0.5 * math.log(max(n_columns, 1))
        self._lengths += self._typical
        self._where: list[tuple[int, float]] = []
        self._factor = np.zeros((16, 16))
        self._n_factored = 0

    def __len__(self) -> int:
        return len(self._where)

    def add(self, position: int, epoch: int) -> None:
        """An epoch of a configuration has been observed."""
        self._where.append((position, self.log_epochs(np.array([epoch]))[0]))

    def log_epochs(self, epochs: npt.NDArray[np.int64]) -> FloatArray:
        """u."""
        return np.asarray(np.log(epochs) / self._log_length)

    def fit(self, scores: FloatArray) -> None:
        """Choose hyperparameters by marginal likelihood, with weak priors, from where they are."""
        centred = torch.from_numpy(scores - scores.mean())[:, None]
        positions, epochs = self._observed()
        lengths = self._lengths.clone().requires_grad_()
        rest = self._rest.clone().requires_grad_()
        optimizer = torch.optim.Adam([lengths, rest], lr=_RATE, foreach=True)
        eye = torch.eye(len(scores), dtype=torch.float64)
        for _ in range(_N_STEPS):
            optimizer.zero_grad()
            kernel = self._kernel(positions, epochs, positions, epochs, lengths, rest)
            covariance = kernel + (rest[7].exp() + _JITTER) * eye
            with torch.no_grad():
                factor, failed = torch.linalg.cholesky_ex(covariance)
                if failed:
                    return
                weights = torch.cholesky_solve(centred, factor)
                # The gradient is known: several times as fast as going back through the factor.
                slope = 0.5 * (torch.cholesky_inverse(factor) - weights @ weights.T)
            torch.autograd.backward(covariance, slope)
            # Normal priors on logarithms: few trials do not tell twenty lengths apart.
            prior = ((lengths - self._typical) ** 2).sum() / _LENGTH_SPREAD**2
            prior = prior + ((rest - self._prior) ** 2).sum() / _REST_SPREAD**2
            torch.autograd.backward(0.5 * prior)
            optimizer.step()
        if torch.isfinite(lengths).all() and torch.isfinite(rest).all():
            self._lengths, self._rest = lengths.detach(), rest.detach()
        self._n_factored = 0

    def predict(
        self, scores: FloatArray, positions: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of scores of configurations at epochs, ``(m,)`` each."""
        self._extend()
        n = len(self._where)
        factor = self._factor[:n, :n]
        u = torch.from_numpy(self.log_epochs(epochs))
        there = torch.from_numpy(positions)
        cross = self._kernel(*self._observed(), there, u, self._lengths, self._rest).numpy()
        centred = solve_triangular(factor, scores - scores.mean(), lower=True, check_finite=False)
        weights = solve_triangular(factor, cross, lower=True, check_finite=False)
        own = float(self._rest[:5].exp().sum())
        variances = own - (weights**2).sum(axis=0)
        means = scores.mean() + weights.T @ centred
        return means, np.sqrt(np.maximum(variances, 1e-9))

    def _observed(self) -> tuple[torch.Tensor, torch.Tensor]:
        positions, epochs = zip(*self._where, strict=True)
        return torch.tensor(positions), torch.tensor(epochs, dtype=torch.float64)

    def _extend(self) -> None:
        """Bring the Cholesky factor up to date, in one block."""
        n, done = len(self._where), self._n_factored
        if n == done:
            return
        if n > len(self._factor):
            grown = np.zeros((2 * n, 2 * n))
            grown[:done, :done] = self._factor[:done, :done]
            self._factor = grown
        positions, epochs = self._observed()
        kernel = self._kernel(
            positions, epochs, positions[done:], epochs[done:], self._lengths, self._rest
        ).numpy()
        own = kernel[done:] + (math.exp(float(self._rest[7])) + _JITTER) * np.eye(n - done)
        if done:
            old = self._factor[:done, :done]
            across = solve_triangular(old, kernel[:done], lower=True, check_finite=False)
            self._factor[done:n, :done] = across.T
            own = own - across.T @ across
        self._factor[done:n, done:n] = np.linalg.cholesky(own)
        self._n_factored = n

    def _kernel(
        self,
        positions: torch.Tensor,
        epochs: torch.Tensor,
        others: torch.Tensor,
        their_epochs: torch.Tensor,
        lengths: torch.Tensor,
        rest: torch.Tensor,
    ) -> torch.Tensor:
        a, b, c, e, f, long, short, _ = rest.exp()
        columns = self._columns / lengths.exp()
        away = torch.cdist(columns[positions], columns[others], compute_mode=_EXACT)
        root = math.sqrt(5.0) * away
        alike = (1.0 + root + root**2 / 3.0) * torch.exp(-root)
        gap = (epochs[:, None] - their_epochs) ** 2
        by_epoch = torch.exp(-0.5 * gap / long**2)
        own = (positions[:, None] == others).to(torch.float64)
        residual = own * (e + f * torch.exp(-0.5 * gap / short**2))
        return torch.add(a * by_epoch + alike * (b + c * by_epoch), residual)


class FreezeThaw:
    """Goes on, epoch by epoch, with the training that may improve most likely; see the module."""

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        with single_threaded():
            _search(pool, np.random.default_rng(seed))


def _search(pool: Pool, rng: np.random.Generator) -> None:
    encoder = ParameterEncoder(pool.configurations)
    process = CurveProcess(encoder.encode(pool.configurations), pool.length)
    n_seen = np.zeros(len(pool), dtype=np.int64)
    open_ = np.ones(len(pool), dtype=bool)
    scores: list[float] = []
    next_fit = _FIRST_FIT
    position = 0
    while open_.any():
        score = pool.sign * pool.train(position)
        n_seen[position] += 1
        # What has diverged stays so.
        open_[position] = math.isfinite(score) and not pool.is_over(position)
        scores.append(score)
        process.add(position, int(n_seen[position]))
        seen = scaled(np.array(scores))
        if len(scores) >= next_fit:
            process.fit(seen)
            next_fit = math.ceil(_GROWTH * len(scores))
        candidates = np.flatnonzero(open_)
        if len(candidates) == 0:
            return
        horizon = int(rng.integers(1, pool.length + 1))
        until = np.minimum(n_seen[candidates] + horizon, pool.length)
        means, deviations = process.predict(seen, candidates, until)
        margin = 10.0 ** rng.uniform(*_MARGINS)
        chances = norm.logcdf((means - (seen.max() + margin)) / deviations)
        position = int(candidates[np.argmax(chances)])
