"""A database that is gone for a while: Optuna's own storage, with the patience to wait for it.

Most operations may simply be tried again. Two may not, since a connection can be lost after a
commit has reached the database and before its answer is back: creating a trial, which would be
there twice, and changing a trial's state, which would look as if another worker had done it. Each
of those leaves a *request*, in the same transaction; found again, it tells that the first try has
succeeded. ``aelle:request``, a system attribute of each trial, holds the latest::

    "5f0c3c2e9d1b4f4c8c0f6e0a7b1d2c3e"

What is private in Optuna is subclassed here, since its public interface has no place to wait.
"""

from __future__ import annotations

import copy
import functools
import json
import random
import time
import uuid
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from typing import TypeVar

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle._warnings import warn_once

REQUEST_KEY = "aelle:request"

_T = TypeVar("_T")
# Seconds between two tries, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# How drivers find out that the other side is gone without a word, in seconds; the last of libpq's
# is in milliseconds.
_LIBPQ = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}
_PYMYSQL = {"connect_timeout": 10, "read_timeout": 120, "write_timeout": 120}
# Seconds until whoever has waited for an answer, then for the next try, is heard again.
_LONGEST_SILENCE = 120.0 + _LONGEST_PAUSE
# Of MySQL: no access to a database, none for a user, and no such database.
_MYSQL_REFUSALS = {1044, 1045, 1049}
# Other drivers say no more than this, as psycopg does of connections.
_REFUSALS = ("password authentication failed", "does not exist", "unable to open database file")


