"""Journals, in a file or in Redis, opened without making anything, and without unpickling."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl
from urllib.parse import urlencode
from urllib.parse import urlsplit
from urllib.parse import urlunsplit

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal import JournalRedisBackend

_SECONDS = {"socket_connect_timeout": "5", "socket_timeout": "30"}


class _WithoutSnapshots(JournalRedisBackend):
    """The whole log rather than Optuna's shortcut, a pickle that anyone may have put there."""

    def load_snapshot(self) -> bytes | None:
        return None

    def save_snapshot(self, snapshot: bytes) -> None:
        return


def open_journal_file(path: str) -> JournalStorage:
    """A journal in a file.

    Raises:
        ValueError: There is no such file, or it is no journal.
    """
    if not Path(path).is_file():
        raise ValueError(f"Expected a journal in {path!r}, but there is no such file.")
    try:
        return JournalStorage(JournalFileBackend(path))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"Expected a file written by JournalFileBackend, but {path!r} is none, or damaged."
        ) from error


def open_redis(source: str) -> JournalStorage:
    """A journal in Redis; ``?prefix=NAME`` is that of `JournalRedisBackend`."""
    parts = urlsplit(source)
    query = dict(parse_qsl(parts.query))
    prefix = query.pop("prefix", "")
    url = urlunsplit(parts._replace(query=urlencode(_SECONDS | query)))
    try:
        return JournalStorage(_WithoutSnapshots(url, prefix=prefix))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "Expected a journal that JournalRedisBackend has written, but what Redis holds under "
            f"the prefix {prefix!r} is none, or damaged."
        ) from error
