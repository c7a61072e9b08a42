"""Optuna's own conformance suite for samplers, with ranking switched on from the start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from optuna.samplers import BaseSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.testing.pytest_samplers import MultiObjectiveSamplerTestCase
from optuna.testing.pytest_samplers import RelativeSamplerTestCase

from optuna_aelle import AeLLESampler


def falling(params: dict[str, object]) -> np.ndarray:
    return -np.arange(1.0, 9.0)


def over_tpe() -> BaseSampler:
    base = TPESampler(n_startup_trials=0, multivariate=True, constant_liar=False)
    return AeLLESampler(falling, base, n_candidates=3)


class TestAeLLESampler(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return over_tpe


class TestAeLLESamplerOverRandom(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: AeLLESampler(falling, RandomSampler(), n_candidates=3)
