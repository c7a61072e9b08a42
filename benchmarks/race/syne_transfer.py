"""In which order do syne-tune's transfer methods start the configurations of a pool?

Imports syne-tune: `benchmarks.race.syne` imports this module no sooner than an arm is made.

Parameters are matched by name. A table of the past need not have all of them: the portfolio's
surrogate of each task takes those that it shares with the pool; for the others a number is not
known, and a category is one of its own. Past tables that share no name are left out, and where
none is left the pool's own order stays.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from syne_tune.blackbox_repository.blackbox_surrogate import BlackboxSurrogate
from syne_tune.config_space import Categorical
from syne_tune.optimizer.baselines import RandomSearch
from syne_tune.optimizer.schedulers.transfer_learning.bounding_box import BoundingBox
from syne_tune.optimizer.schedulers.transfer_learning.quantile_based import quantile_based_searcher
from syne_tune.optimizer.schedulers.transfer_learning.transfer_learning_task_evaluation import (
    TransferLearningTaskEvaluations,
)
from syne_tune.optimizer.schedulers.transfer_learning.zero_shot import ZeroShotTransfer
from xgboost import XGBRegressor

from benchmarks.race.syne_pool import ABSENT
from benchmarks.race.syne_pool import METRIC
from benchmarks.race.syne_pool import Space
from benchmarks.race.syne_pool import config_space
from benchmarks.race.syne_pool import frame
from benchmarks.race.syne_pool import space_of
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """syne-tune prints boxes and times, and warns of what is made sure of here."""
    logger = logging.getLogger(ZeroShotTransfer.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class Task:
    """What a past table says about a space.

    Attributes:
        names: Of the space's parameters, those that the table has.
        parameters: ``(n, all names)``, not known where the table has none.
        losses: ``(n,)`` final values, lower is better.
    """

    names: tuple[str, ...]
    parameters: pd.DataFrame
    losses: FloatArray

    def evaluations(self, domains: dict[str, Any]) -> TransferLearningTaskEvaluations:
        """As syne-tune takes them."""
        return evaluations_of(domains, self.parameters[[*domains]], self.losses)


def evaluations_of(
    domains: dict[str, Any], parameters: pd.DataFrame, losses: FloatArray
) -> TransferLearningTaskEvaluations:
    """One value for each configuration."""
    return TransferLearningTaskEvaluations(
        configuration_space=domains,
        hyperparameters=parameters,
        objectives_names=[METRIC],
        objectives_evaluations=np.asarray(losses)[:, None, None, None],
    )


def tasks_of(past: Sequence[RecordedTrials], space: Space) -> list[Task]:
    """Of the tables that share a name with the space."""
    tasks = []
    for table in past:
        there = space_of(table.trials)
        names = tuple(name for name in space if name in there)
        finals = table.finals if table.direction == "minimize" else -table.finals
        if names and np.isfinite(finals).any():
            # What diverged or was stopped is as bad as the worst that ended.
            losses = np.where(np.isfinite(finals), finals, np.nanmax(finals[np.isfinite(finals)]))
            tasks.append(Task(names, frame(table.trials, space), losses))
    return tasks


def portfolio_surrogates(tasks: Sequence[Task], space: Space) -> list[tuple[list[str], Any]]:
    """A regression of each task's losses on what it shares with the space: names, pipeline."""
    fitted = []
    for task in tasks:
        domains = config_space({name: space[name] for name in task.names})
        pipeline = BlackboxSurrogate.make_model_pipeline(domains, {}, XGBRegressor(n_jobs=1))
        names = [*domains]
        fitted.append((names, pipeline.fit(task.parameters[names], task.losses)))
    return fitted


