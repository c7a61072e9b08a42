from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import encode_spectrum
from optuna_aelle.prediction.forecast import FORECAST_PREFIX
from optuna_aelle.prediction.forecast import FORECAST_VERSION
from optuna_aelle.visualization import _refresher
from optuna_aelle.visualization import _umap
from optuna_aelle.visualization._refresher import Refresher

MakeStudy = Callable[..., optuna.Study]


def stored_forecast(
    step: int, value: float, std: float, *, chance: float = 0.9, share: float | None = None
) -> dict[str, Any]:
    """A forecast as it lies on a trial; what does not matter to figures is made up."""
    payload = {
        "version": FORECAST_VERSION,
        "standing": [0.0, 1.0],
        "value": [value, std],
        "bar": [1.0, 0.95],
        "share": share,
        "chance": chance,
        "skill": [40.0, 0.6, 0.4],
        "spoke": ["spectrum"],
        "trial": 0,
    }
    return {f"{FORECAST_PREFIX}{step}": payload}


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if umap-learn were not installed: no process is started."""
    monkeypatch.setitem(sys.modules, "umap", None)


@pytest.fixture
def fresh_umap(monkeypatch: pytest.MonkeyPatch) -> Iterator[_umap._Client]:
    """A client whose process has not been started; it is stopped in the end."""
    client = _umap._Client()
    monkeypatch.setattr(_umap, "_client", client)
    yield client
    client.close()


@pytest.fixture
def fresh_refresher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refresher]:
    """A refresher whose process has not been started; it is stopped in the end."""
    fresh = Refresher()
    monkeypatch.setattr(_refresher, "_refresher", fresh)
    yield fresh
    fresh.close()


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
    attributes |= stored_forecast(0, value + 0.1 * float(rng.normal()), 0.1)
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=value,
        intermediate_values=reports,
        system_attrs=attributes,
    )


@pytest.fixture(scope="session")
def make_study() -> MakeStudy:
    def make(
        n_trials: int = 0,
        *,
        n_spectra: int = 3,
        storage: Any = None,
        direction: str = "maximize",
    ) -> optuna.Study:
        rng = np.random.default_rng(0)
        study = optuna.create_study(study_name="study", storage=storage, direction=direction)
        study.add_trials([synthetic_trial(n, n_spectra, rng) for n in range(n_trials)])
        return study

    return make
