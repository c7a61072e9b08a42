"""Lyapunov spectra of recurrent networks along their inputs.

Notation: T steps, B sequences, D inputs, N state size, k leading exponents in nats per step.
Tangent vectors are carried *forward*: the frame becomes J_t F, so that after T steps it is
J_T ... J_1 F.

Sources: Benettin et al., Meccanica 15 (1980); Engelken, Wolf and Abbott, arXiv 2006.02427;
Vogt et al., arXiv 2204.04876.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Literal

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import Sequences
from optuna_aelle.lyapunov.inputs import device_of
from optuna_aelle.lyapunov.inputs import read_inputs
from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.models import StepModel
from optuna_aelle.lyapunov.models import find_recurrent
from optuna_aelle.lyapunov.models import signature
from optuna_aelle.lyapunov.settings import Direction
from optuna_aelle.lyapunov.settings import Layers
from optuna_aelle.lyapunov.settings import Method
from optuna_aelle.lyapunov.settings import Settings
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum
from optuna_aelle.lyapunov.stack import build_stack
from optuna_aelle.lyapunov.stack import run_stack

_FINGERPRINT_STEPS = 64
_FINGERPRINT_SEQUENCES = 4
_FINGERPRINT_WARMUP = 16

# How many networks of a group run side by side: more save launches, but leave the cache.
_MAX_PARAMETERS = {"cpu": 500_000, "cuda": 200_000_000}


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
            not), one of their cells, a network of `optuna_aelle.lyapunov.cells`, a module that
            holds exactly one of them (``inputs`` are then the inputs of that one), or a step
            function through `from_step`. Dropout between layers is off.
        inputs: ``(T, B, D)``, or ``(B, T, D)`` if the module is ``batch_first``, or ``(T, D)`` for
            one sequence, or a `PackedSequence`. The first ``warmup`` steps settle state and frame
            and are not averaged.
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
        >>> spectrum = lyapunov_spectrum(torch.nn.GRU(3, 64), torch.randn(200, 8, 3))
        >>> spectrum.max_exponent, spectrum.stderr[0], spectrum.kaplan_yorke_dimension
    """
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
) -> list[LyapunovSpectrum]:
    """Compute the spectra of many networks; those of equal type and size run side by side.

    Returns:
        One `LyapunovSpectrum` for each model, in their order.

    Args:
        models: As ``model`` of `lyapunov_spectrum`, of any types and sizes.
        inputs: For all models, or a list with those of each.
        k: This and all else as in `lyapunov_spectrum`.
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
    of_model = [inputs] * len(models) if isinstance(inputs, Inputs) else list(inputs)
    if len(of_model) != len(models):
        raise ValueError(
            f"Expected inputs for all models, or a list of {len(models)}, one each, got a list of "
            f"{len(of_model)}."
        )
    groups: dict[tuple[object, ...], list[int]] = {}
    recurrents: list[nn.Module | StepModel] = []
    sequences: list[Sequences] = []
    for i, (model, given) in enumerate(zip(models, of_model, strict=True)):
        try:
            recurrents.append(find_recurrent(model))
            sequences.append(read_inputs(recurrents[i], given, lengths, warmup))
        except (TypeError, ValueError) as error:
            if len(models) == 1:
                raise
            raise type(error)(f"models[{i}]: {error}") from error
        values, ends = sequences[i]
        key = (signature(recurrents[i]), tuple(values.shape), values.dtype, ends)
        groups.setdefault(key, []).append(i)

    def spectra_of(part: list[int]) -> list[LyapunovSpectrum]:
        return _spectra_of_equals(
            [recurrents[i] for i in part],
            [sequences[i] for i in part],
            [of_model[i] for i in part],
            settings,
            initial_state,
            generator,
        )

    spectra: dict[int, LyapunovSpectrum] = {}
    for members in groups.values():
        for part in _split(members, recurrents[members[0]], coupled=layers == "coupled"):
            try:
                found = spectra_of(part)
            except FloatingPointError:
                if len(models) == 1:
                    raise
                found = _one_by_one(part, spectra_of)
            spectra |= zip(part, found, strict=True)
    return [spectra[i] for i in range(len(models))]


def _one_by_one(
    members: list[int], spectra_of: Callable[[list[int]], list[LyapunovSpectrum]]
) -> list[LyapunovSpectrum]:
    """As ``spectra_of(members)``, with an error that names the model that it is about."""
    found = []
    for i in members:
        try:
            found += spectra_of([i])
        except FloatingPointError as error:
            raise FloatingPointError(f"models[{i}]: {error}") from error
    return found


def spectral_fingerprint(
    model: nn.Module | StepModel,
    inputs: Inputs,
    k: int = FINGERPRINT_LENGTH,
    *,
    state: StateKind = "full",
    direction: Direction | None = None,
) -> LyapunovSpectrum:
    """The cheap setting used inside a study: at most 4 sequences of 64 steps, k leading exponents.

    It ranks networks as a long run does and costs a few percent of a training epoch. Probe inputs
    should be the same for all trials of a study.

    Args:
        model: As in `lyapunov_spectrum`.
        inputs: As in `lyapunov_spectrum`; the first sequences and steps are used.
        k: At most this many exponents (fewer if the state is smaller).
        state: As in `lyapunov_spectrum`.
        direction: As in `lyapunov_spectrum`.
    """
    recurrent = find_recurrent(model)
    values, lengths = read_inputs(recurrent, inputs, None, warmup=0)
    batch = min(_FINGERPRINT_SEQUENCES, len(lengths))
    n_steps = min(_FINGERPRINT_STEPS, *lengths[:batch])
    settings = Settings(
        k=k,
        clip_k=True,
        warmup=min(_FINGERPRINT_WARMUP, n_steps // 4),
        state=state,
        direction=direction,
    )
    probe = Sequences(values[:n_steps, :batch], (n_steps,) * batch)
    return _spectra_of_equals([recurrent], [probe], [inputs], settings)[0]


def _split(
    members: list[int], recurrent: nn.Module | StepModel, *, coupled: bool
) -> list[list[int]]:
    """Equal networks in batches that fit."""
    size = 1
    if isinstance(recurrent, nn.Module) and not coupled:
        device = next(recurrent.parameters()).device.type
        n_parameters = sum(parameter.numel() for parameter in recurrent.parameters())
        size = max(1, _MAX_PARAMETERS.get(device, _MAX_PARAMETERS["cpu"]) // n_parameters)
    return [members[i : i + size] for i in range(0, len(members), size)]


def _spectra_of_equals(
    recurrents: Sequence[nn.Module | StepModel],
    sequences: Sequence[Sequences],
    given: Sequence[Inputs],
    settings: Settings,
    initial_state: Any = None,
    generator: torch.Generator | None = None,
) -> list[LyapunovSpectrum]:
    """Spectra of networks that differ in nothing but the values of weights and inputs."""
    device = device_of(recurrents[0], given[0])
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        shared = all(inputs is given[0] for inputs in given)
        each = sequences[:1] if shared else sequences
        values = torch.stack([sequence.values.to(device) for sequence in each], dim=1)
        lengths = sequences[0].lengths
        stack = build_stack(
            recurrents,
            settings,
            batch=len(lengths),
            initial_state=initial_state,
            device=device,
            input_dtype=values.dtype,
        )
        return run_stack(stack, values, lengths, len(recurrents), settings, generator)
