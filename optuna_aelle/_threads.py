"""Products that are too small to share: NumPy and SciPy compute them in the thread that calls."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any
from typing import NamedTuple


class _Pool(NamedTuple):
    """A thread pool of the whole process."""

    n_threads: Callable[[], int]
    limit: Callable[[int], Any]


class _OneThread:
    """Limits the pools of OpenBLAS to one thread while something of this package is under way.

    Where other processes share the cores, whoever computes waits for the threads of its pool, each
    time as long as the system lets others run. The limit is one of the whole process: the first
    that is under way sets it, the last one lifts it. Pools that others have limited already are
    left to them, lest their limit be restored after they have lifted it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limited: list[tuple[_Pool, int]] = []

    def __enter__(self) -> None:
        pools = _pools()
        with self._lock:
            self._users += 1
            for pool in pools if self._users == 1 else ():
                n_threads = pool.n_threads()
                if n_threads > 1:
                    self._limited.append((pool, n_threads))
                    pool.limit(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            # In a forked process nothing is under way any more.
            self._users = max(self._users - 1, 0)
            if self._users == 0:
                self._lift()

    def _lift(self) -> None:
        while self._limited:
            pool, n_threads = self._limited.pop()
            pool.limit(n_threads)

    def forget_in_child(self) -> None:
        """Of a process that was forked: what other threads had begun, nobody here will end."""
        self._lock, self._users = threading.Lock(), 0
        self._lift()


one_thread = _OneThread()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_thread.forget_in_child)


@cache
def _pools() -> tuple[_Pool, ...]:
    """The pools of OpenBLAS that are loaded; none without threadpoolctl.

    It finds them, and no more: its newer versions (3.8 is one) let that thread alone lift a limit
    that has set it, which need not be the last one out. An OpenBLAS built on OpenMP counts for
    each thread.
    """
    try:
        import scipy.linalg  # noqa: F401  # brings one of its own
        from threadpoolctl import threadpool_info
    except ImportError:
        return ()
    return tuple(
        pool
        for info in threadpool_info()
        if info["internal_api"] == "openblas" and info.get("threading_layer") == "pthreads"
        if (pool := _openblas_pool(info["filepath"])) is not None
    )


def _openblas_pool(path: str) -> _Pool | None:
    try:
        library = ctypes.CDLL(path)
    except OSError:  # moved or replaced since it was loaded
        return None
    for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
        count, limit = (
            getattr(library, f"{prefix}openblas_{what}_num_threads{suffix}", None)
            for what in ("get", "set")
        )
        if count is not None and limit is not None:
            return _Pool(count, limit)
    return None
