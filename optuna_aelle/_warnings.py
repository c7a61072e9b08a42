"""One warning per cause: a study runs overnight, and its log should stay readable."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_seen: set[tuple[str, str]] = set()
_lock = threading.Lock()


class AeLLEWarning(UserWarning):
    """Something could not be used; the study goes on without it.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", AeLLEWarning)  # an error instead
    """


def warn_once(occasion: str, message: str, error: Exception | None = None) -> None:
    """Warn with ``message``, the first time in this process that a cause comes up.

    Args:
        occasion: What was being done.
        message: What to say.
        error: Why it failed: errors of one type that say different things are different causes;
            names and numbers in what they say do not count.
    """
    with _lock:
        cause = (occasion, "" if error is None else _kind(error))
        if cause in _seen:
            return
        _seen.add(cause)
    warnings.warn(message, AeLLEWarning, stacklevel=3)


@contextmanager
def told_apart() -> Iterator[None]:
    """What is warned of within is no cause that was told outside: it is forgotten at the end."""
    with _lock:
        before = set(_seen)
    try:
        yield
    finally:
        with _lock:
            _seen.intersection_update(before)


def forget_warnings() -> None:
    """Let every cause warn again."""
    with _lock:
        _seen.clear()


def _kind(error: Exception) -> str:
    # What is quoted, and words with digits in them, are names, numbers and addresses.
    said = re.sub(r"'[^']*'|\"[^\"]*\"|\S*[0-9]\S*", "#", str(error))
    return f"{type(error).__name__}: {said[:200]}"
