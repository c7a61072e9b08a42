"""Thread counts are those of the process around, in whatever order threads come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import scipy.linalg  # noqa: F401
import torch
from threadpoolctl import threadpool_info
from threadpoolctl import threadpool_limits
from torch import nn

from optuna_aelle._threads import _pools
from optuna_aelle.aelle import AeLLERegressor
from optuna_aelle.aelle import autoencoder
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov import spectral_fingerprints
from optuna_aelle.lyapunov.lapack import single_threaded


def counts() -> dict[str, int]:
    pools = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    return {**pools, "torch": torch.get_num_threads()}


def blas_counts() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(params=[1, 2], ids=["torch 1", "torch 2"])
def n_torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Two threads for every LAPACK, and one or two for PyTorch."""
    before = torch.get_num_threads()
    pools = _pools()
    of_pools = [pool.n_threads() for pool in pools]
    torch.set_num_threads(request.param)
    for pool in pools:
        pool.limit(2)
    yield request.param
    torch.set_num_threads(before)
    for pool, n_threads in zip(pools, of_pools, strict=True):
        pool.limit(n_threads)


def spectra() -> None:
    lyapunov_spectrum(nn.GRU(1, 70), torch.zeros(40, 2, 1))


def fingerprints() -> None:
    networks = [nn.GRU(1, 6), nn.Sequential(nn.Linear(1, 2), nn.LSTM(2, 70))]
    spectral_fingerprint(networks[1], torch.zeros(40, 2, 1))
    spectral_fingerprints(networks, torch.zeros(40, 2, 1))


def regressor() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    AeLLERegressor(n_steps=5).fit(rows, rows[:, 0]).predict(rows, return_std=True)


@pytest.mark.parametrize("call", [spectra, fingerprints, regressor])
def test_counts_are_as_they_were(call: Callable[[], None], n_torch_threads: int) -> None:
    before = counts()
    call()
    after = counts()
    assert {pool: after[pool] for pool in before} == before
    assert torch.get_num_threads() == n_torch_threads


def overlapping(
    first: Callable[[], AbstractContextManager[Any]],
    second: Callable[[], AbstractContextManager[Any]],
) -> tuple[set[int], set[int]]:
    """Two threads: the first enters, the second enters, the first leaves, the second leaves.

    Returns the counts while both are inside, and those of the second once it is alone.
    """
    entered, both, left, done = (threading.Event() for _ in range(4))
    seen: list[set[int]] = []
    n_threads = torch.get_num_threads()

    def early() -> None:
        torch.set_num_threads(n_threads)
        with first():
            entered.set()
            both.wait(10.0)
        left.set()
        # Alive until the end, as the main thread of a study is.
        done.wait(10.0)

    def late() -> None:
        torch.set_num_threads(n_threads)
        entered.wait(10.0)
        with second():
            seen.append(blas_counts())
            both.set()
            left.wait(10.0)
            seen.append(blas_counts())
        done.set()

    threads = [threading.Thread(target=target) for target in (early, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen[0], seen[1]


def test_the_last_one_out_lifts_the_limit(n_torch_threads: int) -> None:
    before = counts()
    both, alone = overlapping(lambda: single_threaded, lambda: single_threaded)
    # SciPy's LAPACK is used where PyTorch has one thread, and only there it is limited.
    assert both == alone == ({1} if n_torch_threads == 1 else {2})
    assert counts() == before


def test_a_limit_that_someone_else_lifts_meanwhile_stays_lifted(n_torch_threads: int) -> None:
    before = counts()
    overlapping(lambda: threadpool_limits(1), lambda: single_threaded)
    assert counts() == before


def test_a_thread_count_that_changes_inside_does_not_confuse_it(n_torch_threads: int) -> None:
    before = counts()
    with single_threaded:
        torch.set_num_threads(3 - n_torch_threads)
        with single_threaded:
            pass
    torch.set_num_threads(n_torch_threads)
    assert counts() == before
    with single_threaded:
        assert blas_counts() == ({1} if n_torch_threads == 1 else {2})


def test_two_fits_at_once(n_torch_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is in the midst of its training as the other starts and ends."""
    initialise = autoencoder._initialise
    gate = threading.Barrier(2)

    def together(*args: Any) -> Any:
        gate.wait(10.0)
        return initialise(*args)

    monkeypatch.setattr(autoencoder, "_initialise", together)
    before = counts()
    changed: list[dict[str, tuple[int, int]]] = []

    def fit(n_steps: int) -> None:
        # A new thread has PyTorch's count as its own from the first question on.
        torch.get_num_threads()
        own = counts()
        rows = np.random.default_rng(0).normal(size=(12, 8))
        AeLLERegressor(n_steps=n_steps).fit(rows, rows[:, 0])
        after = counts()
        changed.append({k: (v, after[k]) for k, v in own.items() if after[k] != v})

    threads = [threading.Thread(target=fit, args=(n,)) for n in (2, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changed == [{}, {}]
    assert counts() == before


def test_a_fit_in_a_new_thread_leaves_it_the_count_of_all(n_torch_threads: int) -> None:
    seen: list[int] = []

    def fit() -> None:
        regressor()
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert seen == [n_torch_threads]
