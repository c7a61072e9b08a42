"""Running a whole model to see what its recurrent parts are called with.

The model is left as it was: modes, buffers, attributes, hooks; what its own lists and dicts gain
stays in them. So is PyTorch's random state, but for networks that train in several threads at
once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
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
from torch.utils import _pytree as pytree

from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import batch_axis

T = TypeVar("T")


class Call(NamedTuple):
    """What a part was called with.

    Attributes:
        inputs: A copy.
        continues: Whether it was given a state, too.
        feeds_back: Whether its inputs depend on what its last call has returned.

    Example:
        >>> Call(torch.zeros(2, 3), continues=False).feeds_back
        False
    """

    inputs: Inputs
    continues: bool
    feeds_back: bool = False


def run_noting(
    model: nn.Module, found: Mapping[str, nn.Module], inputs: Inputs
) -> tuple[dict[str, list[Call]], Exception | None]:
    """What each of the modules in ``found`` is called with as ``model`` runs on ``inputs``.

    Returns:
        Their calls, and what has ended the run early, if something has.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4))
        >>> calls, error = run_noting(model, {"1": model[1]}, torch.zeros(20, 1, 2))
        >>> len(calls["1"]), error
        (1, None)
    """
    calls: dict[str, list[Call]] = {name: [] for name in found}

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read = _read(args, kwargs)
            if read is not None:
                others = [x for x in (*args, *kwargs.values()) if x is not read]
                # A state under whatever name: a tensor, or several of them.
                continues = any(isinstance(x, Tensor | tuple | list) for x in others)
                calls[name].append(Call(copied(read), continues))

        return note

    error = _run(model, found, inputs, {name: (noting(name), None) for name in found})
    stepped = [name for name in found if _is_stepped(found[name], calls[name])]
    if error is None and stepped:
        feedback = _Feedback()
        hooks = {name: (feedback.reading(name), feedback.returning(name)) for name in stepped}
        # A second run, since this one has gradients on: what they break in it proves nothing.
        if _run(model, found, inputs, hooks) is None:
            for name in feedback.found:
                calls[name] = [call._replace(feeds_back=True) for call in calls[name]]
    return calls, error


def _read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs | None:
    """The sequence among what a module is called with."""
    given = [*args, *(kwargs.get(key) for key in ("input", "inputs")), *kwargs.values()]
    return next((x for x in given if isinstance(x, Inputs)), None)


def _is_stepped(module: nn.Module, calls: list[Call]) -> bool:
    """Whether a module was called with one step after the other."""
    first = calls[0].inputs if len(calls) > 1 else None
    if not isinstance(first, Tensor):
        return False
    return first.dim() < 3 or first.shape[1 - batch_axis(module)] == 1


def _run(
    model: nn.Module,
    found: Mapping[str, nn.Module],
    inputs: Inputs,
    hooks: Mapping[str, tuple[Any, Any]],
) -> Exception | None:
    """Run a model with hooks before and after its parts; what it has raised."""
    runner = _unwrapped(model)
    parameters = list(runner.parameters())
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        return RuntimeError("it has lazy parameters, which its first training batch is to shape")
    device = parameters[0].device if parameters else data_of(inputs).device
    dtypes = [parameter.dtype for parameter in parameters if parameter.is_floating_point()]
    fed: Any = copied(inputs)
    fed = fed.to(device=device)
    if data_of(inputs).is_floating_point() and dtypes:
        fed = fed.to(dtype=dtypes[0])
    cuda = {tensor.device for tensor in parameters if tensor.is_cuda}
    with (
        torch.autocast(device.type, enabled=False),
        _uncompiled,
        evaluated(runner, [place.index for place in cuda]),
    ):
        handles = []
        for name, (before, after) in hooks.items():
            handles.append(found[name].register_forward_pre_hook(before, with_kwargs=True))
            if after is not None:
                handles.append(found[name].register_forward_hook(after))
        try:
            runner(fed)
        except Exception as error:  # whatever the model's own forward may raise
            return error
        finally:
            for handle in handles:
                handle.remove()
    return None


class _Feedback:
    """Does the second step of a part read what its first one has returned?

    Followed by autograd from the one to the other; gradients are on only in between.

    Attributes:
        found: The parts of which it does.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._n_calls: dict[str, int] = {}
        self._followed: dict[str, list[Tensor]] = {}

    def returning(self, name: str) -> Any:
        """A hook that puts what can be followed in the place of the first step's outputs."""

        def hook(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
            self._n_calls[name] = self._n_calls.get(name, 0) + 1
            if self._n_calls[name] > 1:
                return None
            leaves, structure = pytree.tree_flatten(outputs)
            leaves = [
                x.detach().requires_grad_()
                if isinstance(x, Tensor) and x.is_floating_point()
                else x
                for x in leaves
            ]
            self._followed[name] = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
            torch.set_grad_enabled(True)
            # Not the leaves, which the model must not change in place.
            copies = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
            return pytree.tree_unflatten(copies, structure)

        return hook

    def reading(self, name: str) -> Any:
        """A hook that looks at what the second step reads."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            followed = self._followed.pop(name, [])
            read = _read(args, kwargs)
            if not followed or read is None:
                return
            values = data_of(read)
            if values.requires_grad:
                slopes = torch.autograd.grad(
                    values.sum(), followed, retain_graph=True, allow_unused=True
                )
                if any(slope is not None and bool(slope.any()) for slope in slopes):
                    self.found.add(name)
            if not self._followed:
                torch.set_grad_enabled(False)

        return hook


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
def evaluated(model: nn.Module, devices: Sequence[int] = ()) -> Iterator[None]:
    """``model`` in evaluation mode without gradients, and afterwards as it was.

    Args:
        model: The model.
        devices: CUDA devices whose random state is to be kept.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluated(model):
        ...     print(model.training)
        False
    """
    with torch.no_grad(), _random_state_kept(list(devices)), _as_it_was(model):
        for module in model.modules():
            # Not eval(), which a class may have made its own.
            module.training = False
        yield


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
    plain = {i for i, (tensor, _) in tensors.items() if not tensor.requires_grad}
    try:
        yield
    finally:
        for table, saved in zip(tables, before, strict=True):
            _restore(table, saved)
        for tensor, values in tensors.values():
            if tensor.requires_grad and id(tensor) in plain:
                # A state that was written in place while gradients were on.
                tensor.detach_()
            # Only if need be: a write would spoil a backward pass that is still to come.
            if not torch.equal(tensor, values):
                tensor.copy_(values)


def _restore(table: dict[str, T], saved: Mapping[str, T]) -> None:
    for name in table.keys() - saved.keys():
        del table[name]
    for name, value in saved.items():
        if name not in table or table[name] is not value:
            table[name] = value


def copied(inputs: Inputs) -> Inputs:
    """A copy that the model's own in-place operations do not reach.

    Example:
        >>> copied(torch.zeros(2)).shape
        torch.Size([2])
    """
    if isinstance(inputs, PackedSequence):
        return inputs._replace(data=inputs.data.detach().clone())
    return inputs.detach().clone()


def data_of(inputs: Inputs) -> Tensor:
    """All numbers of the inputs.

    Example:
        >>> data_of(torch.zeros(2)).shape
        torch.Size([2])
    """
    return inputs.data if isinstance(inputs, PackedSequence) else inputs
