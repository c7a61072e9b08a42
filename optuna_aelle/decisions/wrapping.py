"""Samplers around others, and what pruners that are around others need."""

from __future__ import annotations

import copy
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.storage import is_storage_error

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")


class WrappingSampler(BaseSampler):
    """Hands everything to ``base``; subclasses change what they are for.

    Args:
        base: Any sampler.

    Example:
        >>> class Announced(WrappingSampler):
        ...     def before_trial(self, study, trial):
        ...         print("trial", trial.number)
        ...         super().before_trial(study, trial)
        >>> sampler = Announced(optuna.samplers.RandomSampler())
    """

    def __init__(self, base: BaseSampler) -> None:
        self._base = base

    @property
    def base(self) -> BaseSampler:
        """The sampler that this one is around."""
        return self._base

    def around(self, base: BaseSampler) -> Self:
        """The same sampler around another one."""
        other = copy.copy(self)
        other._base = base
        return other

    def reseed_rng(self) -> None:
        self._base.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._base.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._base.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._base.after_trial(study, trial, state, values)


class SteadySampler(WrappingSampler):
    """Draws at random where ``base`` cannot read the trials because their storage has failed.

    Args:
        base: Any sampler.
        seed: Of the random draws.

    Example:
        >>> sampler = SteadySampler(optuna.samplers.TPESampler())
    """

    def __init__(self, base: BaseSampler, seed: int | None = None) -> None:
        super().__init__(base)
        self._random = RandomSampler(seed)

    def reseed_rng(self) -> None:
        super().reseed_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._steadily(lambda: self._base.infer_relative_search_space(study, trial), dict)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        draw = self._base.sample_relative
        return self._steadily(lambda: draw(study, trial, search_space), dict)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        asked = study, trial, param_name, param_distribution
        return self._steadily(
            lambda: self._base.sample_independent(*asked),
            lambda: self._random.sample_independent(*asked),
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._steadily(lambda: self._base.before_trial(study, trial), lambda: None)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._steadily(lambda: self._base.after_trial(study, trial, state, values), lambda: None)

    def _steadily(self, ask: Callable[[], _T], otherwise: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as error:
            if not is_storage_error(error):
                raise
            warn_once(
                "sampler without trials",
                f"{type(self._base).__name__} cannot read the trials ({type(error).__name__}: "
                f"{error}); what it would have drawn is drawn at random.",
                error,
            )
            return otherwise()


def wrapped_pruner(pruner: BasePruner) -> BasePruner | None:
    """The pruner that another one is around: Optuna's `PatientPruner` and ours keep it so."""
    inner = getattr(pruner, "_wrapped_pruner", None)
    return inner if isinstance(inner, BasePruner) else None


def reads_of(pruner: BasePruner) -> frozenset[str]:
    """What a pruner, and those that it wraps, ask for besides reported values."""
    own = frozenset(getattr(pruner, "reads", ()))
    inner = wrapped_pruner(pruner)
    return own if inner is None else own | reads_of(inner)


def asks_before_training(pruner: BasePruner) -> bool:
    """Whether a pruner, or one that it wraps, decides before the first report, too."""
    if getattr(pruner, "asks_before_training", False):
        return True
    inner = wrapped_pruner(pruner)
    return inner is not None and asks_before_training(inner)


def reduction_factor_of(pruner: BasePruner) -> int | None:
    """η of a pruner that halves; None for others."""
    factor = getattr(pruner, "_reduction_factor", None)
    return factor if isinstance(factor, int) else None


def compile_spectra() -> None:
    """Compile what spectra are computed with: once on a machine, and at no study's cost.

    Example:
        >>> compile_spectra()
    """
    from optuna_aelle.lyapunov import compiled

    compiled.loaded()
