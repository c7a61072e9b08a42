"""Databases that several workers open at once while they are still empty."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

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
