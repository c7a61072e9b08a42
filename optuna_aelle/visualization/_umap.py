"""UMAP without its threads: the process that trains asks another one, which it keeps.

UMAP compiles for some 15 seconds and brings Numba's thread pool along, beside which a training
step on a busy machine can take hundreds of times as long. So neither is ever imported here.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import subprocess
import sys
import threading
import time
from io import RawIOBase
from queue import Empty
from queue import SimpleQueue
from typing import cast

from optuna_aelle._warnings import warn_once
from optuna_aelle.visualization._child import start
from optuna_aelle.visualization._frames import ERROR
from optuna_aelle.visualization._frames import READY
from optuna_aelle.visualization._frames import REQUEST
from optuna_aelle.visualization._frames import START
from optuna_aelle.visualization._frames import FloatArray
from optuna_aelle.visualization._frames import Frame
from optuna_aelle.visualization._frames import pack_request
from optuna_aelle.visualization._frames import read_frame
from optuna_aelle.visualization._frames import unpack_points
from optuna_aelle.visualization._frames import write_frame

_WORKER = "optuna_aelle.visualization._umap_worker"
# Once it has compiled, 500 points take a second or two; a busy machine may take more.
_FIT_SECONDS = 10.0
_MOST_STARTS = 2


def umap_points(latent: FloatArray, random_state: int, patience: float) -> FloatArray | None:
    """Reduce latents ``(n, d)`` to ``(n, 2)``; None where there is no UMAP, or not yet.

    Args:
        latent: Finite, at least 15 rows.
        random_state: The same points and seed give the same coordinates.
        patience: How many seconds to wait for UMAP to compile. With 0 it does so meanwhile.
    """
    return _client.points(latent, random_state, patience)


class _Dead(Exception):
    """The process has ended, or could not be started."""


class _Worker:
    """A process that runs UMAP, and the thread that hears what it says."""

    def __init__(self) -> None:
        try:
            self._process = start(_WORKER)
        except OSError as error:
            raise _Dead(f"it cannot be started: {error}") from error
        self.is_ready = False
        self._requests = cast(RawIOBase, self._process.stdin)
        self._answers = cast(RawIOBase, self._process.stdout)
        self._heard: SimpleQueue[Frame | None] = SimpleQueue()
        threading.Thread(
            target=self._listen, args=(self._answers, self._heard), name="umap", daemon=True
        ).start()

    def ask(self, request: int, body: bytes) -> None:
        try:
            write_frame(self._requests, Frame(REQUEST, request, body))
        except (OSError, ValueError) as error:
            raise _Dead(self._end()) from error

    def hear(self, deadline: float) -> Frame | None:
        """The next frame, None if there is none before ``deadline``."""
        try:
            frame = self._heard.get(timeout=max(deadline - time.monotonic(), 0.0))
        except Empty:
            return None
        if frame is None:
            raise _Dead(self._end())
        return frame

    def stop(self) -> None:
        self._requests.close()
        self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        """In a forked child: this process is the parent's, and must see the parent's pipe end."""
        self._requests.close()
        self._answers.close()
        self._process.returncode = 0

    def _end(self) -> str:
        try:
            return f"it ended with exit status {self._process.wait(timeout=5.0)}"
        except subprocess.TimeoutExpired:
            return "it does not speak any more"

    @staticmethod
    def _listen(pipe: RawIOBase, heard: SimpleQueue[Frame | None]) -> None:
        with pipe:
            while (frame := read_frame(pipe)) is not None:
                heard.put(frame)
        heard.put(None)


class _Client:
    """Asks the one process, starts it when first asked, and once more if it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._n_starts = 0
        self._request = START
        self._gave_up = False

    def points(self, latent: FloatArray, random_state: int, patience: float) -> FloatArray | None:
        if self._gave_up or not sys.executable or importlib.util.find_spec("umap") is None:
            return None
        deadline = time.monotonic() + patience
        # Another thread may be waiting for the process to compile.
        if not self._lock.acquire(timeout=patience):
            return None
        try:
            while not self._gave_up:
                try:
                    return self._points(latent, random_state, deadline, patience)
                except _Dead as death:
                    self._bury(death)
            return None
        finally:
            self._lock.release()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def abandon(self) -> None:
        if self._worker is not None:
            self._worker.abandon()
            self._worker = None

    def _points(
        self, latent: FloatArray, random_state: int, deadline: float, patience: float
    ) -> FloatArray | None:
        worker = self._start()
        while not worker.is_ready:
            frame = worker.hear(deadline)
            if frame is None:
                if patience > 0.0:
                    warn_once(
                        "UMAP not ready",
                        f"UMAP was not ready within {patience:.0f} s; PCA is drawn instead. "
                        "Draw again later.",
                    )
                return None
            if frame.kind == ERROR:
                self._give_up(frame.body.decode(errors="replace"))
                return None
            worker.is_ready = frame.kind == READY
        self._request += 1
        worker.ask(self._request, pack_request(latent, random_state))
        deadline = max(deadline, time.monotonic() + _FIT_SECONDS)
        while (frame := worker.hear(deadline)) is not None:
            if frame.request != self._request:
                continue  # the answer to a request that was given up
            if frame.kind == ERROR:
                warn_once(
                    "UMAP failed",
                    f"UMAP could not place {len(latent)} spectra "
                    f"({frame.body.decode(errors='replace')}); PCA is drawn instead.",
                )
                return None
            return unpack_points(frame.body)
        return None

    def _start(self) -> _Worker:
        if self._worker is None:
            if self._n_starts == 0:
                atexit.register(self.close)
            self._n_starts += 1
            self._worker = _Worker()
        return self._worker

    def _bury(self, death: _Dead) -> None:
        self.close()
        if self._n_starts >= _MOST_STARTS:
            self._give_up(str(death))

    def _give_up(self, why: str) -> None:
        self.close()
        self._gave_up = True
        warn_once(
            "no UMAP",
            f"The process that runs UMAP is of no use ({why}); PCA is drawn from now on. See "
            f"what `{sys.executable} -c 'import umap'` says.",
        )


_client = _Client()


def _forget_in_child() -> None:
    global _client
    _client.abandon()
    _client = _Client()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
