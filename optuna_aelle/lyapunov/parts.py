"""The recurrent parts of a whole model, and what each of them reads.

A model embeds tokens, convolves, concatenates; its recurrent parts run along what comes out. So
the model is run once, and what each of its outermost recurrent parts is called with is noted.

Notation as in `engine`: T steps, B sequences, D inputs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from optuna_aelle.lyapunov.capture import Call
from optuna_aelle.lyapunov.capture import copied
from optuna_aelle.lyapunov.capture import data_of
from optuna_aelle.lyapunov.capture import evaluated
from optuna_aelle.lyapunov.capture import run_noting
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.groups import about
from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import all_finite
from optuna_aelle.lyapunov.inputs import batch_axis
from optuna_aelle.lyapunov.inputs import check_tensor
from optuna_aelle.lyapunov.models import check_parameters
from optuna_aelle.lyapunov.models import find_recurrent
from optuna_aelle.lyapunov.models import known_type
from optuna_aelle.lyapunov.models import outermost


class Part(NamedTuple):
    """A recurrent network and what it reads.

    Attributes:
        name: Within the model; ``""`` for the model itself.
        recurrent: The network.
        inputs: As the network itself takes them.
        by_steps: Whether it was called step by step, so that ``inputs`` have one possible reading.
        feeds_back: Whether what it reads depends on its own last output, by more than its state.
        owner: The model whose own arithmetic the steps of ``recurrent`` are, if they are.

    Example:
        >>> Part("encoder", nn.GRU(3, 4), torch.zeros(40, 2, 3)).by_steps
        False
    """

    name: str
    recurrent: nn.Module | StepModel
    inputs: Inputs
    by_steps: bool = False
    feeds_back: bool = False
    owner: nn.Module | None = None


Layers = Callable[[Any, Any], Mapping[str, tuple[Any, Any]]]
_registered_layers: dict[type[nn.Module], Layers] = {}


def register_layers(model_type: type[nn.Module], layers: Layers) -> None:
    """Teach the engine which recurrences a model of this class holds and what they read.

    Needed where running the model does not show it: a model that steps its recurrence by
    arithmetic of its own. A class of your own may have a method ``recurrent_layers(inputs)``
    instead.

    Args:
        model_type: Its class; subclasses count too.
        layers: From such a model and its inputs to ``{name: (recurrent, inputs)}``: a recurrent
            module, or what `from_step` or `from_log_rates` makes, with its own inputs. The model
            is in evaluation mode then, and gradients are off.

    Example:
        >>> class Leaky(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.weight = nn.Linear(2, 8), nn.Linear(8, 8)
        ...     def step(self, x, h):
        ...         return 0.5 * h + torch.tanh(x + self.weight(h))
        >>> from optuna_aelle.lyapunov import from_step, spectral_fingerprint
        >>> register_layers(Leaky, lambda model, inputs: {
        ...     "memory": (from_step(model.step, 8, input_size=8), model.embed(inputs)),
        ... })
        >>> spectral_fingerprint(Leaky(), torch.randn(40, 3, 2)).exponents.shape
        (2, 8)
    """
    if not (isinstance(model_type, type) and issubclass(model_type, nn.Module)):
        raise TypeError(f"Expected a class of torch.nn.Module, got {model_type!r}.")
    _registered_layers[model_type] = layers


def layers_of(model: object, inputs: Inputs) -> list[Part]:
    """The recurrent parts of ``model``, each with what it reads as the model runs on ``inputs``.

    This is what `lyapunov_spectrum` and `spectral_fingerprint` see of it.

    Args:
        model: A recurrent module or a `StepModel`, which reads ``inputs`` itself, or a module that
            holds some. A cell that is called step by step reads all these steps; so does a module
            that is called with one step and its last state each time. Of several other calls the
            first one counts. Parts that are not called are left out.
        inputs: What the model takes. If it cannot be run on them, but holds exactly one recurrent
            part whose inputs they can be, they are taken for those.

    Raises:
        TypeError: ``model`` is neither a module nor a `StepModel`, or ``inputs`` are no tensor.
        ValueError: There is no recurrent part; the model cannot be run, and ``inputs`` are not
            those of its only part either; weights or what a part reads are not finite.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 3), nn.GRU(3, 8, batch_first=True))
        >>> (part,) = layers_of(model, torch.randint(10, (4, 20)))
        >>> part.name, part.inputs.shape
        ('1', torch.Size([4, 20, 3]))
    """
    if not isinstance(model, nn.Module) or known_type(model) is not None:
        return [Part("", find_recurrent(model), inputs)]
    check_tensor(inputs)
    declared = _declared_layers(model)
    if declared is not None:
        return _parts_declared(model, declared, inputs)
    found = outermost(model)
    if not found:
        # Says what it expected instead.
        find_recurrent(model)
    calls, error = run_noting(model, found, inputs)
    called = {name: of_part for name, of_part in calls.items() if of_part}
    # What fails behind the last recurrent part is no concern of theirs.
    if error is not None and len(called) < len(found):
        return [_fed_directly(model, found, inputs, error)]
    if not called:
        silent = RuntimeError("it ran, but called none of its recurrent parts")
        return [_fed_directly(model, found, inputs, silent)]
    parts = [_part(name, found[name], of_part) for name, of_part in called.items()]
    for part in parts:
        if not all_finite(data_of(part.inputs)) and all_finite(data_of(inputs)):
            check_parameters(model)
            raise ValueError(
                f"Expected the model to feed finite numbers to '{part.name}', got NaN or infinite "
                "ones although inputs and weights are finite. Check what comes before it."
            )
    return parts


def _declared_layers(model: nn.Module) -> Layers | None:
    """What was registered for the model's class, or what it says itself."""
    for candidate in type(model).__mro__:
        if candidate in _registered_layers:
            return _registered_layers[candidate]
    own = getattr(type(model), "recurrent_layers", None)
    return own if callable(own) else None


