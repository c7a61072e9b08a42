"""Spectra, decisions and their reasons on database servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalRedisBackend
from optuna.trial import TrialState

from optuna_aelle import AeLLEPruner
from optuna_aelle import decode_spectra
from optuna_aelle.decisions.verdict import decode_verdict
from tests.conftest import run_synthetic
from tests.conftest import skip_unless_required

pytestmark = pytest.mark.services

URLS = {
    "postgresql": os.environ.get(
        "AELLE_TEST_POSTGRESQL", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get("AELLE_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
    "redis": os.environ.get("AELLE_TEST_REDIS", "redis://127.0.0.1:6379"),
}


@pytest.fixture(params=sorted(URLS))
def server(request: pytest.FixtureRequest) -> Iterator[tuple[BaseStorage, str]]:
    """A storage on a server, and the name of a study that is deleted again."""
    url = URLS[request.param]
    name = f"aelle-{uuid.uuid4().hex}"
    try:
        if request.param == "redis":
            backend = JournalRedisBackend(url, prefix=name)
            backend.read_logs(0)
            storage: BaseStorage = JournalStorage(backend)
        else:
            storage = RDBStorage(url)
    except Exception as error:
        skip_unless_required(f"{request.param} cannot be reached: {type(error).__name__}: {error}")
    yield storage, name
    optuna.delete_study(study_name=name, storage=storage)


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
