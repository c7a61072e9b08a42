"""Many networks at once: those that differ in numbers only run side by side.

Notation as in `engine`: T steps, B sequences, D inputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Literal

import torch
from torch import nn

from optuna_aelle.lyapunov import compiled
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import Sequences
from optuna_aelle.lyapunov.inputs import device_of
from optuna_aelle.lyapunov.models import signature
from optuna_aelle.lyapunov.settings import Settings
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum
from optuna_aelle.lyapunov.spectrum import union
from optuna_aelle.lyapunov.stack import build_stack
from optuna_aelle.lyapunov.stack import run_stack

Errors = Literal["raise", "return"]
# How many weights of a group run side by side: more save launches, but leave the cache.
_MAX_PARAMETERS = {"cpu": 500_000, "cuda": 200_000_000}


@dataclass(frozen=True, eq=False)
class Task:
    """One recurrent network, what it reads, and what is asked of it.

    Attributes:
        recurrent: The network.
        sequences: Its inputs, checked.
        given: Where they come from: networks that are given one and the same thing share it.
        settings: How to compute.
        name: How an error calls the network; ``""`` where it is the only one.
        seconds: What reading it has taken.
        owner: A model that takes part in the steps of ``recurrent``, to be in evaluation mode.

    Example:
        >>> from optuna_aelle.lyapunov.inputs import read_inputs
        >>> network, inputs = nn.GRU(3, 4), torch.randn(40, 2, 3)
        >>> Task(network, read_inputs(network, inputs, None, warmup=20), inputs, Settings()).name
        ''
    """

    recurrent: nn.Module | StepModel
    sequences: Sequences
    given: Inputs
    settings: Settings
    name: str = ""
    seconds: float = 0.0
    owner: nn.Module | None = None


@contextmanager
def about(name: str) -> Iterator[None]:
    """Put what an error is about in front of it; leave it as it is where there is no name.

    Example:
        >>> with about("models[1]"):
        ...     raise ValueError("too short")
        Traceback (most recent call last):
        ValueError: models[1]: too short
    """
    try:
        yield
    except (FloatingPointError, TypeError, ValueError) as error:
        if not name:
            raise
        # Not the type itself: errors of others may be made of more than a message.
        kinds = (FloatingPointError, TypeError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"{name}: {error}") from error


def run_tasks(
    tasks: Sequence[Task],
    initial_state: Any = None,
    generator: torch.Generator | None = None,
) -> list[LyapunovSpectrum | Exception]:
    """One spectrum for each task, or its own error, in their order; equal networks side by side.

    Example:
        >>> from optuna_aelle.lyapunov.inputs import read_inputs
        >>> network, inputs = nn.GRU(3, 4), torch.randn(40, 2, 3)
        >>> task = Task(network, read_inputs(network, inputs, None, warmup=20), inputs, Settings())
        >>> [type(result).__name__ for result in run_tasks([task, task])]
        ['LyapunovSpectrum', 'LyapunovSpectrum']
    """
    spectra: dict[int, LyapunovSpectrum | Exception] = {}
    for members in _equals(tasks):
        for part in _split(members, tasks[members[0]]):
            equals = [tasks[i] for i in part]
            found: Sequence[LyapunovSpectrum | Exception]
            try:
                with about(equals[0].name if len(equals) == 1 else ""):
                    found = _run_equals(equals, initial_state, generator)
            except Exception as error:  # a step function of the user's may raise any
                found = [error]
                if len(equals) > 1:
                    # One by one: the network that it is about is named, the others are spared.
                    found = [run_tasks([task], initial_state, generator)[0] for task in equals]
            spectra |= zip(part, found, strict=True)
    return [spectra[i] for i in range(len(tasks))]


def spectra_of(
    tasks: Sequence[Sequence[Task] | Exception],
    k: int | None,
    errors: Errors,
    initial_state: Any = None,
    generator: torch.Generator | None = None,
    *,
    clip_k: bool = False,
) -> list[Any]:
    """One spectrum for each model, the union of those of its parts.

    Args:
        tasks: Of each model, or why there are none.
        k: How many exponents of a union.
        errors: Whether the first error is raised, or those of all models take their places.
        initial_state: As in `lyapunov_spectrum`.
        generator: As there.
        clip_k: Whether ``k`` is what is wanted at most.

    Example:
        >>> spectra_of([ValueError("too short")], None, "return")
        [ValueError('too short')]
    """
    if errors not in ("raise", "return"):
        raise ValueError(f"errors must be 'raise' or 'return', but got {errors!r}.")
    ready = [
        task for of_model in tasks if not isinstance(of_model, Exception) for task in of_model
    ]
    found = iter(run_tasks(ready, initial_state, generator))
    results: list[LyapunovSpectrum | Exception] = []
    for of_model in tasks:
        if isinstance(of_model, Exception):
            results.append(of_model)
            continue
        parts = [next(found) for _ in of_model]
        failed = [part for part in parts if isinstance(part, Exception)]
        spectra = [part for part in parts if not isinstance(part, Exception)]
        results.append(failed[0] if failed else _union(spectra, k, clip_k))
    if errors == "raise":
        for result in results:
            if isinstance(result, Exception):
                raise result
    return results


def _union(
    spectra: Sequence[LyapunovSpectrum], k: int | None, clip_k: bool
) -> LyapunovSpectrum | Exception:
    total = sum(spectrum.state_size for spectrum in spectra)
    if k is not None and k > total and not clip_k:
        return ValueError(f"k must be in [1, {total}], the size of the state, but got {k}.")
    return union(spectra, k)


def _equals(tasks: Sequence[Task]) -> list[list[int]]:
    """Which tasks differ in numbers only."""
    if len(tasks) == 1:
        return [[0]]
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, task in enumerate(tasks):
        values, ends = task.sequences
        key = (signature(task.recurrent), values.shape, values.dtype, ends, task.settings)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _split(members: list[int], first: Task) -> list[list[int]]:
    """Equal networks in batches that fit."""
    size = 1
    if (
        len(members) > 1
        and isinstance(first.recurrent, nn.Module)
        and first.settings.layers != "coupled"
    ):
        parameters = list(first.recurrent.parameters())
        most = _MAX_PARAMETERS.get(parameters[0].device.type, _MAX_PARAMETERS["cpu"])
        size = max(1, most // sum(parameter.numel() for parameter in parameters))
    return [members[i : i + size] for i in range(0, len(members), size)]


def _run_equals(
    tasks: Sequence[Task], initial_state: Any, generator: torch.Generator | None
) -> list[LyapunovSpectrum]:
    """Spectra of networks that differ in nothing but the values of weights and inputs."""
    first = tasks[0]
    device = device_of(first.recurrent, first.sequences.values)
    if device.type == "cpu":
        # Compiling is no cost of this network.
        compiled.loaded()
    started = time.perf_counter()
    owners = [task.owner for task in tasks if task.owner is not None]
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _evaluating(owners):
        shared = all(task.given is first.given for task in tasks)
        each = tasks[:1] if shared else tasks
        values = torch.stack([task.sequences.values.to(device) for task in each], dim=1)
        lengths = first.sequences.lengths
        recurrents = [task.recurrent for task in tasks]
        stack = build_stack(
            recurrents,
            first.settings,
            batch=len(lengths),
            initial_state=initial_state,
            device=device,
            input_dtype=values.dtype,
        )
        spectra = run_stack(stack, values, lengths, len(tasks), first.settings, generator)
    share = (time.perf_counter() - started) / len(tasks)
    return [
        replace(spectrum, seconds=task.seconds + share)
        for spectrum, task in zip(spectra, tasks, strict=True)
    ]


@contextmanager
def _evaluating(owners: Sequence[nn.Module]) -> Iterator[None]:
    training = [module for owner in owners for module in owner.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
