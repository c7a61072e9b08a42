"""What the recurrent parts of a whole model read when the model is given its inputs.

A model embeds tokens, convolves, concatenates; its recurrent parts run along what comes out. So
the model is run once, and what each of its outermost recurrent parts is called with is noted. The
model is left as it was: modes, buffers, attributes, hooks; what its own lists and dicts gain stays
in them. So is the random state, but for networks that train in several threads at once.

Notation as in `engine`: T steps, B sequences, D inputs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import batch_axis
from optuna_aelle.lyapunov.inputs import check_tensor
from optuna_aelle.lyapunov.models import StepModel
from optuna_aelle.lyapunov.models import check_parameters
from optuna_aelle.lyapunov.models import find_recurrent
from optuna_aelle.lyapunov.models import known_type
from optuna_aelle.lyapunov.models import outermost

T = TypeVar("T")


class Part(NamedTuple):
    """A recurrent network and what it reads.

    Attributes:
        name: Within the model; ``""`` for the model itself.
        recurrent: The network.
        inputs: As the network itself takes them.
        by_steps: Whether it was called step by step, so that ``inputs`` have one possible reading.

    Example:
        >>> Part("encoder", nn.GRU(3, 4), torch.zeros(40, 2, 3)).by_steps
        False
    """

    name: str
    recurrent: nn.Module | StepModel
    inputs: Inputs
    by_steps: bool = False


class _Call(NamedTuple):
    inputs: Inputs
    continues: bool


def parts_of(model: object, inputs: Inputs) -> list[Part]:
    """The recurrent parts of ``model``, each with what it reads as the model runs on ``inputs``.

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
        >>> (part,) = parts_of(model, torch.randint(10, (4, 20)))
        >>> part.name, part.inputs.shape
        ('1', torch.Size([4, 20, 3]))
    """
    if not isinstance(model, nn.Module) or known_type(model) is not None:
        return [Part("", find_recurrent(model), inputs)]
    check_tensor(inputs)
    found = outermost(model)
    if not found:
        # Says what it expected instead.
        find_recurrent(model)
    try:
        calls = _run(model, found, inputs)
    except Exception as error:  # whatever the model's own forward may raise
        return [_fed_directly(model, found, inputs, error)]
    called = {name: of_part for name, of_part in calls.items() if of_part}
    if not called:
        silent = RuntimeError("it ran, but called none of its recurrent parts")
        return [_fed_directly(model, found, inputs, silent)]
    parts = [_part(name, found[name], of_part) for name, of_part in called.items()]
    for part in parts:
        if not bool(torch.isfinite(_data(part.inputs)).all()) and bool(
            torch.isfinite(_data(inputs)).all()
        ):
            check_parameters(model)
            raise ValueError(
                f"Expected the model to feed finite numbers to '{part.name}', got NaN or infinite "
                "ones although inputs and weights are finite. Check what comes before it."
            )
    return parts


def _part(name: str, module: nn.Module, calls: list[_Call]) -> Part:
    """``module`` with its calls as one sequence."""
    recurrent = find_recurrent(module)
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
        return Part(name, recurrent, steps, by_steps=True)
    time_axis = 1 - batch_axis(recurrent)
    one_step = first.dim() == 3 and first.shape[time_axis] == 1
    if one_step and len(alike) > 1 and all(call.continues for call in calls[1:]):
        return Part(name, recurrent, torch.cat(alike, dim=time_axis), by_steps=True)
    return Part(name, recurrent, first)


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
    values = _data(inputs)
    if not values.is_floating_point() or values.shape[-1:] != (recurrent.input_size,):
        raise ValueError(
            f"{failure}, and its recurrent part '{name}' cannot read them itself: it takes floats "
            f"with D = {recurrent.input_size} in the last axis. Pass what the model takes, or the "
            "part with its own inputs."
        ) from error
    return Part(name, recurrent, inputs)


def _run(
    model: nn.Module, found: Mapping[str, nn.Module], inputs: Inputs
) -> dict[str, list[_Call]]:
    """What each of the modules in ``found`` is called with as ``model`` runs."""
    calls: dict[str, list[_Call]] = {name: [] for name in found}

    def noting(of_part: list[_Call]) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *(kwargs.get(name) for name in ("input", "inputs")), *kwargs.values()]
            sequences = [x for x in given if isinstance(x, Inputs)]
            if sequences:
                state = [*args[1:], kwargs.get("hx"), kwargs.get("state")]
                continues = any(part is not None for part in state)
                of_part.append(_Call(_copied(sequences[0]), continues))

        return note

    runner = _unwrapped(model)
    parameters = list(runner.parameters())
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        raise RuntimeError("it has lazy parameters, which its first training batch is to shape")
    device = parameters[0].device if parameters else _data(inputs).device
    dtypes = [parameter.dtype for parameter in parameters if parameter.is_floating_point()]
    fed: Any = _copied(inputs)
    fed = fed.to(device=device)
    if _data(inputs).is_floating_point() and dtypes:
        fed = fed.to(dtype=dtypes[0])
    cuda = {tensor.device for tensor in parameters if tensor.is_cuda}
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        _random_state_kept([place.index for place in cuda]),
        _uncompiled,
        _as_it_was(runner),
    ):
        for module in runner.modules():
            # Not eval(), which a class may have made its own.
            module.training = False
        hooks = [
            module.register_forward_pre_hook(noting(calls[name]), with_kwargs=True)
            for name, module in found.items()
        ]
        try:
            runner(fed)
        finally:
            for hook in hooks:
                hook.remove()
    return calls


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within what compiles it or spreads it over devices, for which one run is small."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _random_state_kept(devices: list[int]) -> AbstractContextManager[Any]:
    """Torch's random state as it was; it is the process's, and other threads may draw meanwhile.

    In a thread of its own a network is run beside others in training: putting the state back would
    make them draw the same numbers again.
    """
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return torch.random.fork_rng(devices=devices)


class _Uncompiled:
    """Compiling takes longer than the one run that is wanted.

    The stance is the process's: the first in sets it, the last out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._eager: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            # Where this module is not loaded, nothing is compiled; loading it takes seconds.
            loaded = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
            if self._users == 1 and loaded:
                self._eager = torch.compiler.set_stance("force_eager")
                self._eager.__enter__()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._eager.__exit__(None, None, None)
                self._eager = nullcontext()


