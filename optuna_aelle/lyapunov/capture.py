"""Running a whole model to see what its recurrent parts are called with.

The model is left as it was: modes, buffers, attributes, hooks; what its own lists and dicts gain
stays in them. So is the random state, but for networks that train in several threads at once.
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
) -> dict[str, list[Call]]:
    """What each of the modules in ``found`` is called with as ``model`` runs on ``inputs``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4))
        >>> len(run_noting(model, {"1": model[1]}, torch.zeros(20, 1, 2))["1"])
        1
    """
    calls: dict[str, list[Call]] = {name: [] for name in found}
    feedback = _Feedback()

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *(kwargs.get(key) for key in ("input", "inputs")), *kwargs.values()]
            sequences = [x for x in given if isinstance(x, Inputs)]
            if sequences:
                others = [x for x in (*args, *kwargs.values()) if x is not sequences[0]]
                # A state under whatever name: a tensor, or several of them.
                continues = any(isinstance(x, Tensor | tuple | list) for x in others)
                feeds_back = feedback.reaches(name, sequences[0])
                calls[name].append(Call(copied(sequences[0]), continues, feeds_back))

        return note

    def following(name: str) -> Any:
        def follow(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
            first = calls[name][0].inputs if len(calls[name]) == 1 else None
            one_step = isinstance(first, Tensor) and (
                first.dim() < 3 or first.shape[1 - batch_axis(module)] == 1
            )
            return feedback.follow(name, outputs) if one_step else None

        return follow

    runner = _unwrapped(model)
    parameters = list(runner.parameters())
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        raise RuntimeError("it has lazy parameters, which its first training batch is to shape")
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
        hooks = [
            module.register_forward_pre_hook(noting(name), with_kwargs=True)
            for name, module in found.items()
        ]
        hooks += [module.register_forward_hook(following(name)) for name, module in found.items()]
        try:
            runner(fed)
        finally:
            for hook in hooks:
                hook.remove()
    return calls


class _Feedback:
    """Does the second step of a part read what its first one has returned?

    Followed by autograd from the one to the other; gradients are on only in between.
    """

    def __init__(self) -> None:
        self._followed: dict[str, list[Tensor]] = {}

    def follow(self, name: str, outputs: Any) -> Any:
        """The outputs of the first step, in the place of which copies are to be returned."""
        leaves, structure = pytree.tree_flatten(outputs)
        followed = [
            leaf.detach().requires_grad_()
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
            else leaf
            for leaf in leaves
        ]
        self._followed[name] = [x for x in followed if isinstance(x, Tensor) and x.requires_grad]
        torch.set_grad_enabled(True)
        copies = [x.clone() if isinstance(x, Tensor) else x for x in followed]
        return pytree.tree_unflatten(copies, structure)

    def reaches(self, name: str, inputs: Inputs) -> bool:
        """Whether ``inputs``, of the second step, depend on what is followed."""
        followed = self._followed.pop(name, [])
        values = data_of(inputs)
        found = False
        if followed and values.requires_grad:
            # Anomalies of the model's own backward pass are no concern here.
            slopes = torch.autograd.grad(
                values.sum(), followed, retain_graph=True, allow_unused=True
            )
            found = any(slope is not None and bool(slope.any()) for slope in slopes)
        if not self._followed:
            torch.set_grad_enabled(False)
        return found


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
