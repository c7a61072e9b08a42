"""Where studies come from: storages that Optuna opens, and tables, left as they are.

Optuna makes what is missing when it opens a storage: files, tables, the record of its version. A
command that reads looks first whether all of it is there.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from urllib.parse import urlsplit
from zipfile import BadZipFile

import optuna
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle.cli.databases import open_database
from optuna_aelle.cli.journals import open_journal_file
from optuna_aelle.cli.journals import open_redis
from optuna_aelle.cli.outputs import one_line
from optuna_aelle.cli.outputs import printable
from optuna_aelle.trials.storage import add_as_it_is
from optuna_aelle.trials.table import RecordedTrials

TABLE = ".npz"
# Optuna, and what it reaches storages with.
_PACKAGES = ("optuna", "sqlalchemy", "redis", "grpc", "psycopg", "psycopg2", "pymysql", "alembic")
_JOURNALS = (".log", ".journal")
# A server that does not answer by then is not there.
_GRPC_SECONDS = 5.0
_MOST_NAMES = 20


def load_table(source: str, study_name: str | None) -> RecordedTrials:
    """The trials of a table or of a study.

    Raises:
        ValueError: There is no such study, or it cannot be read.
        OSError: The same.
    """
    if source.endswith(TABLE):
        return read_table(source)
    with reading(source):
        return RecordedTrials.from_study(load_study(source, study_name))


def load_study(source: str, study_name: str | None, *, to_write: bool = False) -> Study:
    """A study of a storage, or one in memory with the trials of a table, numbered as there.

    Args:
        source: As the user wrote it.
        study_name: As the user wrote it; None where there should be only one.
        to_write: Whether more than reading is intended.

    Raises:
        ValueError: There is no such study, or it cannot be read.
        OSError: The same.
    """
    if source.endswith(TABLE):
        if to_write:
            raise ValueError(f"Expected a storage to write into, but {source!r} is a table.")
        return _as_study(read_table(source))
    with reading(source):
        storage = open_storage(source)
        names = sorted(optuna.get_all_study_names(storage))
        return optuna.load_study(study_name=choose(names, study_name), storage=storage)


def studies_of(source: str) -> list[Study]:
    """All studies of a storage, by name.

    Raises:
        ValueError: It cannot be read.
        OSError: The same.
    """
    with reading(source):
        storage = open_storage(source)
        names = sorted(optuna.get_all_study_names(storage))
        return [optuna.load_study(study_name=name, storage=storage) for name in names]


def open_storage(source: str) -> BaseStorage:
    """A storage that is there already.

    Raises:
        ValueError: There is none, or it cannot be read.
        OSError: The same.
    """
    with reading(source), warnings.catch_warnings():
        # Of Optuna, that journals and the proxy are experimental.
        warnings.simplefilter("ignore")
        try:
            return _opened(source)
        except (ImportError, RuntimeError) as error:
            # A driver is missing; tables are of another version.
            raise _refused(source, error) from error


def _opened(source: str) -> BaseStorage:
    scheme, there, rest = source.partition("://")
    if scheme == "journal" and there:
        # With three slashes an absolute path, as in URLs, or a relative one, as in SQLite's.
        relative = rest.removeprefix("/")
        return open_journal_file(relative if Path(relative).exists() else rest)
    if not there and source.lower().endswith(_JOURNALS):
        return open_journal_file(source)
    if not there:
        raise ValueError(
            "Expected a storage URL such as sqlite:///my.db, a journal file (.log, .journal) "
            f"or a table (.npz), got {source!r}."
        )
    if scheme in ("redis", "rediss", "unix"):
        return open_redis(source)
    if scheme == "grpc":
        return _open_proxy(source)
    return open_database(source)


def _refused(source: str, error: BaseException) -> ValueError:
    # Not the whole URL, which may hold a password.
    return ValueError(
        "Expected the URL of a storage that Optuna can open, but got one of "
        f"{source.partition('://')[0]!r} with: {_without_secret(error, source)}"
    )


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Whatever goes wrong with a storage is one clear line, without its password."""
    try:
        yield
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(_without_secret(error, source)) from error
    except Exception as error:
        if not is_of_storage(error):
            raise
        raise _refused(source, error) from error


