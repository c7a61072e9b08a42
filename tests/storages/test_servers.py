"""Decisions on database servers are those in memory, and threads may share one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_aelle import AeLLEPruner
from optuna_aelle import decode_spectra
from optuna_aelle.decisions.verdict import decode_verdict
from tests.conftest import run_synthetic
from tests.storages.stores import SERVERS
from tests.storages.stores import opened

pytestmark = pytest.mark.services


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BaseStorage, str]]:
    """A storage on a server, and the name of a study that is deleted again."""
    name = f"aelle-{uuid.uuid4().hex}"
    with opened(request.param, name, tmp_path) as storage:
        yield storage, name


def test_a_study_on_a_server(server: tuple[BaseStorage, str]) -> None:
    storage, name = server
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=AeLLEPruner(),
    )
    run_synthetic(study, 40)
    in_memory = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=AeLLEPruner()
    )
    run_synthetic(in_memory, 40)
    for here, there in zip(in_memory.trials, study.trials, strict=True):
        assert here.state == there.state
        assert list(decode_spectra(here)) == list(decode_spectra(there)) == [-1]
        assert decode_verdict(here) == decode_verdict(there)
    assert any(t.state == TrialState.PRUNED and t.last_step is None for t in study.trials)


def test_parallel_trials_on_a_server(server: tuple[BaseStorage, str]) -> None:
    storage, name = server
    study = optuna.create_study(study_name=name, storage=storage, pruner=AeLLEPruner())
    run_synthetic(study, 32, n_jobs=4)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
