"""How to start a process that draws: as this one would, but with one thread and on its own."""

from __future__ import annotations

import os
import subprocess
import sys

_THREAD_VARIABLES = (
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def start(module: str) -> subprocess.Popen[bytes]:
    """Run a module of this package in a process that is talked to over its standard streams.

    Raises:
        OSError: It cannot be started.
    """
    if not sys.executable:
        raise OSError("nobody knows which Python this is")
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=_environment(),
        # Control-C is for the study; it ends, and this process with it.
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    # It finds what this process finds, and nothing else from the current folder.
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment["PYTHONSAFEPATH"] = "1"
    return environment | dict.fromkeys(_THREAD_VARIABLES, "1")