def _parts_declared(model: nn.Module, layers: Layers, inputs: Inputs) -> list[Part]:
    check_parameters(model)
    with evaluated(model):
        declared = layers(model, copied(inputs))
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError(
            f"Expected the layers of {type(model).__name__} as {{name: (recurrent, inputs)}}, got "
            f"{declared!r}."
        )
    parts = []
    for name, (recurrent, own_inputs) in declared.items():
        with about(name):
            check_tensor(own_inputs)
            parts.append(Part(name, find_recurrent(recurrent), own_inputs, owner=model))
    return parts


def _part(name: str, module: nn.Module, calls: list[Call]) -> Part:
    """``module`` with its calls as one sequence."""
    recurrent = find_recurrent(module)
    feeds_back = any(call.feeds_back for call in calls)
    first = calls[0].inputs
    if isinstance(first, PackedSequence):
        return Part(name, recurrent, first)
    alike = [
        call.inputs
        for call in calls
        if isinstance(call.inputs, Tensor) and call.inputs.shape == first.shape
    ]
    own_cell = isinstance(recurrent, StepModel) and first.dim() < 3 and len(alike) > 1
    if isinstance(module, nn.RNNCellBase) or own_cell:
        steps = torch.stack(alike)
        if steps.dim() == 3 and batch_axis(recurrent) == 0:
            steps = steps.transpose(0, 1)
        return Part(name, recurrent, steps, by_steps=True, feeds_back=feeds_back)
    time_axis = 1 - batch_axis(recurrent)
    one_step = first.dim() == 3 and first.shape[time_axis] == 1
    if one_step and len(alike) > 1 and all(call.continues for call in calls[1:]):
        steps = torch.cat(alike, dim=time_axis)
        return Part(name, recurrent, steps, by_steps=True, feeds_back=feeds_back)
    return Part(name, recurrent, first, feeds_back=feeds_back)


def is_bidirectional(part: Part) -> bool:
    """Whether the part has two directions.

    Example:
        >>> is_bidirectional(Part("", nn.GRU(3, 4, bidirectional=True), torch.zeros(40, 2, 3)))
        True
    """
    return bool(getattr(part.recurrent, "bidirectional", False))


def feedback_of(model: object, part: Part) -> str:
    """What is to be said where ``part.feeds_back``.

    Example:
        >>> feedback_of(nn.GRU(3, 4), Part("rnn", nn.GRU(3, 4), torch.zeros(40, 2, 3)))[:28]
        "What 'rnn' of GRU reads depe"
    """
    return (
        f"What '{part.name}' of {type(model).__name__} reads depends on its own last output. The "
        "spectrum is that of the part alone, without this feedback. For that of the whole, pass "
        "from_step over one step of the model, or give its class a method "
        "recurrent_layers(inputs)."
    )


def caller_level() -> int:
    """The ``stacklevel`` for a warning to the caller from outside this package.

    Example:
        >>> level = caller_level()
    """
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("optuna_aelle."):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    return level


def _fed_directly(
    model: nn.Module, found: Mapping[str, nn.Module], inputs: Inputs, error: Exception
) -> Part:
    """The only part with ``inputs`` for its own, if they can be that."""
    failure = (
        f"Expected inputs that {type(model).__name__} can be run on, got "
        f"{_described(inputs)}: running it failed ({type(error).__name__}: {error})"
    )
    if len(found) > 1:
        raise ValueError(
            f"{failure}, and it holds {len(found)} recurrent parts ({', '.join(found)}), so that "
            "they cannot be meant for the only one either. Pass what the model takes, or one of "
            "the parts with its own inputs."
        ) from error
    ((name, module),) = found.items()
    recurrent = find_recurrent(module)
    values = data_of(inputs)
    if not values.is_floating_point() or values.shape[-1:] != (recurrent.input_size,):
        raise ValueError(
            f"{failure}, and its recurrent part '{name}' cannot read them itself: it takes floats "
            f"with D = {recurrent.input_size} in the last axis. Pass what the model takes, or the "
            "part with its own inputs."
        ) from error
    # A holder has no forward; of any other failure one should know.
    if not isinstance(error, NotImplementedError):
        warnings.warn(
            f"{failure}. They are taken for those of its recurrent part '{name}' itself.",
            UserWarning,
            stacklevel=caller_level(),
        )
    return Part(name, recurrent, inputs)


def _described(inputs: Inputs) -> str:
    if isinstance(inputs, PackedSequence):
        return f"a PackedSequence of {inputs.data.dtype} with data {tuple(inputs.data.shape)}"
    return f"a tensor of {inputs.dtype} and shape {tuple(inputs.shape)}"
