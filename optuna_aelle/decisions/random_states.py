"""The random states of a caller's process are the caller's."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any

import numpy as np


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Building candidates draws weights, of which the trainings of the study should not notice.

    The states are the process's. In a thread of its own a study trains networks beside this one:
    putting the states back would make those draw the same numbers again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    torch: Any = sys.modules.get("torch")
    forked = nullcontext()
    if torch is not None:
        # Asking for the devices would start CUDA where nobody has used it yet.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        forked = torch.random.fork_rng(devices)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with forked:
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
