"""Hyperparameters as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

FloatArray = npt.NDArray[np.float64]


class ParameterEncoder:
    """Hyperparameters as columns of about unit spread: logarithms where searched so, one-hot.

    A parameter that a trial does not have (a conditional one) takes the mean.

    Attributes:
        encoded: ``(n, n_columns)`` of the trials that it was made from.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._distributions: dict[str, BaseDistribution] = {}
        for trial in trials:
            self._distributions.update(trial.distributions)
        raw = self._raw(trials)
        with np.errstate(invalid="ignore"):
            missing = np.isnan(raw)
            count = np.maximum((~missing).sum(axis=0), 1)
            self._center = np.where(missing, 0.0, raw).sum(axis=0) / count
            centred = np.where(missing, 0.0, raw - self._center)
        spread = np.sqrt((centred**2).sum(axis=0) / count)
        self._varies = spread > 1e-12
        self._scale = np.where(self._varies, spread, 1.0)
        self.encoded = self._scaled(raw)

    @property
    def n_columns(self) -> int:
        return int(self._varies.sum())

    def encode(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        """Shape ``(n, n_columns)``."""
        return self._scaled(self._raw(trials))

    def _scaled(self, raw: FloatArray) -> FloatArray:
        scaled = np.where(np.isnan(raw), 0.0, (raw - self._center) / self._scale)
        return np.asarray(scaled[:, self._varies])

    def _raw(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        columns = []
        for name, distribution in sorted(self._distributions.items()):
            internal = np.array([_internal(trial.params, name, distribution) for trial in trials])
            if isinstance(distribution, CategoricalDistribution):
                for choice in range(len(distribution.choices)):
                    hit = (internal == choice).astype(np.float64)
                    columns.append(np.where(np.isnan(internal), np.nan, hit))
            elif getattr(distribution, "log", False):
                columns.append(np.log(internal))
            else:
                columns.append(internal)
        return np.stack(columns, axis=1) if columns else np.zeros((len(trials), 0))


def _internal(params: Mapping[str, object], name: str, distribution: BaseDistribution) -> float:
    if name not in params:
        return math.nan
    try:
        return float(distribution.to_internal_repr(params[name]))
    except (TypeError, ValueError):
        # Another trial searched this name over another space.
        return math.nan
