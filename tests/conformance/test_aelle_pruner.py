"""The pruner of this package under the suite that Optuna's own pruners pass."""

from __future__ import annotations

import pytest

import optuna_aelle

from .pruner_conformance import PrunerConformance
from .pruner_conformance import PrunerFactory


class TestAeLLEPruner(PrunerConformance):
    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        return lambda: optuna_aelle.AeLLEPruner()
