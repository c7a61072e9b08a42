"""What an attribute holds, checked before it is believed: anybody may have written to a database.

Every `ValueError` here says what is wrong in a few words that do not repeat what was found, so
that a thousand damaged attributes have one cause, and one warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# A step is a number of batches at most; JSON may hold integers of any size.
MOST = 2**53


class NewerSchema(ValueError):
    """Written by a version of this package that is newer than this one."""


def check_version(payload: Any, known: int) -> Mapping[str, Any]:
    """The payload, once it is an object whose schema can be read.

    Raises:
        NewerSchema: Its schema is newer than ``known``.
        ValueError: It is no object, or has no version.
    """
    if not isinstance(payload, Mapping):
        raise ValueError("it is no object with a version")
    version = payload.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("its version is no whole number")
    if version > known:
        raise NewerSchema(
            f"it has schema version {min(version, MOST)}, but this optuna-aelle reads up to "
            f"{known}"
        )
    return payload


def whole(payload: Mapping[str, Any], name: str, least: int = 0) -> int:
    """A whole number from ``least`` on."""
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST:
        raise ValueError(f"its {name!r} is no whole number from {least} on")
    return value


def real(value: Any, name: str) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"its {name!r} holds something that is no number")
    # Before `float`, which an integer of a thousand digits overflows.
    if isinstance(value, int) and abs(value) > 1e300 or not math.isfinite(value):
        raise ValueError(f"its {name!r} holds a number that is not finite")
    return float(value)


def reals(payload: Mapping[str, Any], name: str, length: int) -> tuple[float, ...]:
    """So many finite numbers."""
    values = payload.get(name)
    if not isinstance(values, list | tuple) or len(values) != length:
        raise ValueError(f"its {name!r} is no list of {length} numbers")
    return tuple(real(value, name) for value in values)


def optional(payload: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None for null and for what is missing."""
    value = payload.get(name)
    return None if value is None else real(value, name)


def text(payload: Mapping[str, Any], name: str) -> str:
    """Some text."""
    value = payload.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name!r} is no text")
    return value


def step_of(key: str, prefix: str) -> int:
    """The step that a key ``{prefix}{step}`` ends in; −1 is the untrained network."""
    digits = key[len(prefix) :]
    if digits == "-1":
        return -1
    if not digits.isascii() or not digits.isdigit() or len(digits) > 16:
        raise ValueError("its key does not end in a step")
    return int(digits)
