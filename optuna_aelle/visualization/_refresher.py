"""Fresh figures while a study trains: another process draws them, a thread here waits for it.

Drawing a thousand trials takes seconds of Python, in which no other thread of a process gets far.
So this process only asks. Where the storage can be opened again (`trials.reopening`), the other
process reads and writes it itself; of one that lives in this process alone it is sent the trials,
as JSON, and sends back what is to be written. Nothing is pickled.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable
from collections.abc import Iterator
from io import RawIOBase
from typing import Any
from typing import cast

import optuna

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.reopening import address_of
from optuna_aelle.trials.storage import study_identity
from optuna_aelle.visualization._child import start
from optuna_aelle.visualization._panels import Drawn
from optuna_aelle.visualization._panels import keep
from optuna_aelle.visualization._snapshot import encode_snapshot
from optuna_aelle.visualization._trial_note import noted_trials

_WORKER = "optuna_aelle.visualization._refresh_worker"
# Notes that one refresh writes: a study that was there before gets its notes little by little.
NOTES_A_REFRESH = 40
# How long a refresh may take, generously, and how long the end of a process waits for one.
_MOST_SECONDS = 300.0
_LAST_SECONDS = 10.0


class RefreshFailed(RuntimeError):
    """The process that draws has said what went wrong, or nothing any more."""


class Refresher:
    """Asks the one process that draws, which it starts when it is first needed."""

    def __init__(self) -> None:
        self._drawing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._is_registered = False
        self._is_closing = False
        self._unopened: set[str] = set()

    def ask(self, study: optuna.Study, ended: Callable[[Exception | None], None]) -> None:
        """Have the figures of a study drawn and kept; ``ended`` hears of it, from a thread."""
        if not self._is_registered:
            atexit.register(self.close)
            self._is_registered = True
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._run, args=(study, ended), name="aelle-dashboard", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether nothing is being drawn any more, after at most so many seconds."""
        for thread in list(self._threads):
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Let the refresh that is under way be completed, or drop it; end the other process."""
        self._is_closing = True
        # Control-C: at once.
        with contextlib.suppress(KeyboardInterrupt):
            self.wait(_LAST_SECONDS)
        self._stop()

    def abandon(self) -> None:
        """In a forked child: the process is the parent's, and must see the parent's pipe end."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                cast(RawIOBase, pipe).close()
            self._process.returncode = 0

    def _run(self, study: optuna.Study, ended: Callable[[Exception | None], None]) -> None:
        failure: Exception | None = None
        try:
            with self._drawing:
                if not self._is_closing:
                    self._refresh(study)
        except Exception as error:  # the study goes on; whoever asked warns
            failure = error
        if not self._is_closing:
            ended(failure)

    def _refresh(self, study: optuna.Study) -> None:
        address = address_of(study_identity(study)[0])
        told = json.dumps(address)
        if address is not None and told not in self._unopened:
            answer = self._answer([json.dumps({"address": address, "study": study.study_name})])
            if not answer.get("unopened"):
                self._end(study, answer)
                return
            # Reached in a way that cannot be told: its trials are sent from now on.
            self._unopened.add(told)
        pieces = encode_snapshot(study, noted_trials(study))
        self._end(study, self._answer(pieces))

    def _end(self, study: optuna.Study, answer: dict[str, Any]) -> None:
        for message in answer.get("warnings", ()):
            # Each process that draws tells it anew, perhaps of another trial.
            warn_once("while drawing", message, RefreshFailed(message))
        if "error" in answer:
            raise RefreshFailed(answer["error"])
        if "figures" in answer:
            notes = {int(number): text for number, text in answer["notes"].items()}
            ended, seen = answer["progress"]
            keep(study, Drawn((ended, seen), answer["figures"], notes))

    def _answer(self, pieces: list[str] | Iterator[str]) -> dict[str, Any]:
        """What the other process answers to one line, written piece by piece."""
        if self._process is not None and self._process.poll() is not None:
            # It had nothing to do for a while.
            self._stop()
        if self._process is None:
            self._process = start(_WORKER)
        process = self._process
        watch = threading.Timer(_MOST_SECONDS, process.kill)
        watch.daemon = True
        watch.start()
        try:
            requests = cast(RawIOBase, process.stdin)
            for piece in pieces:
                _write(requests, piece.encode())
            _write(requests, b"\n")
            line = cast(RawIOBase, process.stdout).readline()
        except OSError as error:
            self._stop()
            raise RefreshFailed(f"the process that draws has ended: {error}") from error
        finally:
            watch.cancel()
        if not line.endswith(b"\n"):
            self._stop()
            raise RefreshFailed("the process that draws has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    cast(RawIOBase, pipe).close()
            self._process = None


def _write(pipe: RawIOBase, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[pipe.write(left) or 0 :]


_refresher = Refresher()


def refresher() -> Refresher:
    """The one of this process."""
    return _refresher


def _forget_in_child() -> None:
    global _refresher
    _refresher.abandon()
    _refresher = Refresher()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