class PatientStorage(RDBStorage):
    """A database that may be restarted, or be gone for a while, during a study.

    As `optuna.storages.RDBStorage`, but what fails because the database cannot be reached is tried
    again until it can: ``trial.report`` and all else then take as long as that, with one warning.
    Nothing is written twice. After an absence, of which a worker that has just opened the storage
    cannot know, no trial counts as lost before all workers have had the time to renew their
    heartbeats: ``heartbeat_interval`` and some two minutes, but no longer than ``grace_period``.

    What waiting cannot mend is raised at once where the storage is opened: a wrong password, a
    database or a folder that is not there.

    Args:
        url: Of the database, as SQLAlchemy has it.
        patience: Seconds to wait for the database before the error is raised after all.
        engine_kwargs: For ``sqlalchemy.create_engine``. Where they do not say otherwise,
            connections are checked before they are used, renewed after half an hour, and given up
            where the other side is silent.
        options: Of `optuna.storages.RDBStorage`, such as ``heartbeat_interval``.

    Raises:
        ValueError: ``patience`` is not positive.
        sqlalchemy.exc.OperationalError: The database refuses, or has stayed away for too long.

    Example:
        >>> storage = PatientStorage("sqlite:///patient.db", patience=300.0)
        >>> search = optuna.create_study(storage=storage)
    """

    def __init__(
        self,
        url: str,
        patience: float = 120.0,
        *,
        engine_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not patience > 0.0:
            raise ValueError(f"patience must be positive, in seconds, but got {patience}.")
        self._patience, self._tried = patience, set[str]()
        driver = url.split(":", 1)[0]
        engine: dict[str, Any] = {"pool_pre_ping": True, "pool_recycle": 1800}
        if driver in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
            engine["connect_args"] = _LIBPQ
        elif driver == "mysql+pymysql":
            engine["connect_args"] = _PYMYSQL
        engine |= engine_kwargs or {}
        build = super().__init__
        self._open(lambda again: opened(lambda: build(url, engine, **options)))

    def _open(self, attempt: Callable[[bool], None]) -> None:
        self._wait(attempt, opens=True)
        # Nobody knows for how long it was away before.
        self._back_at = time.monotonic()

    def _wait(self, attempt: Callable[[bool], _T], opens: bool = False) -> _T:
        """What ``attempt`` returns once the database can be reached; it is told of other tries."""
        since, pause = None, _FIRST_PAUSE
        while True:
            try:
                result = attempt(since is not None)
            except Exception as error:
                absence = _absence(error)
                since = since or time.monotonic()
                if absence is None or (opens and _is_refusal(absence)):
                    raise
                if time.monotonic() - since + pause > self._patience:
                    raise
                warn_once(
                    "database away",
                    f"The database cannot be reached ({_reason(absence)}); waiting up to "
                    f"{self._patience:.0f} s for it.",
                )
                with suppress(Exception):
                    self.remove_session()
            else:
                if since is not None:
                    self._back_at = time.monotonic()
                return result
            # Not all workers at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, _LONGEST_PAUSE)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._patience = state["_patience"]
        restore = super().__setstate__
        self._open(lambda again: restore(state))

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        create, name = super().create_new_study, study_name or f"no-name-{uuid.uuid4()}"

        def attempt(again: bool) -> int:
            try:
                return create(directions, name)
            except DuplicatedStudyError:
                # One that nobody has used and that is as it should be is the one of the last try.
                known = self.get_study_id_from_name(name)
                alike = self.get_study_directions(known) == list(directions)
                if again and alike and not self._get_trials(known, None, set(), -1):
                    return known
                raise

        return self._wait(attempt)

    def delete_study(self, study_id: int) -> None:
        delete = super().delete_study

        def attempt(again: bool) -> None:
            # The last try may have done it.
            with suppress(*([KeyError] if again else [])):
                delete(study_id)

        self._wait(attempt)

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        create, request = super()._create_new_trial, uuid.uuid4().hex
        template = copy.copy(template_trial or create_trial(state=TrialState.RUNNING))
        template.system_attrs = {**template.system_attrs, REQUEST_KEY: request}
        try:
            return self._wait(lambda again: create(study_id, template))
        finally:
            self._tried.discard(request)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        """Called by Optuna, also when it tries again by itself; nobody else creates one then."""
        from optuna.storages._rdb import models

        assert template_trial is not None
        request = template_trial.system_attrs[REQUEST_KEY]
        if request in self._tried:
            attribute = models.TrialSystemAttributeModel
            written = attribute.value_json == json.dumps(request)
            trials = session.query(models.TrialModel).join(attribute)
            trials = trials.filter(models.TrialModel.study_id == study_id)
            known = trials.filter(attribute.key == REQUEST_KEY, written).one_or_none()
            if known is not None:
                return known
        self._tried.add(request)
        return super()._get_prepared_new_trial(study_id, template_trial, session)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        from optuna.storages._rdb import models

        attribute, request = models.TrialSystemAttributeModel, uuid.uuid4().hex
        change = super().set_trial_state_values

        def attempt(again: bool) -> bool:
            # That of this thread: what is done with it here and by Optuna is one transaction.
            session = self.scoped_session()
            try:
                trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                if again:
                    # Once nobody else changes it, the last try among them.
                    written = attribute.find_by_trial_and_key(trial, REQUEST_KEY, session)
                    if written is not None and str(written.value_json) == json.dumps(request):
                        return True
                if state != TrialState.RUNNING or trial.state == TrialState.WAITING:
                    self._set_trial_attr_without_commit(
                        session, attribute, trial_id, REQUEST_KEY, request
                    )
                return change(trial_id, state, values)
            finally:
                session.close()

        return self._wait(attempt)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        get = super()._get_stale_trial_ids
        found = self._wait(lambda again: get(study_id))
        interval = self.heartbeat_interval or 0
        grace = self.grace_period or 2 * interval
        # While the database was away, nobody's heart could be heard.
        heard_at = self._back_at + min(grace, interval + _LONGEST_SILENCE)
        return [] if time.monotonic() < heard_at else found


def opened(build: Callable[[], _T]) -> _T:
    """What ``build`` opens, whoever else opens the same empty database at the same moment.

    Optuna creates the tables that it has found missing. Where another worker has created them
    meanwhile, that fails, and they are there at the next try.

    Example:
        >>> storage = opened(lambda: optuna.storages.get_storage("sqlite:///shared.db"))
    """
    from sqlalchemy import exc

    for pause in (0.1, 0.2, 0.4, 0.8):
        try:
            return build()
        except (exc.IntegrityError, exc.ProgrammingError, exc.OperationalError) as error:
            # SQLite and MySQL take it for a failure of theirs.
            away = isinstance(error, exc.OperationalError)
            if away and "already exists" not in str(error.orig):
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))
    return build()


def _patient(method: Callable[..., _T]) -> Callable[..., _T]:
    @functools.wraps(method)
    def wait(self: PatientStorage, *args: Any, **kwargs: Any) -> _T:
        return self._wait(lambda again: method(self, *args, **kwargs))

    return wait


# What may be done twice, and calls no other one of these.
for _name in (
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "record_heartbeat",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
):
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def _absence(error: BaseException | None) -> BaseException | None:
    """What the connection, or the server, failed with; None where it was what was asked of it."""
    from sqlalchemy import exc

    while error is not None:
        if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
            return error
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return error
        # Optuna may try another query where one has failed, which then fails for that reason.
        pending = isinstance(error, exc.PendingRollbackError)
        error = error.__context__ if pending else error.__cause__
    return None


def _is_refusal(error: BaseException) -> bool:
    """Whether the database lets nobody in, or is not there at all."""
    driver: Any = getattr(error, "orig", None)
    state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
    if state:
        # Of PostgreSQL: whoever asks is refused; there is no such database.
        return str(state).startswith("28") or state == "3D000"
    code = next(iter(getattr(driver, "args", ())), None)
    if isinstance(code, int):
        return code in _MYSQL_REFUSALS
    return any(words in str(driver) for words in _REFUSALS)


def _reason(error: BaseException) -> str:
    """The first line of the driver's own words."""
    return str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
