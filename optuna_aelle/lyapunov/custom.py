"""Models of your own: a step function, or the rates of a recurrence that is diagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from optuna_aelle.lyapunov.maps.diagonal import LogRates
from optuna_aelle.lyapunov.maps.step import StepFunction


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
    device: torch.device | None = None


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
        step, size, input_size, batch_first, (size,), None, None, log_rates, n_real, by_steps
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
