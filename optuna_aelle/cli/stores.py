"""What `doctor` finds out about a storage, a study in it, and its checkpoints."""

from __future__ import annotations

import socket
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from optuna_aelle.cli.databases import schema_of
from optuna_aelle.cli.sources import TABLE
from optuna_aelle.cli.sources import choose
from optuna_aelle.cli.sources import load_study
from optuna_aelle.cli.sources import open_storage
from optuna_aelle.cli.sources import reading
from optuna_aelle.decisions.diagnosis import Finding
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.trials.continuation import continuations
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.continuation import origin_of

_READS = 5
_SECONDS = 5.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "grpc": 13000}
# Every report waits for a few of these.
_SLOW = 0.05


def of_source(
    source: str, study_name: str | None, checkpoints: Path | None
) -> dict[str, list[Finding]]:
    """Findings about a storage, and about one study of it.

    Raises:
        ValueError: There is no such study, or it cannot be read.
        OSError: The same.
    """
    if source.endswith(TABLE):
        if checkpoints is not None:
            raise ValueError("--checkpoints expects a storage, but tables list no checkpoints.")
        study = load_study(source, study_name)
        return {f"study {study.study_name}": diagnose(study)}
    away = _unreachable(source)
    if away is not None:
        return {"storage": [away]}
    with reading(source):
        storage = open_storage(source)
        found = {"storage": [_speed(storage), *_schema(source)]}
        names = sorted(optuna.get_all_study_names(storage))
        if not names and study_name is None and checkpoints is None:
            # It is well asked before the first study, too.
            found["storage"].append(Finding("note", "studies", "none yet", ""))
            return found
        if len(names) > 1 and study_name is None:
            said = f"{len(names)} studies: {', '.join(names[:9])}{', ...' * (len(names) > 9)}"
            advice = "Name one with --study-name to hear what happened to it."
            found["storage"].append(Finding("note", "studies", said, advice))
            return found
        study = optuna.load_study(study_name=choose(names, study_name), storage=storage)
        of_study = diagnose(study)
        if checkpoints is not None:
            of_study.append(_checkpoints(study, checkpoints))
    return {**found, f"study {study.study_name}": of_study}


def _unreachable(source: str) -> Finding | None:
    """What to say of a server that does not answer at all; a password is another matter."""
    parts = urlsplit(source)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or port is None:
        return None
    try:
        socket.create_connection((parts.hostname, port), timeout=_SECONDS).close()
        return None
    except OSError as error:
        return Finding(
            "problem",
            "reachable",
            f"nothing answers at {parts.hostname}:{port} ({error})",
            "Is the server running, does it listen on this network, and is the port open?",
        )


def _speed(storage: BaseStorage) -> Finding:
    took = []
    for _ in range(_READS):
        started = time.perf_counter()
        optuna.get_all_study_names(storage)
        took.append(time.perf_counter() - started)
    median = statistics.median(took)
    said = f"answers in {1e3 * median:.1f} ms"
    if median < _SLOW:
        return Finding("ok", "reachable", said, "")
    advice = "Every report waits for it: run the workers nearer to it, or report less often."
    return Finding("note", "reachable", said, advice)


def _schema(source: str) -> list[Finding]:
    scheme = source.partition("://")[0].partition("+")[0]
    if scheme not in ("sqlite", "postgresql", "mysql", "mariadb"):
        return []
    schema = schema_of(source)
    said = f"tables of revision {schema.revision}, made by Optuna {schema.made_by}"
    return [Finding("ok", "schema", said, "")]


def _checkpoints(study: Study, folder: Path) -> Finding:
    trials = study.get_trials(deepcopy=False)
    continued = continuations(trials)
    # What waits to go on with the network of another continuation will be given up.
    late = {
        trial.number
        for trial in trials
        if trial.state == TrialState.WAITING
        and (origin := origin_of(trial)) is not None
        and continued.get(origin) != trial.number
    }
    listed = {
        saved.artifact: trial.number
        # What has gone on or was tried again elsewhere has taken its files along.
        for trial in one_a_network(trials)
        if trial.state != TrialState.FAIL and trial.number not in late
        for saved in decode_checkpoints(trial)
    }
    there = {path.name for path in folder.iterdir()}
    missing = sorted({number for name, number in listed.items() if name not in there})
    if missing:
        listing = ", ".join(map(str, missing[:9])) + ", ..." * (len(missing) > 9)
        return Finding(
            "problem",
            "checkpoints",
            f"files of {len(missing)} trials that list them are missing: {listing}",
            "These begin anew if they are to go on. Is it the folder that all workers share?",
        )
    size = sum((folder / name).stat().st_size for name in listed)
    return Finding(
        "ok",
        "checkpoints",
        f"all {len(listed)} that are listed are there, {size / 2**20:.1f} MB",
        "",
    )
