"""Keras, on torch: whoever has not chosen where it runs gets what the engine reads."""

from __future__ import annotations

import os
import sys

if "keras" not in sys.modules:
    # Read when Keras is imported, and never again.
    os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

__all__ = ["check_backend", "keras"]


def check_backend() -> None:
    """Say so if Keras runs on something else.

    Raises:
        RuntimeError: It does.

    Example:
        >>> check_backend()
    """
    backend = keras.backend.backend()
    if backend != "torch":
        raise RuntimeError(
            f"Expected Keras on torch, but it runs on {backend}. Set the environment variable "
            "KERAS_BACKEND=torch before keras is imported."
        )
