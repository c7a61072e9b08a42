"""From what a user has (a module, a cell, a step function) to the layers that the engine runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov.adapters import adapter_for
from optuna_aelle.lyapunov.adapters import float64_copy
from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import from_log_rates
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.maps.diagonal import DiagonalMap
from optuna_aelle.lyapunov.maps.lstm import LSTMMap
from optuna_aelle.lyapunov.maps.lstm import hidden_lstm_map
from optuna_aelle.lyapunov.maps.mixed import AntisymmetricMap
from optuna_aelle.lyapunov.maps.mixed import GRUMap
from optuna_aelle.lyapunov.maps.mixed import LipschitzMap
from optuna_aelle.lyapunov.maps.mixed import OrthogonalMap
from optuna_aelle.lyapunov.maps.mixed import VanillaMap
from optuna_aelle.lyapunov.maps.slstm import SLSTMMap
from optuna_aelle.lyapunov.maps.staged import CoRNNMap
from optuna_aelle.lyapunov.maps.staged import LEMMap
from optuna_aelle.lyapunov.maps.step import StepMap

_MAPS: dict[type[nn.Module], Callable[[Parameters], RecurrentMap]] = {
    nn.RNN: VanillaMap,
    nn.RNNCell: VanillaMap,
    nn.GRU: GRUMap,
    nn.GRUCell: GRUMap,
    nn.LSTM: LSTMMap,
    nn.LSTMCell: LSTMMap,
    cells.AntisymmetricRNN: AntisymmetricMap,
    cells.CoRNN: CoRNNMap,
    cells.ExponentialRNN: OrthogonalMap,
    cells.LEM: LEMMap,
    cells.LipschitzRNN: LipschitzMap,
    cells.SLSTM: SLSTMMap,
}


def _of_layer(layer: cells.DiagonalLayer) -> StepModel:
    return from_log_rates(
        layer.log_rates,
        layer.n_rates,
        n_real=layer.n_real,
        input_size=layer.input_size,
        batch_first=layer.batch_first,
        by_steps=layer.by_steps,
    )


_registered: dict[type[nn.Module], Callable[[Any], StepModel]] = {
    cells.DiagonalLayer: _of_layer,
}


def register_cell(
    cell_type: type[nn.Module], build: Callable[[Any], StepModel], *, replace: bool = False
) -> None:
    """Teach the engine a recurrent module of your own, so that models may simply hold it.

    Args:
        cell_type: Its class; subclasses count too.
        build: Makes a `StepModel` of one such module, with `from_step`. It is given a float64 copy
            of the module, so that the spectrum is as accurate as for the built-in cells.
        replace: Whether a class that is already known may be given another ``build``.

    Example:
        >>> class Leaky(nn.Module):
        ...     def __init__(self, input_size, size):
        ...         super().__init__()
        ...         self.input_size, self.size = input_size, size
        ...         self.weights = nn.Linear(input_size + size, size)
        ...     def step(self, x, h):
        ...         return 0.5 * h + torch.tanh(self.weights(torch.cat([x, h], dim=-1)))
        >>> register_cell(Leaky, lambda m: from_step(m.step, m.size, input_size=m.input_size))
        >>> from optuna_aelle.lyapunov import lyapunov_spectrum
        >>> lyapunov_spectrum(Leaky(3, 8), torch.randn(40, 2, 3)).exponents.shape
        (2, 8)
    """
    if not (isinstance(cell_type, type) and issubclass(cell_type, nn.Module)):
        raise TypeError(f"Expected a class of torch.nn.Module, got {cell_type!r}.")
    if not replace and (cell_type in _registered or cell_type in _MAPS):
        raise ValueError(
            f"Expected a class that is not known yet, got {cell_type.__name__}. "
            "Pass replace=True to give it another build function."
        )
    _registered[cell_type] = build


def known_type(module: object) -> type[nn.Module] | None:
    """The registered or built-in class that ``module`` is of; parametrized modules subclass it.

    Example:
        >>> class Mine(nn.GRU): ...
        >>> known_type(Mine(3, 4)).__name__, known_type(nn.Linear(3, 4))
        ('GRU', None)
    """
    for candidate in type(module).__mro__:
        if candidate in _registered or candidate in _MAPS or adapter_for(candidate):
            return candidate
    return None


def find_recurrent(model: object) -> nn.Module | StepModel:
    """The one recurrent module that ``model`` is or holds; a registered cell as a `StepModel`.

    Raises:
        TypeError: ``model`` is neither a module nor a `StepModel`.
        ValueError: It holds no recurrent module, or several; or weights that are not finite.

    Example:
        >>> find_recurrent(nn.ModuleDict({"rnn": nn.GRU(3, 4), "head": nn.Linear(4, 1)}))
        GRU(3, 4)
    """
    if isinstance(model, StepModel):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            "Expected a torch.nn.RNN, LSTM, GRU, one of their cells, a module that holds one of "
            f"them, or a StepModel, got {type(model).__name__}. "
            "Wrap a step function with optuna_aelle.lyapunov.from_step."
        )
    found = outermost(model)
    if not found:
        raise ValueError(
            f"Expected {type(model).__name__} to hold a recurrent module that is known, found "
            "none. Give its class a method recurrent_layers(inputs), or call register_layers for "
            "it; for a cell of your own, register_cell; or pass from_step(step, state_size, "
            "input_size=...) with what the step reads (docs/models.md has an example of each)."
        )
    if len(found) > 1:
        raise ValueError(
            f"Expected {type(model).__name__} to hold one recurrent module, found {len(found)}: "
            f"{', '.join(found)}. Pass the one that is meant, e.g. model.{next(iter(found))}."
        )
    module = next(iter(found.values()))
    check_parameters(module)
    known = known_type(module)
    build = _registered.get(known) or adapter_for(known)  # type: ignore[arg-type]
    own = known is cells.DiagonalLayer and build is _of_layer
    if build is None or own:
        if type(module).forward is not known.forward:  # type: ignore[union-attr]
            raise ValueError(
                f"Expected the forward of torch's or this package's own class, but "
                f"{type(module).__name__} brings another one along: its Jacobian is not known. "
                "Call optuna_aelle.lyapunov.register_cell for it, or pass from_step(...)."
            )
        if build is None:
            return module
    wide = float64_copy(module)
    model = build(wide)
    tensors = (*wide.parameters(), *wide.buffers())
    return replace(model, dtype=torch.float64, device=tensors[0].device if tensors else None)


def outermost(model: nn.Module, name: str = "") -> dict[str, nn.Module]:
    """Known modules by name; what a known module itself is made of does not count.

    A module that is held twice has its first name alone.

    Example:
        >>> outermost(nn.ModuleDict({"a": nn.GRU(3, 4), "b": nn.ModuleList([nn.LSTM(3, 4)])}))
        {'a': GRU(3, 4), 'b.0': LSTM(3, 4)}
    """
    if known_type(model) is not None:
        return {name: model}
    found: dict[str, nn.Module] = {}
    for child_name, child in model.named_children():
        for of_child in outermost(child, f"{name}.{child_name}" if name else child_name).items():
            if of_child[1] not in found.values():
                found[of_child[0]] = of_child[1]
    return found


def signature(recurrent: nn.Module | StepModel) -> tuple[object, ...]:
    """Equal for modules that can be run side by side.

    Example:
        >>> signature(nn.GRU(3, 4)) == signature(nn.GRU(3, 4)) != signature(nn.GRU(3, 5))
        True
    """
    if isinstance(recurrent, StepModel):
        return (id(recurrent),)
    device = next(recurrent.parameters()).device
    return (
        known_type(recurrent),
        recurrent.extra_repr(),
        getattr(recurrent, "nonlinearity", None),
        device,
    )


def build_layers(
    recurrents: Sequence[nn.Module | StepModel],
    *,
    state: StateKind,
    reverse: bool,
    device: torch.device,
    input_dtype: torch.dtype,
) -> list[RecurrentMap]:
    """One `RecurrentMap` a layer, from the bottom up, with its own float64 copy of the weights.

    Args:
        recurrents: Equal modules, or a single `StepModel`.
        state: As in `lyapunov_spectrum`.
        reverse: Whether to build the backward direction of a bidirectional module.
        device: Where to compute.
        input_dtype: A step function runs in this dtype.

    Example:
        >>> networks = [nn.GRU(3, 4, num_layers=2), nn.GRU(3, 4, num_layers=2)]
        >>> cpu = torch.device("cpu")
        >>> layers = build_layers(
        ...     networks, state="full", reverse=False, device=cpu, input_dtype=torch.float32
        ... )
        >>> [layer.state_size for layer in layers]
        [4, 4]
    """
    first = recurrents[0]
    if isinstance(first, DiagonalModel) and first.log_rates is not None:
        n_rates, dtype = first.state_size // first.n_real, first.dtype or input_dtype
        sizes = (n_rates, first.n_real, first.input_size)
        return [DiagonalMap(first.log_rates, *sizes, first.by_steps, dtype, device)]
    if isinstance(first, StepModel):
        return [StepMap(first.step, first.state_size, first.dtype or input_dtype, device)]
    modules = [module for module in recurrents if isinstance(module, nn.Module)]
    build = _MAPS[known_type(first)]  # type: ignore[index]
    if state == "hidden" and build is LSTMMap:
        build = hidden_lstm_map
    if not isinstance(first, nn.RNNBase):
        return [build(Parameters(modules, device))]
    suffix = "_reverse" if reverse else ""
    return [
        build(Parameters(modules, device, f"_l{layer}{suffix}"))
        for layer in range(first.num_layers)
    ]


def check_parameters(module: nn.Module) -> None:
    """Refuse weights that are not finite, by name.

    Example:
        >>> check_parameters(nn.GRU(3, 4))
    """
    for name, parameter in module.named_parameters():
        # One number tells as a rule: it is infinite or NaN if any one is.
        largest = (
            torch.linalg.vector_norm(parameter.detach(), torch.inf) if parameter.numel() else 0.0
        )
        if not math.isfinite(largest):
            bad = int((~torch.isfinite(parameter)).sum())
            raise ValueError(
                f"Expected finite weights, got {bad} NaN or infinite entries in parameter "
                f"'{name}'. The training has diverged; a spectrum of it would mean nothing."
            )
