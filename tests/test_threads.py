"""The package is a guest in a training process: threads, seeds and modes are as they were before.

What is looked at runs in processes of its own, ``python -m tests.test_threads NAME``, since the
counts of a process that has run other tests say little.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optuna_aelle import _threads
from optuna_aelle._threads import _OneThread
from optuna_aelle._threads import _Pool

ROOT = Path(__file__).parent.parent
CALLS = [
    "lyapunov_spectrum",
    "lyapunov_spectra",
    "spectral_fingerprint",
    "report_network",
    "regressor",
    "predictor",
    "study",
    "search",
    "prior",
    "replay",
    "callback",
    "plots",
]


def run(name: str, n_threads: int, *arguments: str, timeout: float = 300.0) -> Any:
    """What ``main(name)`` returns in a fresh process that has ``n_threads`` for everything."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_threads", name, str(n_threads), *arguments],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(variables, str(n_threads)),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def changes(request: pytest.FixtureRequest) -> dict[str, dict[str, list[Any]]]:
    """By call, what it has changed in its process: before and after."""
    found: dict[str, dict[str, list[Any]]] = run("calls", request.param)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_its_process_as_it_was(
    call: str, changes: dict[str, dict[str, list[Any]]]
) -> None:
    assert changes[call] == {}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_training_beside_the_plots_is_as_fast_as_before() -> None:
    """Numba's pool once made a step that shares a core take 2.75 s instead of 0.005 s."""
    before, after = run("steps", 1)
    assert after < 3.0 * before


@pytest.fixture
def busy() -> Iterator[None]:
    """As many processes that only count as there are cores."""
    counting = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    yield
    for process in counting:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_study_of_two_threads_ends_on_a_busy_machine(busy: None, tmp_path: Path) -> None:
    found = run("busy", 2, f"sqlite:///{tmp_path / 'study.db'}", timeout=240.0)
    assert found == {"trials": 30, "plots": 5, "warnings": []}


