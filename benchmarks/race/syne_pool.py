"""A pool as a configuration space of syne-tune, and its searchers over what is left of the pool.

Imports syne-tune: `benchmarks.race.syne` imports this module no sooner than an arm is made.

A parameter that a configuration does not have (a conditional one) is a category of its own, or, of
a number, not known. syne-tune minimises, so that scores are told with their sign turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice
from syne_tune.config_space import lograndint
from syne_tune.config_space import loguniform
from syne_tune.config_space import randint
from syne_tune.config_space import uniform
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving
from syne_tune.optimizer.schedulers.searchers.conformal import (
    conformal_quantile_regression_searcher as cqr,
)
from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (
    LastValueMultiFidelitySearcher,
)

from optuna_aelle.backtest.pool import Pool

FloatArray = npt.NDArray[np.float64]
Space = Mapping[str, BaseDistribution]

METRIC, TIME = "loss", "epoch"
# The category of what a configuration does not have.
ABSENT = "absent"


def space_of(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """All parameters of some trials, by name."""
    space: dict[str, BaseDistribution] = {}
    for trial in trials:
        space |= trial.distributions
    return dict(sorted(space.items()))


def config_space(space: Space) -> dict[str, Any]:
    """The same as syne-tune says it; what has but one value is left out."""
    return {name: _domain(d) for name, d in space.items() if not d.single()}


def frame(trials: Sequence[FrozenTrial], space: Space) -> pd.DataFrame:
    """Parameters of trials by the names of a space, one row each."""
    columns = {}
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            columns[name] = [str(trial.params.get(name, ABSENT)) for trial in trials]
        else:
            columns[name] = [trial.params.get(name, math.nan) for trial in trials]
    return pd.DataFrame(columns)


def _domain(distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        # Of one type, as syne-tune wants them.
        return choice([*map(str, distribution.choices), ABSENT])
    if isinstance(distribution, IntDistribution):
        made = lograndint if distribution.log else randint
    else:
        made = loguniform if distribution.log else uniform
    return made(distribution.low, distribution.high)


class _PoolModel(cqr.QuantileRegressionSurrogateModel):  # type: ignore[misc]
    """Quantiles of the objective; a draw from each candidate's, and the best of those left."""

    def __init__(self, *, candidates: _Candidates, **settings: Any) -> None:
        super().__init__(**settings)
        self._left = candidates

    def fit(self, df_features: pd.DataFrame, y: FloatArray, ncandidates: Any = None) -> None:
        super().fit(df_features, y, self._left.frame)

    def _sample_best(self) -> int:
        left = self._left.left
        return left[int(np.argmin(np.asarray(self._surrogate_pred())[left]))]


class _Candidates:
    """The configurations of a pool and which of them are left."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        space = {name: d for name, d in space_of(trials).items() if not d.single()}
        self.space = config_space(space)
        self.frame = _without_gaps(frame(trials, space), space)
        self.configs: list[dict[str, Any]] = self.frame.to_dict("records")
        self.left: list[int] = list(range(len(trials)))


def _without_gaps(parameters: pd.DataFrame, space: Space) -> pd.DataFrame:
    """Numbers that are not known take the median: scikit-learn's boosting asks for all of them."""
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            continue
        filled = parameters[name].fillna(parameters[name].median())
        whole = isinstance(distribution, IntDistribution)
        parameters[name] = filled.round().astype(int) if whole else filled
    return parameters


class ConformalStarter:
    """CQR over what is left of a pool, as a `optuna_aelle.backtest.promotion.Starter`.

    Args:
        trials: The configurations.
        update_frequency: Starts from one fit to the next.
        settings: Of `ConformalQuantileRegression`.
    """

    def __init__(
        self, trials: Sequence[FrozenTrial], seed: int, update_frequency: int, **settings: Any
    ) -> None:
        self._candidates = _Candidates(trials)
        candidates = self._candidates

        class Searcher(LastValueMultiFidelitySearcher):  # type: ignore[misc]
            def sample_random(self) -> dict[str, Any]:
                # The pool is in random order.
                return candidates.configs[candidates.left[0]]

        def surrogate(**given: Any) -> _PoolModel:
            return _PoolModel(candidates=candidates, **given)

        self.searcher = Searcher(
            config_space=self._candidates.space,
            random_seed=seed % 2**31,
            update_frequency=update_frequency,
            searcher="cqr",
            searcher_kwargs={"surrogate_cls": surrogate, **settings},
        )
        self._worst = -math.inf

    @property
    def space(self) -> dict[str, Any]:
        return self._candidates.space

    @property
    def configs(self) -> list[dict[str, Any]]:
        return self._candidates.configs

    def position_of(self, config: Mapping[str, Any]) -> int:
        """Of what syne-tune suggested."""
        for position in self._candidates.left:
            if self._candidates.configs[position] == config:
                return position
        raise KeyError(f"Expected a configuration that is left in the pool, got {config}.")

    def start(self, left: Sequence[int]) -> int:
        self._candidates.left = list(left)
        return self.position_of(self.searcher.suggest())

    def told(self, position: int, n_reports: int, score: float) -> None:
        loss = self.loss(score)
        if loss is not None:
            self.searcher.on_trial_result(
                position, self._candidates.configs[position], loss, n_reports
            )

    def loss(self, score: float) -> float | None:
        """What is to be minimised; a training that diverged is as bad as the worst before it."""
        if math.isfinite(score):
            self._worst = max(self._worst, -score)
        elif not math.isfinite(self._worst):
            return None
        return -score if math.isfinite(score) else self._worst


def run_stopping_asha(pool: Pool, starter: ConformalStarter, reduction_factor: int) -> None:
    """Train until nothing is left, by syne-tune's own ASHA, which stops and does not promote."""
    scheduler = AsynchronousSuccessiveHalving(
        config_space=starter.space,
        metric=METRIC,
        searcher=starter.searcher,
        time_attr=TIME,
        max_t=pool.length,
        reduction_factor=reduction_factor,
        random_seed=0,
    )
    while left := pool.left:
        position = starter.start(left)
        trial = Trial(position, starter.configs[position], datetime.now())
        scheduler.on_trial_add(trial)
        decision = SchedulerDecision.CONTINUE
        while decision == SchedulerDecision.CONTINUE and not pool.is_over(position):
            loss = starter.loss(pool.sign * pool.train(position))
            if loss is None:
                break
            result = {METRIC: loss, TIME: len(pool.values(position))}
            decision = scheduler.on_trial_result(trial, result)
