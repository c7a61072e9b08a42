from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import encode_spectrum
from optuna_aelle.trials.attributes import Prediction
from optuna_aelle.trials.attributes import encode_prediction

MakeStudy = Callable[..., optuna.Study]


def synthetic_trial(number: int, n_spectra: int, rng: np.random.Generator) -> FrozenTrial:
    """Even numbers forget slowly and score about 1; odd ones forget at once and score about 0."""
    slow = number % 2 == 0
    value = float(slow) + 0.1 * float(rng.normal())
    pruned = number % 5 == 4
    reports = dict.fromkeys(range(2 if pruned else n_spectra), value)
    attributes = {}
    for step in range(-1, n_spectra - 1):
        exponents = -np.linspace(0.01, 0.3 if slow else 6.0, 32) + 0.005 * rng.normal(size=32)
        attributes |= encode_spectrum(np.sort(exponents)[::-1], step)
    prediction = Prediction(value + 0.1 * float(rng.normal()), 0.1, 0.9, ("spectrum",))
    attributes |= encode_prediction(prediction, 0)
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=value,
        intermediate_values=reports,
        user_attrs=attributes,
    )


@pytest.fixture
def make_study() -> MakeStudy:
    def make(
        n_trials: int = 0,
        *,
        n_spectra: int = 3,
        storage: str | None = None,
        direction: str = "maximize",
    ) -> optuna.Study:
        rng = np.random.default_rng(0)
        study = optuna.create_study(study_name="study", storage=storage, direction=direction)
        study.add_trials([synthetic_trial(n, n_spectra, rng) for n in range(n_trials)])
        return study

    return make
