"""A database that is cut off or restarted in the middle of a study of several workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLEWarning
from optuna_aelle import PatientStorage
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.trials.storage import write_system_attributes
from tests.conftest import run_synthetic
from tests.conftest import skip_unless_required
from tests.faults.processes import line_of
from tests.faults.processes import started
from tests.faults.proxy import Proxy
from tests.faults.worker import N_STEPS
from tests.ports import free_port
from tests.storages.stores import URLS

SERVERS = ("postgresql", "mariadb")
# Those of the newest version come last.
POSTGRESQL_BINS = sorted(
    (initdb.parent for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    key=lambda folder: float(folder.parent.name),
)


@pytest.fixture(params=SERVERS)
def cable(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str, str]]:
    """A proxy before a server, the URL through it, and the URL past it."""
    direct = make_url(URLS[request.param])
    try:
        RDBStorage(URLS[request.param])
    except Exception as error:
        skip_unless_required(f"{request.param} cannot be reached: {type(error).__name__}: {error}")
    proxy = Proxy(direct.port or 0, direct.host or "")
    through = direct.set(port=proxy.port)
    yield proxy, through.render_as_string(False), URLS[request.param]
    proxy.cut()


@pytest.fixture
def name(cable: tuple[Proxy, str, str]) -> Iterator[str]:
    name = f"aelle-{uuid.uuid4().hex}"
    yield name
    optuna.delete_study(study_name=name, storage=cable[2])


def assert_nothing_is_lost(
    away: Callable[[], None], url: str, name: str, study: optuna.Study, *, n_workers: int, n: int
) -> None:
    """Workers of one study that lose its database while they train: nothing is lost or doubled."""
    arguments = (url, name, str(n), "0.1")
    with started("tests.faults.worker", *arguments, n=n_workers) as workers:
        for worker in workers:
            assert "ready" in line_of(worker)
        told = [json.loads(line_of(worker)) for worker in workers]
        away()
        for worker in workers:
            # Not by `communicate`, which misses what `readline` has read ahead.
            *lines, last = [json.loads(line) for line in worker.stdout or ()]
            assert worker.wait(60) == 0
            told += lines
            kinds = [text.split("(")[0] for text in last["warnings"]]
            assert len(kinds) <= 1, last
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(n_workers * n))
    assert sorted(line["number"] for line in told) == list(range(n_workers * n))
    for line in told:
        trial = trials[line["number"]]
        reported = {int(step): value for step, value in line["reported"].items()}
        assert (trial.state.name, trial.params) == (line["state"], line["params"])
        assert trial.intermediate_values == reported
        assert trial.value == reported[max(reported)]
        assert trial.state == TrialState.PRUNED or len(reported) == N_STEPS
    assert not [finding for finding in diagnose(study) if finding.level == "problem"]


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 20.0])
def test_workers_wait_for_a_database_that_is_gone(
    cable: tuple[Proxy, str, str], name: str, seconds: float
) -> None:
    proxy, url, direct = cable
    study = optuna.create_study(study_name=name, storage=direct)

    def away() -> None:
        proxy.cut()
        time.sleep(seconds)
        proxy.mend()

    assert_nothing_is_lost(away, url, name, study, n_workers=2, n=6)


@pytest.fixture
def own_postgresql(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a server of this test's own, and what restarts it, for real."""
    if not POSTGRESQL_BINS:
        skip_unless_required("no folder of /usr/lib/postgresql has an initdb")
    as_user: list[str] = []
    if os.getuid() == 0:
        import pwd  # which Windows lacks

        if shutil.which("runuser") is None or "postgres" not in {
            u.pw_name for u in pwd.getpwall()
        }:
            skip_unless_required("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    # Its user must reach it, which the folders of tests do not allow.
    folder = Path("/tmp") / f"aelle-{uuid.uuid4().hex[:12]}"
    folder.mkdir(mode=0o700)
    if as_user:
        shutil.chown(folder, "postgres")
    port = free_port()
    data, log = folder / "data", folder / "log"
    setting = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"

    def server(*arguments: str, check: bool = True) -> None:
        subprocess.run(
            [*as_user, str(POSTGRESQL_BINS[-1] / "pg_ctl"), "-D", str(data), "-l", str(log), "-w"]
            + list(arguments),
            check=check,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            timeout=90,
        )

    def restart() -> None:
        # As when the machine goes down: connections are cut, and transactions lost.
        server("-m", "immediate", "stop")
        time.sleep(2.0)
        server("-o", setting, "start")

    try:
        server("init", "-o", "-A trust -U aelle -N")
        server("-o", setting, "start")
        yield f"postgresql+psycopg://aelle@127.0.0.1:{port}/postgres", restart
    finally:
        # Which may not have come to run.
        server("-m", "immediate", "stop", check=False)
        shutil.rmtree(folder)


@pytest.mark.services
@pytest.mark.slow
def test_workers_outlive_a_restart_of_their_database(
    own_postgresql: tuple[str, Callable[[], None]],
) -> None:
    url, restart = own_postgresql
    study = optuna.create_study(study_name="restarted", storage=PatientStorage(url))

    def twice() -> None:
        restart()
        time.sleep(1.0)
        restart()

    assert_nothing_is_lost(twice, url, "restarted", study, n_workers=3, n=6)


@pytest.mark.services
def test_what_was_committed_before_the_answer_was_lost_is_not_done_twice(
    cable: tuple[Proxy, str, str], name: str
) -> None:
    proxy, url, direct = cable
    storage = PatientStorage(url, patience=30.0)

    @contextmanager
    def lost(statement: bytes) -> Iterator[None]:
        proxy.lose_answer(statement, b"COMMIT")
        yield
        assert proxy.has_lost_answer

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with lost(b"INSERT INTO studies"):
            study = optuna.create_study(study_name=name, storage=storage)
        with lost(b"INSERT INTO trials"):
            first = study.ask()
        with lost(b"INSERT INTO trials"):
            study.enqueue_trial({"x": 0.5})
        with lost(b"UPDATE trials"):
            second = study.ask()
        with lost(b"INSERT INTO trial_params"):
            assert second.suggest_float("x", 0.0, 1.0) == 0.5
        with lost(b"UPDATE trials"):
            study.tell(first, 1.0)
        with lost(b"INSERT INTO trial_intermediate_values"):
            second.report(2.0, 3)
        with lost(b"INSERT INTO trial_system_attributes"):
            write_system_attributes(study, second, {"a": 1})
        with lost(b"UPDATE trials"):
            study.tell(second, 3.0)
    assert sum("cannot be reached" in str(w.message) for w in caught) == 1
    trials = optuna.load_study(study_name=name, storage=direct).trials
    assert [(t.number, t.state, t.value) for t in trials] == [
        (0, TrialState.COMPLETE, 1.0),
        (1, TrialState.COMPLETE, 3.0),
    ]
    assert trials[1].intermediate_values == {3: 2.0}
    assert trials[1].system_attrs["a"] == 1
    with lost(b"DELETE FROM studies"):
        optuna.delete_study(study_name=name, storage=storage)
    optuna.create_study(study_name=name, storage=direct)


@pytest.mark.services
def test_what_another_worker_did_is_not_taken_for_one_s_own(
    cable: tuple[Proxy, str, str], name: str
) -> None:
    proxy, url, direct = cable
    storage = PatientStorage(url, patience=30.0)
    study = optuna.create_study(study_name=name, storage=storage)
    other = optuna.load_study(study_name=name, storage=direct)
    trial = study.ask()
    other.tell(trial.number, 5.0)
    proxy.cut()
    proxy.mend()
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(1.0, 0)
    study.enqueue_trial({})
    waiting = study.trials[-1]
    assert other.ask().number == waiting.number
    # The queue is empty for everybody else.
    assert study.ask().number == waiting.number + 1
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name=name, storage=storage)


@pytest.mark.services
def test_patience_ends(cable: tuple[Proxy, str, str], name: str) -> None:
    proxy, url, _ = cable
    study = optuna.create_study(study_name=name, storage=PatientStorage(url, patience=1.0))
    trial = study.ask()
    proxy.cut()
    started = time.monotonic()
    with (
        pytest.warns(AeLLEWarning, match="waiting up to 1 s"),
        pytest.raises(StorageInternalError),
    ):
        trial.report(1.0, 0)
    assert time.monotonic() - started < 10.0
    proxy.mend()
    trial.report(1.0, 0)
    study.tell(trial, 1.0)


def test_it_is_a_storage_like_optuna_s(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(ValueError, match="patience must be positive"):
        PatientStorage(url, patience=0.0)
    study = optuna.create_study(study_name="a", storage=PatientStorage(url), pruner=AeLLEPruner())
    run_synthetic(study, 20)
    plain = optuna.create_study(pruner=AeLLEPruner())
    run_synthetic(plain, 20)
    for ours, theirs in zip(study.trials, plain.trials, strict=True):
        assert (ours.state, ours.values, ours.intermediate_values) == (
            theirs.state,
            theirs.values,
            theirs.intermediate_values,
        )
