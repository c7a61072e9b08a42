"""Where studies come from: any storage, left as it is; what is none is one line."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal import JournalRedisBackend

from optuna_aelle.cli import main
from optuna_aelle.cli.sources import choose
from tests.cli.conftest import refused
from tests.conftest import made_trials
from tests.conftest import skip_unless_required
from tests.ports import free_port
from tests.storages.stores import URLS

EXPLAIN = ["--trial", "1", "--json"]


def test_reading_changes_nothing(source: str, tmp_path: Path) -> None:
    path = tmp_path / "my.db"
    before, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert main(["explain", source, *EXPLAIN]) == 0
    assert main(["learn", source, "--output", str(tmp_path / "p")]) == 0
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    "form", ["{path}", "journal://{path}", "journal:///{relative}", "journal:////{rooted}"]
)
def test_journals_are_read(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.log"
    storage = JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(study_name="j", storage=storage).add_trials(made_trials(5))
    monkeypatch.chdir(tmp_path)
    before = path.read_bytes()
    source = form.format(path=path, relative="my.log", rooted=str(path)[1:])
    assert main(["explain", source, *EXPLAIN]) == 0
    assert '"study_name": "j"' in capsys.readouterr().out
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.log"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("gru-a", "gru-a"),
        ("GRU-A", "gru-a"),
        ("lst", "LSTM"),
        ("gru-ab", "gru-abc"),
        ("solo-", "solo-1"),
    ],
)
def test_names_are_completed(given: str, expected: str) -> None:
    assert choose(["LSTM", "gru-a", "gru-abc", "solo-1"], given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gru", r"one of the studies \['gru-a', 'gru-abc'\], got 'gru'"),
        ("gur-a", "Did you mean 'gru-a' or 'gru-abc'"),
        ("", r"one of the studies \['LSTM', 'gru-a', 'gru-abc'\], got ''\.$"),
        (None, "got no --study-name"),
    ],
)
def test_names_that_are_wrong_are_listed(given: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(["LSTM", "gru-a", "gru-abc"], given)


def test_many_names_are_cut_short() -> None:
    with pytest.raises(ValueError, match="'s19'] and 80 more, got"):
        choose([f"s{i:02}" for i in range(100)], "x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sqlite:///{folder}/none.db", "there is no such file"),
        ("sqlite:///file:{folder}/none.db?uri=true", "there is no such file"),
        ("sqlite:///{folder}", "it is a folder"),
        ("sqlite:///{folder}/empty.db", "at least one study, but it has none"),
        ("sqlite:///{folder}/other.db", "at least one study, but it has none"),
        ("{folder}/none.log", "there is no such file"),
        ("{folder}/junk.log", "or damaged"),
        ("{folder}/numbers.log", "or damaged"),
        ("journal://{folder}/none.log", "there is no such file"),
        ("redis://:secret@127.0.0.1:1", "refused"),
        ("grpc://127.0.0.1:1", "none has answered"),
        ("grpc://", "grpc://HOST:PORT"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "refused"),
        ("postgresql+psycopg://me:a@secret@127.0.0.1:1/db", "psycopg"),
        ("mysql+pymysql://me:secret@127.0.0.1:1/db", "Can't connect"),
        ("postgresql+psycopg://me:se/secret@host:x/db", "cannot be read. Write @, /, :"),
        ("oracle+nosuch://me:secret@host/db", "oracle"),
    ],
)
def test_what_is_no_storage_is_one_line(
    source: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optuna_aelle.cli.sources._GRPC_SECONDS", 0.1)
    (tmp_path / "empty.db").touch()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    (tmp_path / "junk.log").write_bytes(b"no\n\xffjournal\n")
    (tmp_path / "numbers.log").write_text("1\n2\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused(["explain", source.format(folder=tmp_path), *EXPLAIN], message, capsys)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE alembic_version SET version_num = 'v3.0.0.a'", "optuna storage upgrade"),
        ("UPDATE alembic_version SET version_num = 'v99.0.0.a'", "pip install -U optuna"),
        ("DELETE FROM version_info", "optuna storage upgrade"),
        ("DROP TABLE alembic_version", "optuna storage upgrade"),
    ],
)
def test_tables_of_another_optuna_say_what_to_do(
    source: str, change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(change)
        database.commit()
    before = path.read_bytes()
    refused(["explain", source, *EXPLAIN], message, capsys)
    assert path.read_bytes() == before


def test_a_snapshot_in_redis_is_never_unpickled() -> None:
    from optuna_aelle.cli.journals import _WithoutSnapshots

    backend = _WithoutSnapshots("redis://127.0.0.1:1")
    # It would have to be fetched from where nothing answers.
    assert backend.load_snapshot() is None
    backend.save_snapshot(b"")


@pytest.fixture(params=sorted(URLS))
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The URL of a server, and the name of a study there that is deleted again."""
    url, name = URLS[request.param], f"aelle-{uuid.uuid4().hex}"
    try:
        if request.param == "redis":
            storage = JournalStorage(JournalRedisBackend(url, prefix=name))
            url = f"{url}?prefix={name}"
        else:
            storage = RDBStorage(url)
        optuna.create_study(study_name=name, storage=storage).add_trials(made_trials(5))
    except Exception as error:
        skip_unless_required(f"{request.param} cannot be reached: {type(error).__name__}: {error}")
    yield url, name
    optuna.delete_study(study_name=name, storage=storage)


@pytest.mark.services
def test_servers_are_read(served: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    url, name = served
    assert main(["explain", url, "--study-name", name[:-3], *EXPLAIN]) == 0
    assert name in capsys.readouterr().out
    assert main(["doctor", url, "--study-name", name]) in (0, 1)
    assert "reachable: answers in" in capsys.readouterr().out


@pytest.mark.services
def test_a_proxy_is_read(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc")
    from optuna.storages import run_grpc_proxy_server

    port = free_port()
    storage = RDBStorage(source)
    threading.Thread(
        target=run_grpc_proxy_server,
        args=(storage,),
        kwargs={"host": "127.0.0.1", "port": port},
        daemon=True,
    ).start()
    assert main(["explain", f"grpc://127.0.0.1:{port}", *EXPLAIN]) == 0
    assert '"study_name": "mine"' in capsys.readouterr().out


@pytest.mark.services
@pytest.mark.parametrize("server", ["mariadb", "redis"])
def test_a_wrong_password_is_one_line(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    scheme, _, rest = URLS[server].partition("://")
    host = rest.rpartition("@")[2]
    address = urlsplit(f"//{host}")
    try:
        socket.create_connection((address.hostname, address.port), timeout=5.0).close()
    except OSError as error:
        skip_unless_required(f"{server} cannot be reached: {error}")
    message = "Expected the URL of a storage that Optuna can open"
    said = refused(["explain", f"{scheme}://nobody:secret@{host}", *EXPLAIN], message, capsys)
    assert "refused" not in said
