"""Which configuration of a pool would a sampler take? Optuna's samplers over what is recorded.

Samplers propose points of a space, and of most of these nothing is recorded. Moving a proposal to
its nearest neighbour takes its aim away, so that TPE and Gaussian processes are asked for more:
their acquisition function, at every configuration that is left. Both are reached through what
Optuna lets users override (`TPESampler._parzen_estimator_cls`, `GPSampler._optimize_acqf`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler
from optuna.samplers import GPSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_aelle.backtest.streams import Neighbors
from optuna_aelle.backtest.streams import key_of
from optuna_aelle.backtest.streams import propose
from optuna_aelle.decisions.wrapping import WrappingSampler

FloatArray = npt.NDArray[np.float64]


class PoolSampler(WrappingSampler):
    """Let a sampler choose among the configurations of a pool that it has not taken yet.

    Where it would draw at random, as before its first trials have ended, the next one in
    ``order`` is taken, so that arms which share a pool begin alike. What it has proposed once it
    proposes again only when nothing else is left: whoever asks for several remembers them.

    Args:
        base: Any sampler. TPE and Gaussian processes are asked for their acquisition function;
            what others propose is moved to the nearest configuration that is left.
        configurations: Those of the pool.
        order: Their positions.

    Attributes:
        chosen: The position of the configuration that was taken last.
    """

    def __init__(
        self, base: BaseSampler, configurations: Sequence[FrozenTrial], order: Sequence[int]
    ) -> None:
        # The hooks below are for the pool, not for whoever else uses the sampler.
        super().__init__(copy.copy(base))
        self._configurations = configurations
        self._neighbors = Neighbors(configurations)
        self._positions: dict[str, list[int]] = {}
        for position, trial in enumerate(configurations):
            self._positions.setdefault(key_of(trial.params), []).append(position)
        self._left = list(order)
        self.chosen = -1
        self._asked: set[int] = set()
        self._candidates: list[FrozenTrial] = []
        self._scores: FloatArray | None = None
        self._shared_scores: FloatArray | None = None
        if isinstance(self._base, TPESampler):
            self._hook_tpe(self._base)
        elif isinstance(self._base, GPSampler):
            self._base._optimize_acqf = self._best_of_gp  # type: ignore

    @property
    def n_left(self) -> int:
        """How many have not been taken."""
        return len(self._left)

    @property
    def configuration(self) -> FrozenTrial:
        """The one taken last."""
        return self._configurations[self.chosen]

    def take(self, params: dict[str, Any]) -> None:
        """Choose the configuration of a trial, which is no longer left."""
        # Several may be equal, in a space of few choices.
        equal = self._positions.get(key_of(params), [])
        among = [position for position in self._left if position in equal]
        self.chosen = among[0] if among else self._neighbors.nearest(params, self._left)
        self._left.remove(self.chosen)

    def find(self, params: dict[str, Any]) -> int:
        """The position of exactly this configuration, of several the first that is left."""
        equal = self._positions.get(key_of(params), [])
        if not equal:
            raise KeyError(f"Expected a configuration of the pool, got {params}.")
        return next((position for position in self._left if position in equal), equal[0])

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._neighbors.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        left = [position for position in self._left if position not in self._asked] or self._left
        position = self._choose(study, trial, left)
        self._asked.add(position)
        return dict(self._configurations[position].params)

    def _choose(self, study: Study, trial: FrozenTrial, left: list[int]) -> int:
        if isinstance(self._base, RandomSampler) or len(left) == 1:
            return left[0]
        if not isinstance(self._base, TPESampler | GPSampler):
            params = propose(self._base, study, trial, self._neighbors)
            return self._neighbors.nearest(params, left)
        self._candidates = [self._configurations[i] for i in left]
        self._scores = self._shared_scores = None
        space = self._base.infer_relative_search_space(study, trial)
        self._base.sample_relative(study, trial, space)
        if isinstance(self._base, TPESampler):
            self._score_independently(study, trial, space)
        if self._scores is None:
            return left[0]
        # A value out of its range has no density.
        scores = np.nan_to_num(self._scores, nan=-np.inf)
        if self._shared_scores is not None:
            # As TPE does it, the branch first: of branches with more parameters, and so with more
            # candidates' luck to choose from, the best sum would win by chance.
            shared = np.nan_to_num(self._shared_scores, nan=-np.inf)
            branch = self._candidates[int(np.argmax(shared))].params.keys()
            within = np.array([t.params.keys() == branch for t in self._candidates])
            scores = np.where(within, scores, -np.inf)
        return left[int(np.argmax(scores))]

    def _score_independently(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]
    ) -> None:
        """TPE judges one by one the parameters that not all trials have, or all if asked to."""
        for name, distribution in self._neighbors.space.items():
            if name not in space and not distribution.single():
                self._base.sample_independent(study, trial, name, distribution)

    def _hook_tpe(self, base: TPESampler) -> None:
        """TPE draws from the good density; here it draws what is left, and its ratio is kept."""
        sampler = self

        class PoolEstimator(_ParzenEstimator):
            def sample(
                self, rng: np.random.RandomState, size: int
            ) -> dict[str, npt.NDArray[np.float64]]:
                space = self._search_space
                having = sampler._having(space)
                if not having:
                    return super().sample(rng, size)
                return {
                    name: np.array(
                        [
                            distribution.to_internal_repr(sampler._candidates[i].params[name])
                            for i in having
                        ]
                    )
                    for name, distribution in space.items()
                }

        def acquisition(
            samples: dict[str, FloatArray], below: _ParzenEstimator, above: _ParzenEstimator
        ) -> FloatArray:
            # Out of its range a value has no density under either.
            with np.errstate(invalid="ignore"):
                ratio: FloatArray = below.log_pdf(samples) - above.log_pdf(samples)
            if sampler._scores is None:
                sampler._scores = np.zeros(len(sampler._candidates))
            # Groups of parameters are drawn one after the other: their densities multiply.
            having = sampler._having(samples)
            if having:
                sampler._scores[having] += ratio
            if len(having) == len(sampler._candidates):
                if sampler._shared_scores is None:
                    sampler._shared_scores = np.zeros(len(sampler._candidates))
                sampler._shared_scores += ratio
            return ratio

        base._parzen_estimator_cls = PoolEstimator
        base._compute_acquisition_func = acquisition  # type: ignore

    def _having(self, names: Any) -> list[int]:
        """The candidates with all of these parameters."""
        return [i for i, t in enumerate(self._candidates) if names.keys() <= t.params.keys()]

    def _best_of_gp(self, acquisition: Any, best_params: FloatArray | None) -> FloatArray:
        # A parameter that no finished trial lacked may be missing here: any value is as good.
        filled = [_filled(trial, self._neighbors.space) for trial in self._candidates]
        points = acquisition.search_space.get_normalized_params(filled)
        self._scores = np.asarray(acquisition.eval_acqf_no_grad(points))
        return np.asarray(points[int(np.argmax(self._scores))])


def _filled(trial: FrozenTrial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """The trial with every parameter of a space."""
    missing = {
        name: distribution.to_external_repr(_middle(distribution))
        for name, distribution in space.items()
        if name not in trial.params
    }
    if not missing:
        return trial
    filled = copy.copy(trial)
    filled.params = {**trial.params, **missing}
    return filled


def _middle(distribution: BaseDistribution) -> float:
    """A value that is neither of the ends; of choices the first."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high = distribution.low, distribution.high
        middle = (low * high) ** 0.5 if distribution.log else (low + high) / 2.0
        return round(middle) if isinstance(distribution, IntDistribution) else middle
    return 0.0
