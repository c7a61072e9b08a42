"""UMAP in a process of its own: ``python -m optuna_aelle.visualization._umap_worker``.

It compiles, says that it is ready, and answers requests on its standard input until that ends:
with the process that asks, however it dies.
"""

from __future__ import annotations

import os
import sys
import threading
from io import RawIOBase
from queue import SimpleQueue
from typing import cast

import numpy as np

from optuna_aelle.visualization._frames import ERROR
from optuna_aelle.visualization._frames import POINTS
from optuna_aelle.visualization._frames import READY
from optuna_aelle.visualization._frames import START
from optuna_aelle.visualization._frames import FloatArray
from optuna_aelle.visualization._frames import Frame
from optuna_aelle.visualization._frames import pack_points
from optuna_aelle.visualization._frames import read_frame
from optuna_aelle.visualization._frames import unpack_request
from optuna_aelle.visualization._frames import write_frame

# Trainings go first.
_NICENESS = 5


def main() -> None:
    """Answer until nobody asks any more."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # What libraries print must not get between the frames.
    answers = cast(RawIOBase, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    requests: SimpleQueue[Frame] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    request = START
    try:
        # Compiles all that requests will need.
        _umap(np.random.default_rng(0).standard_normal((20, 4)), random_state=0)
        write_frame(answers, Frame(READY, request))
        while True:
            _, request, body = requests.get()
            try:
                points = _umap(*unpack_request(body))
            except Exception as error:  # these points; others may do
                write_frame(answers, _failure(request, error))
            else:
                write_frame(answers, Frame(POINTS, request, pack_points(points)))
    except BrokenPipeError:
        return
    except Exception as error:  # no UMAP to be had
        write_frame(answers, _failure(request, error))


def _listen(requests: SimpleQueue[Frame]) -> None:
    pipe = cast(RawIOBase, os.fdopen(0, "rb", buffering=0))
    while (frame := read_frame(pipe)) is not None:
        requests.put(frame)
    # At once, also in the middle of compiling: nobody waits for it.
    os._exit(0)


def _umap(latent: FloatArray, random_state: int) -> FloatArray:
    """Reduce latents ``(n, d)`` to ``(n, 2)``."""
    # Its parametric variant, which is not used, would load TensorFlow, and that the GPU.
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    from umap import UMAP

    reducer = UMAP(
        n_neighbors=min(15, len(latent) - 1), init="pca", random_state=random_state, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(latent), dtype=np.float64)


def _failure(request: int, error: Exception) -> Frame:
    return Frame(ERROR, request, f"{type(error).__name__}: {error}".encode())


if __name__ == "__main__":
    main()
