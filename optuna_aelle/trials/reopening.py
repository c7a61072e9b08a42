"""Storages that another process can open, too, and how it is told which one.

Optuna keeps where a storage lies to itself, so this reads what is private there; whatever does not
look as expected cannot be opened again. A storage is told as JSON: its address, never an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages import journal

_LOCKS = ("JournalFileSymlinkLock", "JournalFileOpenLock")


def address_of(storage: BaseStorage) -> dict[str, Any] | None:
    """Where a storage lies, as JSON can hold it; None for one that is in this process alone.

    Example:
        >>> from optuna.storages import InMemoryStorage
        >>> address_of(InMemoryStorage()) is None
        True
    """
    try:
        # What `optuna.create_study` puts in front of databases.
        return _address_of(getattr(storage, "_backend", storage), storage)
    except Exception:  # of another version of Optuna, or somebody's own
        return None


def open_again(address: Mapping[str, Any]) -> BaseStorage:
    """Open what `address_of` told.

    Raises:
        ValueError: It is no address of a storage.
    """
    kind = address.get("kind")
    if kind == "rdb":
        return RDBStorage(address["url"], address["engine_kwargs"], skip_compatibility_check=True)
    if kind == "journal file":
        lock = getattr(journal, address["lock"])(address["path"])
        return JournalStorage(journal.JournalFileBackend(address["path"], lock))
    if kind == "journal redis":
        return JournalStorage(
            journal.JournalRedisBackend(
                address["url"], use_cluster=address["use_cluster"], prefix=address["prefix"]
            )
        )
    if kind == "grpc":
        from optuna.storages import GrpcStorageProxy

        return GrpcStorageProxy(host=address["host"], port=address["port"])
    raise ValueError(f"Expected the address of a storage, but got one of kind {kind!r}.")


def _address_of(inner: Any, storage: BaseStorage) -> dict[str, Any] | None:
    found: dict[str, Any]
    if isinstance(inner, RDBStorage):
        in_memory = ":memory:" in inner.url or inner.url.endswith("//")
        if inner.url.startswith("sqlite") and in_memory:
            return None
        found = {"kind": "rdb", "url": inner.url, "engine_kwargs": inner.engine_kwargs}
    elif isinstance(storage, JournalStorage) and isinstance(inner, journal.JournalFileBackend):
        lock = type(inner._lock).__name__
        if lock not in _LOCKS:
            return None
        found = {"kind": "journal file", "path": inner._file_path, "lock": lock}
    elif isinstance(storage, JournalStorage) and isinstance(inner, journal.JournalRedisBackend):
        found = {
            "kind": "journal redis",
            "url": inner._url,
            "use_cluster": inner._use_cluster,
            "prefix": inner._prefix,
        }
    elif type(inner).__name__ == "GrpcStorageProxy":
        found = {"kind": "grpc", "host": inner._host, "port": inner._port}
    else:
        return None
    # Options that are objects cannot be told.
    return found if json.loads(json.dumps(found)) == found else None
