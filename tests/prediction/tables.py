"""Made-up studies of several tasks, in which knobs and spectra decide where networks end."""

from __future__ import annotations

import math
from typing import Any
from typing import Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.table import RecordedTrials

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "hidden": IntDistribution(8, 128, log=True),
    "temperature": FloatDistribution(0.0, 1.0),
}
LENGTH = 9


def made_up_table(
    task: str,
    seed: int,
    *,
    n: int = 40,
    best_rate: float = 1e-2,
    best_temperature: float | None = None,
    direction: Literal["minimize", "maximize"] = "minimize",
    spectra: bool = True,
    scale: float = 1.0,
    rename: dict[str, str] | None = None,
) -> RecordedTrials:
    """Losses fall towards how far a network is from the best rate, decay and temperature.

    The decay shows in the spectrum alone; the temperature is a parameter that nobody else knows.
    """
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        rate = math.exp(rng.uniform(math.log(1e-4), math.log(1e-1)))
        params: dict[str, Any] = {
            "lr": rate,
            "hidden": int(rng.integers(8, 129)),
            "temperature": float(rng.uniform()),
        }
        decay = math.exp(rng.uniform(-4.0, 0.0))
        badness = abs(math.log(rate / best_rate)) / 5.0 + 0.3 * decay
        if best_temperature is not None:
            badness += 2.0 * abs(params["temperature"] - best_temperature)
        values = badness + (1.5 - badness) * np.exp(-np.arange(1, LENGTH + 1) / 3.0)
        values = scale * (values + 0.02 * rng.standard_normal(LENGTH))
        if direction == "maximize":
            values = -values
        attributes: dict[str, Any] = {}
        for step in (-1, 1, 3) if spectra else ():
            attributes |= encode_spectrum(-decay * np.arange(params["hidden"]), step)
        names = {name: (rename or {}).get(name, name) for name in params}
        trials.append(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState.COMPLETE,
                value=float(values[-1]),
                datetime_start=None,
                datetime_complete=None,
                params={names[name]: value for name, value in params.items()},
                distributions={names[name]: SPACE[name] for name in params},
                user_attrs={},
                system_attrs=attributes,
                intermediate_values=dict(enumerate(values.tolist(), start=1)),
            )
        )
    return RecordedTrials(
        name=f"{task}-{seed}",
        direction=direction,
        trials=tuple(trials),
        step_seconds=np.ones(n),
        metadata={"task": task},
    )
