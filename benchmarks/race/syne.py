"""Arms of syne-tune: conformal quantile regression, and three that know other tasks' tables.

Needs the extra ``race``; syne-tune is imported no sooner than an arm is made.

- `cqr_asha`: Salinas, Golebiowski, Klein, Seeger and Archambeau, "Optimizing hyperparameters with
  conformal quantile regression", ICML 2023.
- `ZeroShot`: Wistuba, Schilling and Schmidt-Thieme, "Sequential model-free hyperparameter tuning",
  ICDM 2015.
- `BoundingBox`: Perrone et al., "Learning search spaces for Bayesian optimization", NeurIPS 2019.
- `QuantileTransfer`: Salinas, Shen and Perrone, "A quantile-based approach for hyperparameter
  transfer learning", ICML 2020.

A searcher that judges candidates is asked of every configuration that is left in the pool, where
it would have drawn some from the space. What is learned from the past alone is learned before the
search begins, once, and is not charged, as little as `optuna_aelle.backtest.pool.PriorRanking`'s
learning is; what it says of the pool's configurations is.
"""

from __future__ import annotations

import contextlib
import importlib
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from types import ModuleType
from typing import Any
from typing import Literal

import numpy as np
from optuna.distributions import BaseDistribution

from benchmarks.race.halving import stop
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.promotion import InOrder
from optuna_aelle.backtest.promotion import promote
from optuna_aelle.trials.table import RecordedTrials

Arm = Callable[[Pool, int], None]
Halving = Literal["promotion", "stopping"]

_NEEDED = ("syne_tune", "xgboost", "huggingface_hub")
# A fourth of the trees at three times the rate fit as well for a fifth of the seconds.
_BOOSTING = {"n_estimators": 25, "learning_rate": 0.3}
# What transfer arms have learned, by arm, space and past.
_LEARNED: dict[Any, tuple[Sequence[RecordedTrials], Any]] = {}


def _module(name: str) -> ModuleType:
    """A module beside this one that imports syne-tune."""
    try:
        return importlib.import_module(f"benchmarks.race.{name}")
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _NEEDED:
            raise
        raise ImportError(
            "Expected syne-tune, for this arm of a race. Install it by "
            "`pip install optuna-aelle[race]`."
        ) from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """syne-tune draws from numpy's global generator here and there; leave it as it was."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


@dataclass
class ConformalHalving:
    """See `cqr_asha`."""

    reduction_factor: int
    promotes: bool
    update_frequency: int
    settings: dict[str, Any]
    _module: ModuleType = field(repr=False)

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        with _seeded(seed):
            with pool.uncharged():
                starter = self._module.ConformalStarter(
                    pool.configurations, seed, self.update_frequency, **self.settings
                )
            if self.promotes:
                promote(pool, starter, self.reduction_factor)
            else:
                self._module.run_stopping_asha(pool, starter, self.reduction_factor)


def cqr_asha(
    reduction_factor: int = 3,
    *,
    promotes: bool = True,
    update_frequency: int = 4,
    **settings: Any,
) -> Arm:
    """Conformal quantile regression under asynchronous successive halving, with one worker.

    Args:
        reduction_factor: η; rungs are 1, η, η², ... reports.
        promotes: Whether trainings are taken up again. syne-tune's own ASHA stops alone, so that
            promotion is `optuna_aelle.backtest.promotion.promote`, with syne-tune's searcher.
        update_frequency: Starts from one fit to the next.
        settings: Of syne-tune's `ConformalQuantileRegression`, and of the trees it boosts.
    """
    return ConformalHalving(
        reduction_factor,
        promotes,
        update_frequency,
        {**_BOOSTING, **settings},
        _module("syne_pool"),
    )


class Transfer(ABC):
    """Starts configurations in an order that the past says, under halving.

    Args:
        past: Tables of other tasks.
        halving: With promotion, or stopping.
        reduction_factor: η.
    """

    def __init__(
        self,
        past: Sequence[RecordedTrials],
        halving: Halving = "promotion",
        reduction_factor: int = 3,
    ) -> None:
        if halving not in ("promotion", "stopping"):
            raise ValueError(f"halving must be promotion or stopping, but got {halving!r}.")
        self._past = past
        self._module = _module("syne_transfer")
        self._halve = promote if halving == "promotion" else stop
        self._reduction_factor = reduction_factor

    def __call__(self, pool: Pool, seed: int) -> None:
        """Train until nothing is left."""
        with _seeded(seed):
            with pool.uncharged():
                space = self._module.space_of(pool.configurations)
                learned = self._learned(space)
            order: Iterable[int] = (
                () if learned is None else self._order(learned, space, pool, seed)
            )
            self._halve(pool, InOrder(order), self._reduction_factor)

    def _learned(self, space: Mapping[str, BaseDistribution]) -> Any:
        """What the past says of a space; the same for every seed, and kept."""
        key = (type(self).__name__, repr(space), tuple(map(id, self._past)))
        if key not in _LEARNED:
            tasks = self._module.tasks_of(self._past, space)
            # The tables are kept with it: their ids are of no use once they are gone.
            _LEARNED[key] = (self._past, self._learn(tasks, space) if tasks else None)
        return _LEARNED[key][1]

    @abstractmethod
    def _learn(self, tasks: Sequence[Any], space: Mapping[str, BaseDistribution]) -> Any:
        """What the tasks say of a space."""

    @abstractmethod
    def _order(
        self, learned: Any, space: Mapping[str, BaseDistribution], pool: Pool, seed: int
    ) -> Iterable[int]:
        """The positions of a pool, the first starts first."""


class ZeroShot(Transfer):
    """The greedy portfolio of what was best on past tasks, in its order; see `Transfer`."""

    def _learn(self, tasks: Sequence[Any], space: Mapping[str, BaseDistribution]) -> Any:
        return self._module.portfolio_surrogates(tasks, space)

    def _order(
        self, learned: Any, space: Mapping[str, BaseDistribution], pool: Pool, seed: int
    ) -> Iterable[int]:
        order: Iterable[int] = self._module.portfolio_order(learned, space, pool, seed)
        return order


class BoundingBox(Transfer):
    """At random within the box around the best of every past task, then in wider ones."""

    def _learn(self, tasks: Sequence[Any], space: Mapping[str, BaseDistribution]) -> Any:
        return self._module.boxes_of(tasks, space)

    def _order(
        self, learned: Any, space: Mapping[str, BaseDistribution], pool: Pool, seed: int
    ) -> Iterable[int]:
        order: Iterable[int] = self._module.box_order(learned, space, pool)
        return order


class QuantileTransfer(Transfer):
    """The best first by a regression of past normal scores on parameters.

    Args:
        past: Tables of other tasks.
        halving: With promotion, or stopping.
        reduction_factor: η.
        draws: Whether by a draw for each start, as syne-tune does, or by the mean, which is
            better among no more candidates than a pool has.
    """

    def __init__(
        self,
        past: Sequence[RecordedTrials],
        halving: Halving = "promotion",
        reduction_factor: int = 3,
        *,
        draws: bool = False,
    ) -> None:
        super().__init__(past, halving, reduction_factor)
        self._draws = draws

    def _learn(self, tasks: Sequence[Any], space: Mapping[str, BaseDistribution]) -> Any:
        return self._module.quantile_model(tasks, space)

    def _order(
        self, learned: Any, space: Mapping[str, BaseDistribution], pool: Pool, seed: int
    ) -> Iterable[int]:
        order: Iterable[int] = self._module.quantile_order(
            learned, space, pool, seed if self._draws else None
        )
        return order
