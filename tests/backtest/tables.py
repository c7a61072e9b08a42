"""Tables made for tests of races, and what races over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from optuna.trial import create_trial

from optuna_aelle import RecordedTrials
from optuna_aelle import encode_spectrum
from optuna_aelle.backtest.pool import Pool
from tests.conftest import synthetic_spectrum

N_STEPS = 9
UNIT = FloatDistribution(0.0, 1.0)


def made_table(
    n: int = 60,
    *,
    direction: str = "minimize",
    step_seconds: float = 1.0,
    spectrum_seconds: float = 0.5,
    seed: int = 0,
) -> RecordedTrials:
    """One parameter decides where a curve ends; the order of the curves is that of their ends."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0
    trials = []
    for number in range(n):
        x, other = rng.uniform(size=2)
        curve = 1.0 - (1.0 - abs(x - 0.3)) * np.linspace(0.2, 1.0, N_STEPS)
        attributes: dict[str, Any] = {}
        for step in (-1, 1, 3):
            spectrum = synthetic_spectrum(1.0 - abs(x - 0.3), rng)
            attributes |= encode_spectrum(spectrum, step, seconds=spectrum_seconds)
        trial = create_trial(
            value=sign * float(curve[-1]),
            params={"x": float(x), "other": float(other)},
            distributions={"x": UNIT, "other": UNIT},
            intermediate_values={s: sign * float(v) for s, v in enumerate(curve, start=1)},
            system_attrs=attributes,
        )
        trial.number = number
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials(
        "made",
        direction,  # type: ignore[arg-type]
        tuple(trials),
        np.full(n, step_seconds),
        metadata={"task": "making"},
    )


def a_pool(table: RecordedTrials, budget: float = 1e9, **settings: Any) -> Pool:
    return Pool(table, range(len(table)), budget=budget, **settings)


def halving() -> SuccessiveHalvingPruner:
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def none() -> tuple[RandomSampler, NopPruner]:
    return RandomSampler(), NopPruner()


class Knowing:
    """A prior that knows the parameter, and which tasks it has seen."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = frozenset(tasks)

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[Any, Any]:
        means = np.array([1.0 - abs(t.params["x"] - 0.3) for t in trials])
        return means, np.zeros(len(trials))
