"""Every storage that a study may live in, opened by name.

Servers are found where AELLE_TEST_POSTGRESQL, AELLE_TEST_MARIADB and AELLE_TEST_REDIS say, or on
the loopback interface.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal import JournalRedisBackend

from tests.conftest import skip_unless_required
from tests.ports import free_port

URLS = {
    "postgresql": os.environ.get(
        "AELLE_TEST_POSTGRESQL", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get("AELLE_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
    "redis": os.environ.get("AELLE_TEST_REDIS", "redis://127.0.0.1:6379"),
}
LOCAL = ("memory", "sqlite", "journal-file")
SERVERS = ("postgresql", "mariadb", "journal-redis", "grpc")
_PROXY = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def opened(kind: str, name: str, folder: Path) -> Iterator[BaseStorage]:
    """A storage of a kind; the test is skipped where its server cannot be reached.

    Args:
        kind: One of `LOCAL` or `SERVERS`.
        name: Of the study; it is deleted from servers in the end.
        folder: For what lies in files.
    """
    if kind == "memory":
        yield InMemoryStorage()
    elif kind == "sqlite":
        yield RDBStorage(f"sqlite:///{folder / 'study.db'}")
    elif kind == "journal-file":
        yield JournalStorage(JournalFileBackend(str(folder / "study.log")))
    elif kind == "grpc":
        with proxied(URLS["postgresql"]) as storage:
            yield from _cleaned(storage, name)
    else:
        yield from _cleaned(_on_server(kind, name), name)


def _on_server(kind: str, name: str) -> BaseStorage:
    try:
        if kind == "journal-redis":
            backend = JournalRedisBackend(URLS["redis"], prefix=name)
            backend.read_logs(0)
            return JournalStorage(backend)
        return RDBStorage(URLS[kind])
    except Exception as error:
        skip_unless_required(f"{kind} cannot be reached: {type(error).__name__}: {error}")


def _cleaned(storage: BaseStorage, name: str) -> Iterator[BaseStorage]:
    try:
        yield storage
    finally:
        if any(study.study_name == name for study in storage.get_all_studies()):
            optuna.delete_study(study_name=name, storage=storage)


@contextmanager
def proxied(url: str) -> Iterator[BaseStorage]:
    """A database behind a gRPC proxy of its own."""
    try:
        RDBStorage(url)
        from optuna.storages import GrpcStorageProxy
    except Exception as error:
        skip_unless_required(f"no gRPC proxy over PostgreSQL: {type(error).__name__}: {error}")
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", _PROXY, url, str(port)])
    try:
        storage = GrpcStorageProxy(host="127.0.0.1", port=port)
        storage.wait_server_ready(timeout=60)
        yield storage
    finally:
        server.kill()
        server.wait()
