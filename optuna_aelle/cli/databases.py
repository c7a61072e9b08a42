"""Databases, opened without making or changing anything in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url

# A server that does not answer by then is not there; elsewhere it takes two minutes to say so.
_CONNECT_SECONDS = 5
_TAKE_TIMEOUT = ("psycopg", "psycopg2", "pymysql", "mysqldb", "mariadbconnector")
_DRIVERS = {
    "postgresql": ("psycopg[binary]", "postgresql+psycopg://"),
    "mysql": ("pymysql", "mysql+pymysql://"),
    "mariadb": ("pymysql", "mysql+pymysql://"),
}
_VERSIONS = {"version_info": "library_version", "alembic_version": "version_num"}


@dataclass(frozen=True)
class Schema:
    """Which version of Optuna's tables a database has.

    Attributes:
        revision: Of the tables.
        made_by: The version of Optuna that made them.
    """

    revision: str
    made_by: str


def open_database(source: str) -> RDBStorage:
    """A database with Optuna's tables.

    Raises:
        ValueError: There is none.
        RuntimeError: Its tables are of another version; says what to do.
    """
    url = _parsed(source)
    _check_file(url)
    return RDBStorage(source, engine_kwargs=_engine_options(url), skip_table_creation=True)


def schema_of(source: str) -> Schema:
    """Which version of Optuna's tables there is.

    Raises:
        ValueError: There are none.
    """
    url = _parsed(source)
    _check_file(url)
    return _schema(url)


def _check_file(url: URL) -> None:
    """SQLite makes a database where there is none."""
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        name = str(url.database)
        path = urlsplit(name).path if name.startswith("file:") else name
        if not Path(path).exists():
            raise ValueError(f"Expected a database in {path!r}, but there is no such file.")
        if Path(path).is_dir() or not os.access(path, os.R_OK):
            what = "a folder" if Path(path).is_dir() else "not to be read"
            raise ValueError(f"Expected a database in {path!r}, but it is {what}.")
    _schema(url)


def _schema(url: URL) -> Schema:
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
            if "studies" not in tables:
                raise ValueError("Expected a storage with at least one study, but it has none.")
            found = {}
            for table, column in _VERSIONS.items():
                row = None
                if table in tables:
                    query = sqlalchemy.text(f"SELECT {column} FROM {table}")
                    row = connection.execute(query).first()
                if row is None:
                    raise ValueError(
                        "Expected tables that say which Optuna made them, but these do not: they "
                        "are older, or were never finished. Run: optuna storage upgrade --storage "
                        "URL"
                    )
                found[table] = str(row[0])
    finally:
        engine.dispose()
    return Schema(found["alembic_version"], found["version_info"])


def _parsed(source: str) -> URL:
    try:
        return make_url(source)
    except Exception as error:  # what SQLAlchemy says of it repeats it
        raise ValueError(
            "Expected a storage URL such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, but "
            "this one cannot be read. Write @, /, : and % within a password as %40, %2F, %3A, %25."
        ) from error


def _engine(url: URL) -> sqlalchemy.Engine:
    try:
        return sqlalchemy.create_engine(url, **_engine_options(url))
    except ImportError as error:
        package, prefix = _DRIVERS.get(url.get_backend_name(), ("its driver", ""))
        beside = f" and write {prefix}" if prefix else ""
        raise ValueError(
            f"Expected a driver for {url.drivername!r}, but {error.name or error} is not "
            f"installed. Run: pip install '{package}'{beside}"
        ) from error


def _engine_options(url: URL) -> dict[str, Any]:
    try:
        driver = url.get_driver_name()
    except sqlalchemy.exc.NoSuchModuleError:
        return {}
    if driver not in _TAKE_TIMEOUT or "connect_timeout" in url.query:
        return {}
    return {"connect_args": {"connect_timeout": _CONNECT_SECONDS}}
