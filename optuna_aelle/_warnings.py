"""One warning per cause: a study runs overnight, and its log should stay readable."""

from __future__ import annotations

import threading
import warnings

_seen: set[str] = set()
_lock = threading.Lock()


class AeLLEWarning(UserWarning):
    """Something could not be used; the study goes on without it."""


def warn_once(cause: str, message: str) -> None:
    """Warn with ``message``, the first time in this process that ``cause`` comes up."""
    with _lock:
        if cause in _seen:
            return
        _seen.add(cause)
    warnings.warn(message, AeLLEWarning, stacklevel=3)


def forget_warnings() -> None:
    """Let every cause warn again."""
    with _lock:
        _seen.clear()
