"""From what a user has (a module, a cell, a step function) to the layers that the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.maps import GRUMap
from optuna_aelle.lyapunov.maps import LSTMMap
from optuna_aelle.lyapunov.maps import RecurrentMap
from optuna_aelle.lyapunov.maps import StateKind
from optuna_aelle.lyapunov.maps import StepMap
from optuna_aelle.lyapunov.maps import VanillaMap
from optuna_aelle.lyapunov.maps import Weights

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True, eq=False)
class StepModel:
    """A step function with the sizes that the engine needs; made by `from_step`."""

    step: Callable[[Tensor, Tensor], Tensor]
    state_size: int
    input_size: int = 0
    batch_first: bool = False


def from_step(
    step: Callable[[Tensor, Tensor], Tensor],
    state_size: int,
    *,
    input_size: int = 0,
    batch_first: bool = False,
) -> StepModel:
    """Make any step function a model that `lyapunov_spectrum` takes.

    Args:
        step: Maps ``x (B, D)`` and ``h (B, N)`` to the next ``h (B, N)``, each sequence by itself;
            differentiable by `torch.func`. It runs in the dtype of the inputs.
        state_size: N.
        input_size: D; 0 for an autonomous map, whose inputs are ``torch.zeros(T, B, 0)``.
        batch_first: Whether inputs come as ``(B, T, D)`` instead of ``(T, B, D)``.
    """
    if state_size < 1:
        raise ValueError(f"state_size must be at least 1, but got {state_size}.")
    if input_size < 0:
        raise ValueError(f"input_size must be nonnegative, but got {input_size}.")
    return StepModel(step, state_size, input_size, batch_first)


def find_recurrent(model: object) -> nn.RNNBase | nn.RNNCellBase | StepModel:
    """The one recurrent module that ``model`` is or holds.

    Raises:
        TypeError: ``model`` is neither a module nor a `StepModel`.
        ValueError: It holds no recurrent module, or several.
    """
    if isinstance(model, (*_RECURRENT, StepModel)):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            "Expected a torch.nn.RNN, LSTM, GRU, one of their cells, a module that holds one of "
            f"them, or a StepModel, got {type(model).__name__}. "
            "Wrap a step function with optuna_aelle.lyapunov.from_step."
        )
    found = {name: m for name, m in model.named_modules() if isinstance(m, _RECURRENT)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ValueError(
            f"Expected {type(model).__name__} to hold one recurrent module, found none. "
            "For a cell of your own, pass optuna_aelle.lyapunov.from_step(step, state_size)."
        )
    raise ValueError(
        f"Expected {type(model).__name__} to hold one recurrent module, found {len(found)}: "
        f"{', '.join(found)}. Pass the one that is meant, e.g. model.{next(iter(found))}."
    )


def build_layers(
    recurrent: nn.RNNBase | nn.RNNCellBase | StepModel,
    *,
    state: StateKind,
    direction: str | None,
    frame_dtype: torch.dtype,
    input_dtype: torch.dtype,
) -> list[RecurrentMap]:
    """One `RecurrentMap` a layer, from the bottom up, with its own float64 copy of the weights."""
    if isinstance(recurrent, StepModel):
        return [StepMap(recurrent.step, recurrent.state_size, input_dtype)]
    check_parameters(recurrent)
    if isinstance(recurrent, nn.RNNCellBase):
        return [_build_map(recurrent, "", state, frame_dtype)]
    if recurrent.proj_size > 0:
        raise ValueError(
            f"Expected proj_size=0, got proj_size={recurrent.proj_size}. Projections are not "
            "built in yet: pass the step function through optuna_aelle.lyapunov.from_step."
        )
    suffix = _direction_suffix(recurrent, direction)
    return [
        _build_map(recurrent, f"_l{layer}{suffix}", state, frame_dtype)
        for layer in range(recurrent.num_layers)
    ]


def check_parameters(module: nn.Module) -> None:
    """Refuse weights that are not finite, by name."""
    for name, parameter in module.named_parameters():
        bad = int((~torch.isfinite(parameter)).sum())
        if bad:
            raise ValueError(
                f"Expected finite weights, got {bad} NaN or infinite entries in parameter "
                f"'{name}'. The training has diverged; a spectrum of it would mean nothing."
            )


def _direction_suffix(recurrent: nn.RNNBase, direction: str | None) -> str:
    if not recurrent.bidirectional:
        if direction not in (None, "forward"):
            raise ValueError(
                f"direction must be None or 'forward' for a one-directional module, but got "
                f"{direction!r}."
            )
        return ""
    if direction not in ("forward", "backward"):
        raise ValueError(
            "Expected a direction for a bidirectional module, whose two directions are two "
            f"separate systems, got direction={direction!r}. "
            "Pass direction='forward' or direction='backward'."
        )
    if recurrent.num_layers > 1:
        raise ValueError(
            f"Expected one bidirectional layer, got num_layers={recurrent.num_layers}. In a "
            "stack each layer reads both directions of the one below: compute the spectrum "
            "layer by layer, each on its own inputs."
        )
    return "_reverse" if direction == "backward" else ""


def _build_map(
    module: nn.Module, suffix: str, state: StateKind, frame_dtype: torch.dtype
) -> RecurrentMap:
    # getattr, so that parametrized weights (spectral norm, orthogonal) are read as they act.
    weights = Weights(
        getattr(module, f"weight_ih{suffix}"),
        getattr(module, f"weight_hh{suffix}"),
        getattr(module, f"bias_ih{suffix}", None),
        getattr(module, f"bias_hh{suffix}", None),
    )
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return LSTMMap(weights, frame_dtype, state)
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        return GRUMap(weights, frame_dtype)
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        return VanillaMap(weights, frame_dtype, str(module.nonlinearity))
    raise TypeError(
        f"Expected torch.nn.RNN, LSTM, GRU or one of their cells, got {type(module).__name__}. "
        "Pass its step function through optuna_aelle.lyapunov.from_step."
    )
