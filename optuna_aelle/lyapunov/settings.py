"""The settings of a spectrum, checked once for all that take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.renormalization import METHODS

Method = Literal["auto", "lu", "qr", "cholesky"]
Layers = Literal["union", "coupled"]
Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Settings:
    """The arguments of `lyapunov_spectrum` that are not data; described there.

    With ``clip_k``, ``k`` is what is wanted at most; ``sum_rule`` says whether determinants are.

    Example:
        >>> Settings(k=8, warmup=50).method
        'auto'
    """

    k: int | None = None
    clip_k: bool = False
    warmup: int = 20
    state: StateKind = "full"
    method: Method = "auto"
    interval: int | Literal["auto"] = "auto"
    layers: Layers = "union"
    direction: Direction | None = None
    dtype: torch.dtype | Literal["auto"] = "auto"
    target_stderr: float | None = None
    window: int | None = None
    sum_rule: bool = True

    def __post_init__(self) -> None:
        _one_of("method", self.method, ("auto", *METHODS))
        _one_of("state", self.state, ("full", "hidden"))
        _one_of("layers", self.layers, ("union", "coupled"))
        _one_of("direction", self.direction, (None, "forward", "backward"))
        if self.interval != "auto":
            _whole("interval", self.interval, 1, " or 'auto'")
        _whole("warmup", self.warmup, 0)
        if self.k is not None:
            _whole("k", self.k, 1)
        if self.window is not None:
            _whole("window", self.window, 1)
        if self.dtype != "auto" and self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"dtype must be a floating dtype, torch.float32 or torch.float64, or 'auto', but "
                f"got {self.dtype}."
            )
        if self.target_stderr is not None and not self.target_stderr > 0.0:
            raise ValueError(f"target_stderr must be positive, but got {self.target_stderr}.")
        if self.layers == "coupled" and self.state == "hidden":
            raise ValueError(
                "layers='coupled' needs the true map of the stack: expected state='full', got "
                "state='hidden'."
            )


def _whole(name: str, value: object, least: int, otherwise: str = "") -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{name} must be a whole number, at least {least}{otherwise}, but got {value!r}."
        )


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {choices}, but got {value!r}.")
