"""Optuna's own pruners pass the suite, so what it asks for is fair."""

from __future__ import annotations

import warnings
from typing import ClassVar

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import PatientPruner
from optuna.pruners import PercentilePruner
from optuna.pruners import SuccessiveHalvingPruner

from .pruner_conformance import PrunerConformance
from .pruner_conformance import PrunerFactory


class BuiltinConformance(PrunerConformance):
    # Study.direction raises it, with the cause, before the pruner can.
    multi_objective_errors = (RuntimeError,)


class TestMedianPruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return MedianPruner


class TestPercentilePruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return lambda: PercentilePruner(25.0)


class TestSuccessiveHalvingPruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return SuccessiveHalvingPruner


class TestHyperbandPruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return HyperbandPruner


class TestPatientPruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return patient_median


class TestNopPruner(BuiltinConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return NopPruner


def patient_median() -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(MedianPruner(), patience=1)
