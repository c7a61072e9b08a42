"""From what a user has (a module, a cell, a step function) to the layers that the engine runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import nn
from torch.utils import _pytree as pytree

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov.maps.base import Parameters
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.maps.diagonal import DiagonalMap
from optuna_aelle.lyapunov.maps.diagonal import LogRates
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
from optuna_aelle.lyapunov.maps.step import StepFunction
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
        by_steps=True,
    )


_registered: dict[type[nn.Module], Callable[[Any], StepModel]] = {
    cells.DiagonalLayer: _of_layer,
}


@dataclass(frozen=True, eq=False)
class StepModel:
    """A step function with the sizes that the engine needs; made by `from_step`.

    Example:
        >>> rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> StepModel(lambda x, h: h @ rotation.T, state_size=2).input_size
        0
    """

    step: StepFunction
    state_size: int
    input_size: int = 0
    batch_first: bool = False
    part_sizes: tuple[int, ...] = ()
    dtype: torch.dtype | None = None


@dataclass(frozen=True, eq=False)
class DiagonalModel(StepModel):
    """A network whose J is diagonal and made of the input alone; made by `from_log_rates`.

    Example:
        >>> from_log_rates(lambda x: -x.abs(), 3, input_size=3).state_size
        3
    """

    log_rates: LogRates | None = None
    n_real: int = 1
    by_steps: bool = False


def from_log_rates(
    log_rates: Callable[[Tensor], Tensor],
    n_rates: int,
    *,
    n_real: int = 1,
    input_size: int,
    batch_first: bool = False,
    by_steps: bool = False,
) -> DiagonalModel:
    """Make a recurrence h' = a(x) h + b(x) a model that `lyapunov_spectrum` takes.

    Its Jacobian is the diagonal matrix of a, and its exponents are the averages of ln|a|: nothing
    is carried along, whatever the size of the state.

    Args:
        log_rates: Maps inputs ``(T, B, D)`` to ln|a| ``(T, B, n)``; axes of length 1 where it is
            the same at all steps or for all sequences. −inf is allowed.
        n_rates: n.
        n_real: How many real numbers of the state go on at each of these rates: 2 for complex
            ones, the number of columns where the state is a matrix and a its row's.
        input_size: D.
        batch_first: Whether inputs come as ``(B, T, D)`` instead of ``(T, B, D)``.
        by_steps: Whether the rates of a step need the input of that step alone, so that long
            sequences may be taken in pieces.

    Example:
        >>> from optuna_aelle.lyapunov import lyapunov_spectrum
        >>> decay = torch.tensor([0.5, 2.0]).log()
        >>> model = from_log_rates(lambda x: decay.expand(1, 1, 2), 2, input_size=1)
        >>> lyapunov_spectrum(model, torch.zeros(40, 1, 1)).exponents.round(4)
        array([[ 0.6931, -0.6931]])
    """
    for name, number in (("n_rates", n_rates), ("n_real", n_real), ("input_size", input_size)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, but got {number!r}.")

    def step(x: Tensor, h: Tensor) -> Tensor:
        raise TypeError("Expected a step function, but this model is given by its rates.")

    size = n_rates * n_real
    return DiagonalModel(
        step, size, input_size, batch_first, (size,), None, log_rates, n_real, by_steps
    )


def from_step(
    step: Callable[[Tensor, Any], Any],
    state_size: Any,
    *,
    input_size: int = 0,
    batch_first: bool = False,
) -> StepModel:
    """Make any step function a model that `lyapunov_spectrum` takes.

    Args:
        step: Maps ``x (B, D)`` and ``h (B, N)`` to the next ``h (B, N)``, each sequence by itself;
            differentiable by `torch.func`. It runs in the dtype of the inputs.
        state_size: N. If the state is a tuple, list or dict of tensors ``(B, ·)``, nested or not,
            the same structure of sizes: ``(64, 64)`` for an (h, c).
        input_size: D; 0 for an autonomous map, whose inputs are ``torch.zeros(T, B, 0)``.
        batch_first: Whether inputs come as ``(B, T, D)`` instead of ``(T, B, D)``.

    Example:
        >>> leaky = from_step(lambda x, h: 0.5 * h + x, state_size=3, input_size=3)
        >>> leaky.step(torch.ones(1, 3), torch.ones(1, 3))
        tensor([[1.5000, 1.5000, 1.5000]])
        >>> pair = from_step(lambda x, s: (s[1], 0.5 * s[0]), state_size=(4, 4))
        >>> pair.state_size
        8
    """
    sizes, structure = flatten_state(state_size)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            f"state_size must be at least 1, or a structure of such sizes, but got {state_size!r}."
        )
    if input_size < 0:
        raise ValueError(f"input_size must be nonnegative, but got {input_size}.")

    def flat_step(x: Tensor, h: Tensor) -> Tensor:
        state = pytree.tree_unflatten(list(torch.split(h, sizes, dim=-1)), structure)
        parts, came = flatten_state(step(x, state))
        shapes = [tuple(part.shape) for part in parts]
        if came != structure or shapes != [(len(h), size) for size in sizes]:
            raise ValueError(
                f"Expected the step function to return a state of the structure and sizes "
                f"{state_size!r} (batch {len(h)}), got "
                f"{pytree.tree_unflatten(shapes, came)!r}."
            )
        return torch.cat(parts, dim=-1)

    whole = step if structure.is_leaf() else flat_step
    return StepModel(whole, sum(sizes), input_size, batch_first, tuple(sizes))


def flatten_state(state: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of a state and its structure; dicts by their names, not by their order.

    Example:
        >>> flatten_state({"h": 4, "c": (2, 3)})[0]  # sorted by name
        [2, 3, 4]
    """
    return pytree.tree_flatten(_sorted_by_name(state))


def _sorted_by_name(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _sorted_by_name(state[name]) for name in sorted(state)}
    if isinstance(state, tuple | list):
        parts = [_sorted_by_name(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


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
        if candidate in _registered or candidate in _MAPS:
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
            f"Expected {type(model).__name__} to hold one recurrent module, found none. "
            "For a cell of your own, call optuna_aelle.lyapunov.register_cell once, or pass "
            "optuna_aelle.lyapunov.from_step(step, state_size)."
        )
    if len(found) > 1:
        raise ValueError(
            f"Expected {type(model).__name__} to hold one recurrent module, found {len(found)}: "
            f"{', '.join(found)}. Pass the one that is meant, e.g. model.{next(iter(found))}."
        )
    module = next(iter(found.values()))
    check_parameters(module)
    known = known_type(module)
    build = _registered.get(known)  # type: ignore[arg-type]
    if build is None:
        if type(module).forward is not known.forward:  # type: ignore[union-attr]
            raise ValueError(
                f"Expected the forward of torch's or this package's own class, but "
                f"{type(module).__name__} brings another one along: its Jacobian is not known. "
                "Call optuna_aelle.lyapunov.register_cell for it, or pass from_step(...)."
            )
        return module
    wide = copy.deepcopy(module)
    if any(tensor.device.type == "mps" for tensor in (*wide.parameters(), *wide.buffers())):
        wide = wide.cpu()
    return replace(build(wide.double()), dtype=torch.float64)


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