def portfolio_order(
    surrogates: Sequence[tuple[list[str], Any]], space: Space, pool: Pool, seed: int
) -> Iterator[int]:
    """The greedy portfolio: each next one lowers the mean, over tasks, of the best rank most.

    syne-tune's own surrogates would be asked of other configurations in each task; here all are
    asked of the same ones, those of the pool. Its scheduler does not start what `get_config` says.
    """
    parameters = frame(pool.configurations, space)
    domains = config_space(space)
    with _silent():
        scheduler = ZeroShotTransfer(
            config_space=domains,
            metric=METRIC,
            transfer_learning_evaluations={
                str(number): evaluations_of(
                    domains, parameters[[*domains]].copy(), pipeline.predict(parameters[names])
                )
                for number, (names, pipeline) in enumerate(surrogates)
            },
            sort_transfer_learning_evaluations=False,
            random_seed=seed % 2**31,
        )
    before = scheduler._hyperparameters.index
    while scheduler.get_config() is not None:
        after = scheduler._hyperparameters.index
        # What it says is a configuration; the row that has gone is its position.
        yield int(before.difference(after)[0])
        before = after


def boxes_of(tasks: Sequence[Task], space: Space) -> list[dict[str, Any]]:
    """Domains by name: the box around each task's best, then around the best two, four ..."""
    domains = config_space(space)
    most = max(len(task.losses) for task in tasks)
    return [_box(tasks, domains, 2**power) for power in range(most.bit_length() + 1)]


def box_order(boxes: Sequence[dict[str, Any]], space: Space, pool: Pool) -> Iterator[int]:
    """First what is in the smallest box, in the order of the pool, which is random; and so on."""
    parameters = frame(pool.configurations, space)
    said: set[int] = set()
    for box in boxes:
        for position in _inside(box, parameters):
            if position not in said:
                said.add(position)
                yield position


def _box(tasks: Sequence[Task], domains: dict[str, Any], n_best: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A parameter that none of the best has, of any task, bounds nothing.
    tops = [task.parameters.loc[task.losses.argsort()[:n_best]] for task in tasks]
    known = pd.concat(tops).replace(ABSENT, np.nan).notna().any()
    domains = {name: domain for name, domain in domains.items() if known[name]}

    def keep(box: dict[str, Any], metric: str, do_minimize: bool, random_seed: int) -> Any:
        found.update(box)
        return RandomSearch(box, [metric], do_minimize, random_seed)

    with _silent():
        BoundingBox(
            keep,
            config_space=domains,
            metric=METRIC,
            transfer_learning_evaluations={
                str(number): task.evaluations(domains) for number, task in enumerate(tasks)
            },
            num_hyperparameters_per_task=n_best,
            random_seed=0,
        )
    return found


def _inside(box: dict[str, Any], parameters: pd.DataFrame) -> list[int]:
    """The rows in a box; a number that a configuration does not have is in any."""
    inside = np.ones(len(parameters), dtype=bool)
    for name, domain in box.items():
        column = parameters[name]
        if isinstance(domain, Categorical):
            inside &= column.isin([*domain.categories, ABSENT]).to_numpy()
        else:
            inside &= (column.between(domain.lower, domain.upper) | column.isna()).to_numpy()
    return [int(position) for position in np.flatnonzero(inside)]


def quantile_model(tasks: Sequence[Task], space: Space) -> tuple[list[str], Any, float]:
    """One regression of all tasks' losses as normal scores: names, pipeline, error."""
    domains = config_space(space)
    with _silent():
        pipeline, _, error = quantile_based_searcher.fit_model(
            config_space=domains,
            transfer_learning_evaluations={
                str(number): task.evaluations(domains) for number, task in enumerate(tasks)
            },
            normalization="gaussian",
            max_fit_samples=100_000,
            random_state=np.random.RandomState(0),
            model=XGBRegressor(n_jobs=1),
        )
    return [*domains], pipeline, float(error)


def quantile_order(
    model: tuple[list[str], Any, float], space: Space, pool: Pool, seed: int | None
) -> list[int]:
    """The best first by a draw for each start (copula Thompson sampling), or by the mean."""
    names, pipeline, error = model
    means = pipeline.predict(frame(pool.configurations, space)[names])
    if seed is None:
        return [int(position) for position in np.argsort(means, kind="stable")]
    rng = np.random.default_rng(seed)
    order: list[int] = []
    left = list(range(len(pool)))
    while left:
        order.append(left.pop(int(np.argmin(rng.normal(means[left], error)))))
    return order
