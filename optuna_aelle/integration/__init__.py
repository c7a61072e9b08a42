"""Callbacks for other people's training loops, and trials that report from other processes.

Each name loads when first used, and says what to install where its framework is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_aelle.integration.attaching import attach as attach
    from optuna_aelle.integration.keras import KerasCallback as KerasCallback
    from optuna_aelle.integration.keras import keras_network as keras_network
    from optuna_aelle.integration.lightning import LightningCallback as LightningCallback
    from optuna_aelle.integration.skorch import SkorchCallback as SkorchCallback
    from optuna_aelle.integration.transformers import TransformersCallback as TransformersCallback

# Where each name is, and the extra that it needs.
_HOME: dict[str, tuple[str, str | None]] = {
    "KerasCallback": ("keras", "keras"),
    "LightningCallback": ("lightning", "lightning"),
    "SkorchCallback": ("skorch", "skorch"),
    "TransformersCallback": ("transformers", "transformers"),
    "attach": ("attaching", None),
    "keras_network": ("keras", "keras"),
}

__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'optuna_aelle.integration' has no attribute {name!r}")
    module, extra = _HOME[name]
    try:
        return getattr(importlib.import_module(f"optuna_aelle.integration.{module}"), name)
    except ImportError as error:
        # What this package itself lacks is no missing extra.
        if extra is None or (error.name or "").startswith("optuna_aelle"):
            raise
        raise ImportError(
            f"{name} needs {error.name or extra}, which cannot be imported ({error}). "
            f"Install it with: pip install optuna-aelle[{extra}]",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
