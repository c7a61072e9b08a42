"""Databases that several workers open while they are empty, gone, or not theirs."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from optuna_aelle import AeLLEWarning
from optuna_aelle import PatientStorage
from optuna_aelle.trials import patience
from optuna_aelle.trials.patience import opened
from studies.arguments import storage_url


@pytest.fixture
def raced(tmp_path: Path) -> Iterator[str]:
    """A database whose tables somebody else creates once they have been found missing."""
    url, told = f"sqlite:///{tmp_path / 'empty.db'}", list[None]()

    def create(*args: Any, **of: Any) -> None:
        told.append(None)
        if len(told) == 1:
            RDBStorage(url)

    event.listen(BaseModel.metadata, "before_create", create)
    yield url
    event.remove(BaseModel.metadata, "before_create", create)
    assert len(told) >= 2


def test_optuna_alone_fails(raced: str) -> None:
    with pytest.raises(OperationalError, match="already exists"):
        RDBStorage(raced)


@pytest.mark.filterwarnings("error::optuna_aelle.AeLLEWarning")
@pytest.mark.parametrize("build", [PatientStorage, storage_url])
def test_of_two_that_create_the_tables_both_go_on(raced: str, build: Callable[[str], Any]) -> None:
    build(raced)
    optuna.create_study(study_name="shared", storage=raced)
    assert optuna.get_all_study_names(raced) == ["shared"]


def test_what_is_wrong_otherwise_is_raised_at_once(tmp_path: Path) -> None:
    tries: list[None] = []

    def build() -> RDBStorage:
        tries.append(None)
        return RDBStorage(f"sqlite:///{tmp_path / 'nowhere' / 'study.db'}")

    with pytest.raises(OperationalError, match="unable to open"):
        opened(build)
    assert len(tries) == 1


def test_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)

    def build() -> None:
        raise OperationalError("CREATE TABLE", {}, Exception("table studies already exists"))

    with pytest.raises(OperationalError):
        opened(build)
    assert 0 < sum(pauses) < 2.0


class DriverError(Exception):
    """As drivers raise them, with the code of the server where they know it."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


REFUSALS = {
    "password": DriverError("nicht so", sqlstate="28P01"),
    "database": DriverError("nicht da", sqlstate="3D000"),
    "connecting, password": DriverError('FATAL: password authentication failed for user "a"'),
    "connecting, database": DriverError('FATAL: database "a" does not exist'),
    "mysql, password": DriverError(1045, "Access denied"),
    "mysql, access": DriverError(1044, "Access denied"),
    "mysql, database": DriverError(1049, "Unknown database"),
    "folder": DriverError("unable to open database file"),
}
ABSENCES = {
    "starts": DriverError("does not exist yet", sqlstate="57P03"),
    "refused": DriverError("connection failed: Connection refused"),
    "mysql": DriverError(2003, "Can't connect; does not exist"),
    "locked": DriverError("database is locked"),
}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were not waited for."""
    found: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("error", [*REFUSALS.values(), *ABSENCES.values()], ids=str)
def test_who_is_refused_does_not_wait(
    error: DriverError, pauses: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build, failures = RDBStorage.__init__, [OperationalError("", {}, error)]

    def failing(self: RDBStorage, *args: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        build(self, *args, **options)

    monkeypatch.setattr(RDBStorage, "__init__", failing)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    if error in ABSENCES.values():
        with pytest.warns(AeLLEWarning, match="cannot be reached"):
            PatientStorage(url)
        assert len(pauses) == 1
        return
    with pytest.raises(OperationalError):
        PatientStorage(url)
    assert not pauses
    # One that was let in before waits: whoever sets the database up again may not be done.
    storage = PatientStorage(url)
    failures.append(OperationalError("", {}, error))

    def ask(again: bool) -> str:
        if failures:
            raise failures.pop()
        return "there"

    with pytest.warns(AeLLEWarning, match="cannot be reached"):
        assert storage._wait(ask) == "there"
    assert len(pauses) == 1


def test_a_folder_that_is_missing_is_told_at_once(tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(OperationalError, match="unable to open database file"):
        PatientStorage(f"sqlite:///{tmp_path / 'nowhere' / 'study.db'}")
    assert not pauses


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"heartbeat_interval": 60, "grace_period": 900}, 185.0),
        ({"heartbeat_interval": 1, "grace_period": 2}, 2.0),
        ({"heartbeat_interval": 10}, 20.0),
    ],
)
def test_who_has_just_come_lets_the_others_be_heard_first(
    options: dict[str, int], seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is.
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(patience, "time", clock)
    storage = PatientStorage(f"sqlite:///{tmp_path / 'study.db'}", **options)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2020-01-01'"))
    for opened_anew in (storage, copy.deepcopy(storage), pickle.loads(pickle.dumps(storage))):
        # Since it was opened, whatever the copied one has seen.
        now[0] = 1000.0
        assert opened_anew._back_at == now[0]
        assert opened_anew._get_stale_trial_ids(study._study_id) == []
        now[0] += seconds - 1.0
        assert opened_anew._get_stale_trial_ids(study._study_id) == []
        now[0] += 1.0
        assert opened_anew._get_stale_trial_ids(study._study_id) == [trial._trial_id]
