"""Processes that a test starts and that never outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def started(
    module: str, *arguments: str, n: int = 1, seconds: float = 300.0, stderr: int | None = None
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run a module in ``n`` processes, whose output can be read; in the end they are killed.

    So they are after ``seconds``: whoever reads what they print finds its end, and waits no more.
    """
    processes: list[subprocess.Popen[str]] = []

    def kill() -> None:
        for process in processes:
            process.kill()

    too_late = threading.Timer(seconds, kill)
    too_late.daemon = True
    too_late.start()
    try:
        for _ in range(n):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            )
        yield processes
    finally:
        too_late.cancel()
        kill()
        for process in processes:
            # Closes its pipe, too.
            process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that it prints; empty once it has ended."""
    assert process.stdout is not None
    return process.stdout.readline()
