"""Lyapunov spectra of recurrent networks along their inputs.

Notation: T steps, B sequences, D inputs, N state size, k leading exponents in nats per step.
Tangent vectors are carried *forward*: the frame becomes J_t F, so that after T steps it is
J_T ... J_1 F.

Sources: Benettin et al., Meccanica 15 (1980); Engelken, Wolf and Abbott, arXiv 2006.02427;
Vogt et al., arXiv 2204.04876.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from typing import Literal

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.groups import Errors
from optuna_aelle.lyapunov.groups import Task
from optuna_aelle.lyapunov.groups import about
from optuna_aelle.lyapunov.groups import spectra_of
from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import check_tensor
from optuna_aelle.lyapunov.inputs import inputs_of_each
from optuna_aelle.lyapunov.inputs import read_inputs
from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.parts import caller_level
from optuna_aelle.lyapunov.parts import feedback_of
from optuna_aelle.lyapunov.parts import is_bidirectional
from optuna_aelle.lyapunov.parts import layers_of
from optuna_aelle.lyapunov.settings import Direction
from optuna_aelle.lyapunov.settings import Layers
from optuna_aelle.lyapunov.settings import Method
from optuna_aelle.lyapunov.settings import Settings
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum


def lyapunov_spectrum(
    model: nn.Module | StepModel,
    inputs: Inputs,
    *,
    k: int | None = None,
    warmup: int = 20,
    state: StateKind = "full",
    method: Method = "auto",
    interval: int | Literal["auto"] = "auto",
    initial_state: Any = None,
    lengths: Sequence[int] | Tensor | None = None,
    layers: Layers = "union",
    direction: Direction | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    target_stderr: float | None = None,
    window: int | None = None,
    generator: torch.Generator | None = None,
) -> LyapunovSpectrum:
    """Compute the leading Lyapunov exponents of a recurrent network along its inputs.

    Returns:
        A `LyapunovSpectrum` whose ``exponents`` have shape ``(B, k)``, in nats per step.

    Args:
        model: `nn.RNN`, `nn.LSTM`, `nn.GRU` (stacked or not, biased or not, with a projection or
            not), one of their cells, a network of `optuna_aelle.lyapunov.cells`, or a step
            function through `from_step`; or a whole model that holds one or several. That is run
            once on ``inputs``, and each recurrent part reads what the model feeds it
            (`layers_of`); the spectrum of several is the union of their exponents, that of the
            whole in long runs where none feeds an earlier one back. Dropout is off.
        inputs: What ``model`` takes: ``(T, B, D)``, or ``(B, T, D)`` if the module is
            ``batch_first``, or ``(T, D)`` for one sequence, or a `PackedSequence`; for a whole
            model perhaps tokens. The first ``warmup`` steps settle state and frame and are not
            averaged.
        k: The number of exponents; None for all (the sum of all layers' state sizes).
        warmup: Steps before the average starts.
        state: For an LSTM, ``"full"`` is the true map of (h, c), ``"hidden"`` the paper's ∂h/∂h
            with c held fixed. Other cells have the full state only.
        method: How tangent vectors are kept apart: ``"lu"``, ``"qr"`` or ``"cholesky"``. All give
            the same numbers; LU is fast, and the most accurate on saturated networks. ``"auto"``
            is LU on the CPU, and on a GPU the faster of LU and Cholesky there.
        interval: Steps between renormalisations; ``"auto"`` adapts to how fast directions part, so
            that exponents stay within 1e-7 of those at 1 (float32 frames: 1e-4).
        initial_state: As the module takes it: ``h0`` or, for an LSTM, ``(h0, c0)``, with or
            without the layer axis; None for zeros.
        lengths: ``(B,)`` how many steps each sequence has, for padded inputs.
        layers: ``"union"`` takes a stack layer by layer, which gives the exponents of the whole
            stack; ``"coupled"`` carries tangent vectors of all layers together, for which it is
            differentiated by `torch.func`: slower.
        direction: Needed for a bidirectional module: which of its two systems.
        dtype: Dtype of the tangent vectors; the state runs in float64 (for a step function: in the
            dtype of the inputs). ``"auto"`` is float32 where that is faster and keeps exponents
            within 1e-4 as a rule, and float64 for small states, step functions, derivatives too
            small for float32, and for two-part states unless k is at most a quarter of N.
        target_stderr: Stop as soon as the standard error over the sequences is at most this for
            every exponent, nats per step; ``inputs`` are then the most that is read.
        window: Also record the exponents of each window of this many steps.
        generator: Draws the initial frame; None for a fixed one.

    Raises:
        ValueError: Inputs, weights or arguments that no spectrum can be computed from.
        FloatingPointError: The state itself overflowed along the inputs.

    Example:
        >>> spectrum = lyapunov_spectrum(torch.nn.GRU(3, 16), torch.randn(100, 8, 3))
        >>> spectrum.exponents.shape, spectrum.max_exponent < 0.0, spectrum.kaplan_yorke_dimension
        ((8, 16), True, 0.0)
    """
    check_tensor(inputs)
    (spectrum,) = lyapunov_spectra(
        [model],
        inputs,
        k=k,
        warmup=warmup,
        state=state,
        method=method,
        interval=interval,
        initial_state=initial_state,
        lengths=lengths,
        layers=layers,
        direction=direction,
        dtype=dtype,
        target_stderr=target_stderr,
        window=window,
        generator=generator,
    )
    assert isinstance(spectrum, LyapunovSpectrum)
    return spectrum


def lyapunov_spectra(
    models: Sequence[nn.Module | StepModel],
    inputs: Inputs | Sequence[Inputs],
    *,
    k: int | None = None,
    warmup: int = 20,
    state: StateKind = "full",
    method: Method = "auto",
    interval: int | Literal["auto"] = "auto",
    initial_state: Any = None,
    lengths: Sequence[int] | Tensor | None = None,
    layers: Layers = "union",
    direction: Direction | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    target_stderr: float | None = None,
    window: int | None = None,
    generator: torch.Generator | None = None,
    errors: Errors = "raise",
) -> list[Any]:
    """Compute the spectra of many networks; those of equal type and size run side by side.

    Returns:
        One `LyapunovSpectrum` for each model, in their order; with ``errors="return"`` the error
        of a model that has none.

    Args:
        models: As ``model`` of `lyapunov_spectrum`, of any types and sizes.
        inputs: For all models, or a list with those of each.
        k: This and all else as in `lyapunov_spectrum`.
        errors: ``"raise"`` the first error, or ``"return"`` each in the place of its model's
            spectrum, so that the others are not lost.

    Raises:
        ValueError: As in `lyapunov_spectrum`, with the model that it is about: ``models[2]: ...``.
        FloatingPointError: Likewise.

    Example:
        >>> networks = [torch.nn.GRU(3, size) for size in (8, 8, 16)]
        >>> [spectrum.state_size for spectrum in lyapunov_spectra(networks, torch.randn(80, 2, 3))]
        [8, 8, 16]
    """
    settings = Settings(
        k=k,
        warmup=warmup,
        state=state,
        method=method,
        interval=interval,
        layers=layers,
        direction=direction,
        dtype=dtype,
        target_stderr=target_stderr,
        window=window,
    )
    tasks: list[list[Task] | Exception] = []
    for i, (model, given) in enumerate(
        zip(models, inputs_of_each(inputs, len(models)), strict=True)
    ):
        name = f"models[{i}]" if len(models) > 1 else ""
        try:
            tasks.append(_tasks_of(model, given, name, settings, lengths, initial_state))
        except Exception as error:  # a model's own layers may raise any
            if errors == "raise":
                raise
            tasks.append(error)
    return spectra_of(tasks, k, errors, initial_state, generator)


def _tasks_of(
    model: nn.Module | StepModel,
    given: Inputs,
    name: str,
    settings: Settings,
    lengths: Sequence[int] | Tensor | None,
    initial_state: Any,
) -> list[Task]:
    """One for each part of one model."""
    started = time.perf_counter()
    with about(name):
        parts = layers_of(model, given)
        if len(parts) > 1:
            _check_common(model, [part.name for part in parts], settings, lengths, initial_state)
            settings = replace(settings, clip_k=True)
    some_bidirectional = any(is_bidirectional(part) for part in parts)
    tasks = []
    for part in parts:
        of_part = f"{name}.{part.name}".strip(".") if len(parts) > 1 else name
        if part.feeds_back:
            warnings.warn(feedback_of(model, part), UserWarning, stacklevel=caller_level())
        # A direction is for the bidirectional parts.
        one_way = some_bidirectional and not is_bidirectional(part)
        own = replace(settings, direction=None) if one_way else settings
        with about(of_part):
            sequences = read_inputs(part.recurrent, part.inputs, lengths, settings.warmup)
        seconds = time.perf_counter() - started
        started += seconds
        tasks.append(
            Task(part.recurrent, sequences, part.inputs, own, of_part, seconds, part.owner)
        )
    return tasks


def _check_common(
    model: object,
    names: Sequence[str],
    settings: Settings,
    lengths: object,
    initial_state: object,
) -> None:
    """Refuse what cannot be meant for several parts at once."""
    asked = {
        "initial_state": initial_state is not None,
        "lengths": lengths is not None,
        "window": settings.window is not None,
        "target_stderr": settings.target_stderr is not None,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ValueError(
                f"Expected {name}=None for {type(model).__name__}, which has {len(names)} "
                f"recurrent parts ({', '.join(names)}). Pass one of them with its own inputs."
            )