def is_of_storage(error: BaseException) -> bool:
    """Whether an error comes from a storage: from Optuna, or from what it reaches one with."""
    return type(error).__module__.partition(".")[0] in _PACKAGES


def choose(names: Sequence[str], given: str | None) -> str:
    """The name of the study that is meant.

    Raises:
        ValueError: None is, or several may be; says which there are.
    """
    if not names:
        raise ValueError("Expected a storage with at least one study, but it has none.")
    if given is None and len(names) == 1:
        return names[0]
    if given in names:
        return str(given)
    if given is None:
        raise ValueError(f"Expected one of the studies {_listed(names)}, got no --study-name.")
    for alike in (
        [name for name in names if name.lower() == given.lower()],
        [name for name in names if given and name.startswith(given)],
        [name for name in names if given and name.lower().startswith(given.lower())],
    ):
        if len(alike) == 1:
            print(f"Study: {printable(alike[0])}", file=sys.stderr)
            return alike[0]
        if alike:
            raise ValueError(f"Expected one of the studies {_listed(alike)}, got {given!r}.")
    by_lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(given.lower(), by_lower, n=3)
    meant = f" Did you mean {' or '.join(repr(by_lower[c]) for c in close)}?" if close else ""
    raise ValueError(f"Expected one of the studies {_listed(names)}, got {given!r}.{meant}")


def read_table(path: str) -> RecordedTrials:
    """A table.

    Raises:
        ValueError: There is none, or it is of another kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"Expected a table in {path!r}, but there is no such file.")
    try:
        return RecordedTrials.load(path)
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        if str(error).startswith("Expected"):
            raise
        # What numpy says of such files suggests to unpickle them.
        raise ValueError(
            f"Expected a file written by RecordedTrials.save, but {path!r} is none."
        ) from error


def _as_study(recorded: RecordedTrials) -> Study:
    """A study in memory; trials that the table left out have failed in it."""
    storage = InMemoryStorage()
    # `optuna.create_study` would say so in the log.
    storage.create_new_study([StudyDirection[recorded.direction.upper()]], recorded.name)
    study = optuna.load_study(study_name=recorded.name, storage=storage)
    now = datetime.datetime.now()
    for trial in sorted(recorded.trials, key=lambda trial: trial.number):
        while len(study.get_trials(deepcopy=False)) < trial.number:
            study.add_trial(create_trial(state=TrialState.FAIL))
        timed = copy.copy(trial)
        timed.datetime_start = trial.datetime_start or now
        timed.datetime_complete = trial.datetime_complete or timed.datetime_start
        add_as_it_is(study, timed)
    return study


def _open_proxy(source: str) -> BaseStorage:
    from optuna.storages import GrpcStorageProxy

    parts = urlsplit(source)
    if parts.hostname is None or parts.path.strip("/"):
        raise ValueError("Expected grpc://HOST:PORT of a gRPC storage proxy, got another URL.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    proxy = GrpcStorageProxy(host=host, port=parts.port or 13000)
    try:
        proxy.wait_server_ready(timeout=_GRPC_SECONDS)
    except ConnectionError as error:
        raise ConnectionError(
            f"Expected a gRPC storage proxy at {host}:{parts.port or 13000}, but none has "
            f"answered within {_GRPC_SECONDS:g} seconds."
        ) from error
    return proxy


def _without_secret(error: BaseException, source: str) -> str:
    said = one_line(error)
    try:
        password = urlsplit(source).password or ""
    except ValueError:
        password = ""
    # Drivers take what stands behind an @ within it, which should have been %40, for a host.
    for secret in (password, unquote(password), *password.split("@")):
        if secret:
            said = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", said)
    return said


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{list(names[:_MOST_NAMES])}{more}"
