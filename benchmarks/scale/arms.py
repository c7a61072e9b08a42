"""What is compared, the trial that costs next to nothing, and the storages that it runs on."""

from __future__ import annotations

import math
import multiprocessing
import queue
import socket
import time
import uuid
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

import optuna_aelle as aelle
from optuna_aelle.trials.attributes import encode_spectrum

FloatArray = npt.NDArray[np.float64]

OURS, PEER = "AeLLE", "TPE + Median"
ARMS = (OURS, PEER)
N_REPORTS = 8
# Seconds that processes of one study wait for the others to be ready.
PATIENCE = 300.0
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "hidden_size": IntDistribution(16, 256, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}


def parts_of(arm: str, seed: int) -> tuple[Any, Any]:
    """Sampler and pruner of an arm."""
    if arm == OURS:
        return aelle.AeLLESampler(spectrum, seed=seed), aelle.AeLLEPruner()
    return TPESampler(seed=seed), MedianPruner()


def spectrum(params: dict[str, Any]) -> FloatArray:
    """Of an untrained network that there is not: what it costs is no matter of the storage."""
    off = abs(math.log10(params["learning_rate"]) + 2.5)
    decay = 0.05 * math.exp(off) * (1.0 + 16.0 / params["hidden_size"])
    return np.asarray(-decay * np.arange(32.0) - 0.01)


def curve(params: dict[str, Any], number: int) -> list[float]:
    """The losses that a made-up training of these parameters reports."""
    floor = abs(math.log10(params["learning_rate"]) + 2.5) / 2.5 + 0.3 * params["dropout"]
    noise = np.random.default_rng(number).standard_normal(N_REPORTS)
    return [floor + 1.0 / (i + 1) + 0.02 * float(noise[i]) for i in range(N_REPORTS)]


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    """The parameters of a trial."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "hidden_size": trial.suggest_int("hidden_size", 16, 256, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }


class Note(NamedTuple):
    """What a worker knows to have done in a trial, whatever the storage says."""

    number: int
    state: str
    params: dict[str, Any]
    values: dict[int, float]


class Cheap:
    """An objective that trains nothing; who does not read spectra reports none.

    Args:
        arm: Of `ARMS`.
        same_work: Whether a trial stops where its number says, whatever the pruner says.

    Attributes:
        notes: One a trial that has ended, in this order.
    """

    def __init__(self, arm: str, same_work: bool = False) -> None:
        self._arm, self._same_work = arm, same_work
        self.notes: list[Note] = []

    def __call__(self, trial: optuna.Trial) -> float:
        params = suggested(trial)
        if self._arm == OURS:
            aelle.report_spectrum(trial, spectrum(params), -1)
        told: dict[int, float] = {}
        for step, loss in enumerate(curve(params, trial.number)):
            trial.report(loss, step)
            told[step] = loss
            stop = trial.should_prune()
            if self._same_work:
                stop = step + 1 == (N_REPORTS, 1, 2, 4)[trial.number % 4] < N_REPORTS
            if stop:
                self.notes.append(Note(trial.number, "PRUNED", params, told))
                raise optuna.TrialPruned
        self.notes.append(Note(trial.number, "COMPLETE", params, told))
        return loss


def made(n: int, arm: str, seed: int = 0) -> list[FrozenTrial]:
    """Ended trials, two of three pruned, as an arm leaves them."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        params = {
            "learning_rate": float(10.0 ** rng.uniform(-5.0, -1.0)),
            "hidden_size": int(round(math.exp(rng.uniform(math.log(16), math.log(256))))),
            "dropout": float(rng.uniform(0.0, 0.5)),
        }
        length = N_REPORTS if number % 3 == 0 else int(rng.choice([1, 2, 4]))
        told = dict(enumerate(curve(params, number)[:length]))
        system = encode_spectrum(spectrum(params), -1) if arm == OURS else {}
        trials.append(
            create_trial(
                state=TrialState.COMPLETE if length == N_REPORTS else TrialState.PRUNED,
                value=told[length - 1],
                params=params,
                distributions=SPACE,
                intermediate_values=told,
                system_attrs=system,
            )
        )
    return trials


def open_storage(where: str) -> BaseStorage:
    """``memory``, the URL of a database, or ``grpc://HOST:PORT``."""
    if where == "memory":
        return InMemoryStorage()
    if where.startswith("grpc://"):
        from optuna.storages import GrpcStorageProxy

        host, port = where.removeprefix("grpc://").split(":")
        proxy = GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(timeout=60.0)
        return proxy
    return optuna.storages.RDBStorage(where)


def be_quiet() -> None:
    """A process says nothing of what is as it should be."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def peak_mib() -> float | None:
    """The most memory of this process so far; None where the system does not say.

    What `getrusage` says includes what its parent had when it was started.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    kib = next(line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)
    return round(int(kib) / 1024.0, 1)


def _serve(url: str, port: int) -> None:
    be_quiet()
    optuna.storages.run_grpc_proxy_server(
        optuna.storages.get_storage(url), host="127.0.0.1", port=port
    )


@contextmanager
def proxied(url: str) -> Iterator[str]:
    """The address of a gRPC proxy over a database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_serve, args=(url, port), daemon=True)
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.join()


@contextmanager
def fresh_study(where: str) -> Iterator[str]:
    """The name of a study that is deleted in the end."""
    name = f"scale-{uuid.uuid4().hex[:12]}"
    storage = open_storage(where)
    optuna.create_study(study_name=name, storage=storage)
    try:
        yield name
    finally:
        optuna.delete_study(study_name=name, storage=storage)


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its seconds, and those of them on a processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def next_result(results: Any, workers: Sequence[Any]) -> Any:
    """What one of some processes puts into a queue.

    Raises:
        RuntimeError: One of them has failed, or all have ended.
    """
    while True:
        ended = all(worker.exitcode is not None for worker in workers)
        try:
            return results.get(timeout=2.0)
        except queue.Empty:
            codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
            if ended or any(codes):
                raise RuntimeError(f"Processes ended with {codes}; see above.") from None