_uncompiled = _Uncompiled()


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Give every module back the attributes, parameters, submodules and buffers that it had."""
    modules = list(model.modules())
    tables = [
        table
        for module in modules
        for table in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    before: list[dict[str, Any]] = [dict(table) for table in tables]
    parameters = set(map(id, model.parameters()))
    tensors = {
        id(value): (value, value.clone())
        for table in before
        for value in table.values()
        if isinstance(value, Tensor) and id(value) not in parameters
    }
    try:
        yield
    finally:
        for table, saved in zip(tables, before, strict=True):
            _restore(table, saved)
        for tensor, values in tensors.values():
            # Only if need be: a write would spoil a backward pass that is still to come.
            if not torch.equal(tensor, values):
                tensor.copy_(values)


def _restore(table: dict[str, T], saved: Mapping[str, T]) -> None:
    for name in table.keys() - saved.keys():
        del table[name]
    for name, value in saved.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _copied(inputs: Inputs) -> Inputs:
    """A copy that the model's own in-place operations do not reach."""
    if isinstance(inputs, PackedSequence):
        return inputs._replace(data=inputs.data.detach().clone())
    return inputs.detach().clone()


def _data(inputs: Inputs) -> Tensor:
    return inputs.data if isinstance(inputs, PackedSequence) else inputs


def _described(inputs: Inputs) -> str:
    if isinstance(inputs, PackedSequence):
        return f"a PackedSequence of {inputs.data.dtype} with data {tuple(inputs.data.shape)}"
    return f"a tensor of {inputs.dtype} and shape {tuple(inputs.shape)}"
