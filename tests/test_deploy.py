"""Templates of workers on a cluster: they are what their schedulers read, and the worker works."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import yaml
from optuna.trial import TrialState

from optuna_aelle.cli import main
from optuna_aelle.trials.continuation import origin_of
from tests.conftest import skip_unless_required

DEPLOY = Path(__file__).parents[1] / "deploy"
SERVER = os.environ.get("AELLE_TEST_POSTGRESQL", "postgresql+psycopg://root@127.0.0.1:5432/test")
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@pytest.fixture
def empty_database() -> Iterator[str]:
    """The URL of a database of PostgreSQL that nothing has been written to."""
    name, server = f"aelle_{uuid.uuid4().hex}", SERVER.replace("+psycopg", "")
    try:
        connection = psycopg.connect(server, autocommit=True)
    except psycopg.OperationalError as error:
        skip_unless_required(f"PostgreSQL cannot be reached: {error}")
    with connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{SERVER.rpartition('/')[0]}/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_kubernetes_can_read_its_template() -> None:
    documents: list[dict[str, Any]] = [*yaml.safe_load_all((DEPLOY / "kubernetes.yaml").open())]
    job, dashboard = documents
    assert (job["kind"], dashboard["kind"]) == ("Job", "Deployment")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 8
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    (shown,) = dashboard["spec"]["template"]["spec"]["containers"]
    # What the worker asks of its environment.
    given = {variable["name"] for variable in worker["env"]}
    asked = {word for word in (DEPLOY / "search.py").read_text().split('"') if word.isupper()}
    assert {"AELLE_STORAGE", "AELLE_CHECKPOINTS", "AELLE_WORKER"} <= given & asked
    assert {variable["name"] for variable in shown["env"]} == {"AELLE_STORAGE"}
    mounted = {mount["name"] for mount in worker["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_a_worker_that_fails_is_started_again(tmp_path: Path) -> None:
    """Twice it fails, then it is done; one that never is gives up after five times."""
    script = tmp_path / "search.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "tries = pathlib.Path('tries')\n"
        "n = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text((n + 1) * 'x')\n"
        "sys.exit(n < int(os.environ['FAILS']))\n"
    )
    for fails, status, tries in ((2, 0, 3), (9, 1, 5)):
        (tmp_path / "tries").unlink(missing_ok=True)
        ended = run_slurm(tmp_path, script, AELLE_STORAGE="sqlite:///x.db", FAILS=str(fails))
        assert ended.wait(60) == status
        assert len((tmp_path / "tries").read_text()) == tries


def run_slurm(folder: Path, script: Path, **environment: str) -> subprocess.Popen[bytes]:
    """What a node of Slurm does with its template."""
    return subprocess.Popen(
        ["bash", str(DEPLOY / "slurm.sbatch")],
        cwd=folder,
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "AELLE_SCRIPT": str(script),
            "AELLE_PAUSE": "1",
            **environment,
        },
    )


@pytest.mark.slow
@pytest.mark.services
def test_eight_workers_on_an_empty_database(
    tmp_path: Path, empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = [
        run_slurm(
            tmp_path,
            DEPLOY / "search.py",
            AELLE_STORAGE=empty_database,
            AELLE_TRIALS="24",
            SLURM_ARRAY_TASK_ID=str(worker),
        )
        for worker in range(8)
    ]
    try:
        assert [worker.wait(500) for worker in workers] == [0] * 8
    finally:
        for worker in workers:
            worker.kill()
    study = optuna.load_study(study_name="search", storage=empty_database)
    trials = study.get_trials()
    assert [trial.number for trial in trials] == [*range(len(trials))]
    # Each worker may have had one under way when the last one ended.
    assert 24 <= sum(trial.state in ENDED for trial in trials) <= 24 + 7
    assert {trial.state for trial in trials} <= {*ENDED, TrialState.WAITING}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and origin_of(trial) is None:
            assert sorted(trial.intermediate_values) == [*range(20)]
    doctor = ["doctor", empty_database, "--checkpoints", str(tmp_path / "checkpoints")]
    assert main(doctor) == 0, capsys.readouterr().out
