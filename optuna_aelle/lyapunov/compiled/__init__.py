"""The step loop as machine code, for the CPU: where it applies, it is faster at every size.

Compiled by Numba at the first use on a machine, which takes some seconds, and kept for later
processes. Without Numba everything runs through PyTorch, with the same results.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.plan import Plan

if TYPE_CHECKING:
    from optuna_aelle.lyapunov.compiled.carrier import CompiledCarrier

# Above this size of the state the operations of PyTorch take no longer, and use all its threads.
_MAX_SIZE = 1024
# Doubles in the widest vector of any processor.
_MAX_LANES = 8
# From here on several threads share a product of the state with the weights.
_MAX_THREADED_STATE = 128
# Some way above where numbers lose digits.
_LEAST_NORMAL = 1e-290
_enabled: ContextVar[bool] = ContextVar("compiled", default=True)


def carrier_for(
    layer: RecurrentMap, state: State, frame: Tensor, plan: Plan
) -> CompiledCarrier | None:
    """A carrier in compiled code; None where that is not to be had, or not asked for.

    Example:
        >>> from optuna_aelle.lyapunov.maps.base import Parameters
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([torch.nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> plan = Plan(0, (9, 9), frozenset({9}), "qr", None, None, sum_rule=False)
        >>> start = layer.initial_state(1, 2, None)
        >>> carrier_for(layer, start, torch.eye(4).double().repeat(2, 1, 1), plan) is None
        True
    """
    asked = plan.method in ("auto", "lu") and plan.interval in (None, 1)
    asked &= plan.frame_dtype in (None, torch.float64)
    size = frame.shape[2]
    if not asked or frame.device.type != "cpu" or size > _MAX_SIZE or loaded() is None:
        return None
    if layer.compact() is None and size > layer.dense_state_size:
        return None
    from optuna_aelle.lyapunov.compiled.carrier import CompiledCarrier

    return CompiledCarrier(layer, state, frame, plan)


def loaded() -> ModuleType | None:
    """The compiled functions, loaded when they are first asked for; None where there are none.

    Example:
        >>> with general_path():
        ...     print(loaded())
        None
    """
    return _load() if _enabled.get() else None


def runs_states(size: int, device: torch.device) -> ModuleType | None:
    """The compiled functions where they also run the state faster than PyTorch with its threads.

    Example:
        >>> runs_states(16, torch.device("meta")) is None
        True
    """
    many_threads = size > _MAX_THREADED_STATE and torch.get_num_threads() > 1
    return None if device.type != "cpu" or many_threads else loaded()


def padded(weights_t: Tensor) -> npt.NDArray[np.float64]:
    """``weights_t (M, H, G)`` with rows that are whole vectors, as the compiled code reads them.

    Example:
        >>> padded(torch.zeros(1, 3, 5)).shape[2] % 4
        0
    """
    width = weights_t.shape[2]
    wide = np.zeros((*weights_t.shape[:2], -(-width // _MAX_LANES) * _MAX_LANES))
    wide[:, :, :width] = weights_t.numpy()
    return wide


def sum_of_logs(derivatives: Tensor) -> Tensor | None:
    """Σ ln|d| over the last axis, or None where some are too small for it to be accurate.

    A sum with NaN is NaN.

    Example:
        >>> sum_of_logs(torch.tensor([[0.5, -1.0], [1.0, 1.0]]).double())
        tensor([-0.6931,  0.0000], dtype=torch.float64)
    """
    sums = derivatives.new_empty(derivatives.shape[:-1])
    rows = derivatives.reshape(-1, derivatives.shape[-1])
    functions = _load()
    assert functions is not None  # who has derivatives has them from there
    smallest = functions.sum_of_logs(rows.numpy(), sums.view(-1).numpy())
    return sums if smallest > _LEAST_NORMAL else None


@contextmanager
def general_path() -> Iterator[None]:
    """Without compiled code for a while, in this thread: for comparisons.

    Example:
        >>> from optuna_aelle.lyapunov import lyapunov_spectrum
        >>> with general_path():
        ...     spectrum = lyapunov_spectrum(torch.nn.GRU(3, 8), torch.randn(40, 2, 3))
        >>> spectrum.computations[0].compiled
        False
    """
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


@cache
def _load() -> ModuleType | None:
    if (
        importlib.util.find_spec("numba") is None
        or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
    ):
        return None
    try:
        from optuna_aelle.lyapunov.compiled import functions

        functions.carry_once()
    except Exception as error:  # whatever an installation that does not fit may raise
        warnings.warn(
            f"Spectra are computed without compiled code, several times slower: Numba could not "
            f"be loaded ({type(error).__name__}: {error}). Reinstall numba and llvmlite, or "
            "uninstall them to silence this.",
            UserWarning,
            stacklevel=2,
        )
        return None
    return functions