@pytest.mark.slow
def test_fits_and_spectra_at_once_leave_the_pools_as_they_were() -> None:
    """Each lifts the limits that it has set, and no others."""
    assert run("beside", 2) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_computes_as_before() -> None:
    """Whatever was under way in its parent, and whoever held the lock."""
    before, limited, in_child, after = run("forked", 2, timeout=60.0)
    assert set(limited) <= {1}
    assert in_child == before == after


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The one pool that is loaded, as the limits that it was given, the latest last."""
    limits = [4]
    monkeypatch.setattr(_threads, "_pools", lambda: (_Pool(lambda: limits[-1], limits.append),))
    return limits


def test_who_cannot_look_for_pools_limits_none(
    pool: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_thread = _OneThread()

    def failing() -> tuple[_Pool, ...]:
        raise OSError("no such library")

    with monkeypatch.context() as patch:
        patch.setattr(_threads, "_pools", failing)
        with pytest.raises(OSError, match="no such library"), one_thread:
            pass
    with one_thread, one_thread:
        assert pool == [4, 1]
    assert pool == [4, 1, 4]


def test_a_library_that_has_gone_is_no_pool(tmp_path: Path) -> None:
    assert _threads._openblas_pool(str(tmp_path / "libopenblas.so")) is None


# What follows runs in a process of its own.


def thread_counts() -> dict[str, int]:
    """Threads of torch and of every pool that is loaded."""
    import threadpoolctl
    import torch

    pools = {
        f"{pool['user_api']} {pool['filepath']}": pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
    }
    return {
        **pools,
        "torch": torch.get_num_threads(),
        "torch, between operations": torch.get_num_interop_threads(),
    }


def snapshot(model: Any) -> dict[str, Any]:
    """All that a call could change for the training around it."""
    import torch

    return {
        **thread_counts(),
        "torch random state": torch.get_rng_state().sum().item(),
        "torch gradients": torch.is_grad_enabled(),
        "torch inference mode": torch.is_inference_mode_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch dtype": str(torch.get_default_dtype()),
        "torch precision": torch.get_float32_matmul_precision(),
        "numpy random state": str(np.random.get_state()),
        "numpy errors": np.geterr(),
        "random state": hash(random.getstate()),
        "train mode": [module.training for module in model.modules()],
        "requires gradient": [p.requires_grad for p in model.parameters()],
        "has gradient": [p.grad is not None for p in model.parameters()],
        "weights": [p.detach().double().sum().item() for p in model.parameters()],
        "warning filters": [str(entry) for entry in warnings.filters],
        "control-C": str(signal.getsignal(signal.SIGINT)),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "nice": os.nice(0) if hasattr(os, "nice") else None,
        "folder": os.getcwd(),
        "umap": "umap" in sys.modules,
        "compiler's threads": numba_has_threads(),
        **{f"${name}": value for name, value in os.environ.items()},
    }


def numba_has_threads() -> bool:
    """Whether the pool of compiled code that runs in parallel has started: ours does not."""
    pool = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(pool, "_is_initialized", False))


def all_calls() -> dict[str, dict[str, list[Any]]]:
    """By call, what differs afterwards; pools that a call brings along count from then on."""
    import optuna

    # Importing them may add warning filters, which is no call's doing.
    import optuna_dashboard  # noqa: F401
    import pandas  # noqa: F401
    import plotly.graph_objs
    import scipy.stats  # noqa: F401
    import sklearn.base
    import sklearn.tree  # noqa: F401
    import torch

    import optuna_aelle as aelle
    from tests.conftest import made_trials
    from tests.conftest import run_synthetic
    from tests.conftest import synthetic_spectrum

    plotly.graph_objs.Figure()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    model = torch.nn.LSTM(2, 16, num_layers=2, dropout=0.1)
    model.bias_hh_l0.requires_grad_(False)
    inputs = torch.randn(60, 3, 2)
    trials = made_trials(30)
    spectra = np.stack([list(aelle.decode_spectra(trial).values())[-1] for trial in trials])
    study = optuna.create_study()
    study.add_trials(trials)
    rng = np.random.default_rng(0)
    sampler = aelle.AeLLESampler(lambda params: synthetic_spectrum(params["noise"], rng), seed=0)

    def regressor() -> None:
        fitted = aelle.AeLLERegressor().fit(spectra, [trial.value for trial in trials])
        fitted.predict(spectra, return_std=True)
        fitted.transform(spectra)

    def predictor() -> None:
        fitted = aelle.PerformancePredictor().fit(trials)
        fitted.predict(trials, step=2)
        fitted.forecast(trials[0], step=-1)

    def short_study(callbacks: bool = False) -> None:
        pruner = aelle.AeLLEPruner(n_startup_trials=8)
        own = optuna.create_study(pruner=pruner, sampler=sampler)
        run_synthetic(own, 25)
        if callbacks:
            keep = aelle.DashboardCallback(1, 0.0)
            own.optimize(lambda trial: 0.0, n_trials=3, callbacks=[keep])

    def search() -> None:
        def objective(trial: optuna.Trial) -> float:
            noise = trial.suggest_float("noise", 0.0, 1.0)
            for step in range(4):
                trial.report(noise / (step + 1), step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return noise

        own = optuna.create_study(pruner=aelle.AeLLEPruner(), sampler=sampler)
        own.optimize(objective, n_trials=12)

    def prior() -> None:
        recorded = aelle.RecordedTrials.from_study(study)
        learned = aelle.Prior.learn([recorded], base=aelle.Prior.pretrained())
        learned.predict(trials, step=2)

    def replay() -> None:
        recorded = aelle.RecordedTrials.from_study(study)
        aelle.replay(recorded, {"AeLLE": lambda: aelle.AeLLEPruner()}, n_repeats=1)

    calls: dict[str, Callable[[], Any]] = {
        "lyapunov_spectrum": lambda: aelle.lyapunov_spectrum(model, inputs),
        "lyapunov_spectra": lambda: aelle.lyapunov_spectra([model, model], inputs),
        "spectral_fingerprint": lambda: aelle.spectral_fingerprint(model, inputs),
        "report_network": lambda: aelle.report_network(study.ask(), model, inputs, step=-1),
        "regressor": regressor,
        "predictor": predictor,
        "study": short_study,
        "search": search,
        "prior": prior,
        "replay": replay,
        "callback": lambda: short_study(callbacks=True),
        "plots": lambda: aelle.save_dashboard_plots(study),
    }
    assert list(calls) == CALLS
    changes = {}
    for name, call in calls.items():
        before = snapshot(model)
        call()
        after = snapshot(model)
        names = [*before, *[n for n in after if n.startswith("$")]]
        changes[name] = {
            n: [before.get(n), after.get(n)] for n in names if before.get(n) != after.get(n)
        }
    return changes


def step_seconds() -> list[float]:
    """Median seconds of an LSTM's training step on one core, before and after the plots."""
    import optuna
    import torch

    import optuna_aelle as aelle
    from tests.conftest import made_trials

    model = torch.nn.LSTM(8, 64)
    inputs = torch.randn(50, 16, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    cores = os.sched_getaffinity(0)

    def median() -> float:
        # Only now: a pool that is started on one core would have one thread anyway.
        os.sched_setaffinity(0, [min(cores)])
        times = []
        for _ in range(51):
            started = time.perf_counter()
            optimizer.zero_grad()
            model(inputs)[0].square().mean().backward()
            optimizer.step()
            times.append(time.perf_counter() - started)
        os.sched_setaffinity(0, cores)
        return statistics.median(times)

    study = optuna.create_study()
    study.add_trials(made_trials(30))
    before = median()
    aelle.save_dashboard_plots(study)
    return [before, median()]


def busy_study(storage: str) -> dict[str, Any]:
    """Two threads train, report and draw, all at once."""
    import optuna
    import torch

    import optuna_aelle as aelle

    probe = torch.randn(30, 2, 1)

    def objective(trial: optuna.Trial) -> float:
        rnn = torch.nn.LSTM(1, trial.suggest_int("hidden_size", 4, 16))
        optimizer = torch.optim.Adam(rnn.parameters(), trial.suggest_float("lr", 1e-3, 1e-1))
        loss = torch.tensor(0.0)
        for epoch in range(5):
            aelle.report_network(trial, rnn, probe, step=epoch)
            loss = (rnn(probe)[0].mean(-1) - probe[..., 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trial.report(loss.item(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss.item()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, pruner=aelle.AeLLEPruner())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", aelle.AeLLEWarning)
        callbacks = [aelle.DashboardCallback(2, 0.0)]
        study.optimize(objective, n_trials=30, n_jobs=2, callbacks=callbacks)
    plots = {
        key.split(":")[2]
        for key in study._storage.get_study_system_attrs(study._study_id)
        if key.startswith("dashboard:plot_data:")
    }
    said = [str(w.message) for w in caught if w.category is aelle.AeLLEWarning]
    return {"trials": len(study.trials), "plots": len(plots), "warnings": said}


def fits_beside_spectra() -> dict[str, list[int]]:
    """Which thread counts differ after two threads have worked for some seconds: before, after."""
    import torch

    import optuna_aelle as aelle

    model, inputs = torch.nn.GRU(1, 24), torch.randn(40, 2, 1)
    rng = np.random.default_rng(0)
    spectra, scores = -rng.uniform(size=(12, 32)), rng.uniform(size=12)
    jobs: list[Callable[[], Any]] = [
        lambda: aelle.lyapunov_spectrum(model, inputs),
        lambda: aelle.AeLLERegressor(n_steps=40).fit(spectra, scores),
    ]
    for job in jobs:
        job()
    before = thread_counts()
    end = time.monotonic() + 4.0

    def repeat(job: Callable[[], Any]) -> None:
        while time.monotonic() < end:
            job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(repeat, jobs))
    after = thread_counts()
    return {n: [count, after[n]] for n, count in before.items() if after[n] != count}


def counts_around_a_fork() -> list[list[int]]:
    """Threads of OpenBLAS before a limit, within it, in a process forked there, and after it."""

    def counts() -> list[int]:
        return [pool.n_threads() for pool in _threads._pools()]

    before = counts()
    ours, theirs = os.pipe()
    with _threads.one_thread:
        limited = counts()
        lock = _threads.one_thread._lock
        with lock:
            child = os.fork()
        if child == 0:
            assert _threads.one_thread._lock is not lock
            with _threads.one_thread:
                np.ones((300, 300)) @ np.ones((300, 300))
            os.write(theirs, json.dumps(counts()).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as told:
            in_child = json.load(told)
        os.waitpid(child, 0)
    return [before, limited, in_child, counts()]


def main(name: str, n_threads: str, *arguments: str) -> None:
    import torch

    torch.set_num_threads(int(n_threads))
    jobs: dict[str, Callable[..., Any]] = {
        "calls": all_calls,
        "steps": step_seconds,
        "busy": busy_study,
        "beside": fits_beside_spectra,
        "forked": counts_around_a_fork,
    }
    print(json.dumps(jobs[name](*arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
