"""The cheap setting used inside a study: whole spectra along short runs, of whole models.

Leading exponents of networks of unequal sizes cannot be compared. All N along a few steps cost
about as much as 32 of them along 64 steps of four sequences and predict as well or better
(`benchmarks.decisions.fingerprints`): a spectrum tells by its shape, which short runs show, too.

Notation as in `engine`: T steps, B sequences, D inputs, N exponents in nats per step.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.groups import Errors
from optuna_aelle.lyapunov.groups import Task
from optuna_aelle.lyapunov.groups import about
from optuna_aelle.lyapunov.groups import spectra_of
from optuna_aelle.lyapunov.inputs import Inputs
from optuna_aelle.lyapunov.inputs import Sequences
from optuna_aelle.lyapunov.inputs import batch_axis
from optuna_aelle.lyapunov.inputs import check_tensor
from optuna_aelle.lyapunov.inputs import inputs_of_each
from optuna_aelle.lyapunov.inputs import read_inputs
from optuna_aelle.lyapunov.maps.base import StateKind
from optuna_aelle.lyapunov.parts import Part
from optuna_aelle.lyapunov.parts import caller_level
from optuna_aelle.lyapunov.parts import feedback_of
from optuna_aelle.lyapunov.parts import is_bidirectional
from optuna_aelle.lyapunov.parts import layers_of
from optuna_aelle.lyapunov.settings import Direction
from optuna_aelle.lyapunov.settings import Settings
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum

# Steps and sequences, by the size N of the state up to which they hold. The cost of a step grows
# with N³, and large networks average over their own units: along 16 steps of one sequence their
# fingerprints lie within .1 to .2 of the spread between networks of those along 32 of two, without
# bias, and predict as well. With 12 steps an LSTM of 256 units costs 3 % of a short epoch; each of
# its exponents is .08 to .23 nats (rms) from that along 32 steps, with 16 it would be .05 to .16.
_PROBES = ((64, 32, 2), (128, 32, 1), (384, 16, 1), (math.inf, 12, 1))
# A quarter of the steps, so that the state has left its start and most steps are averaged.
_WARMUP_SHARE = 4
# Fewer steps give no spectrum; fewer than `lyapunov_spectrum` takes for its warm-up may be the
# number of sequences, misread.
_LEAST_STEPS = 8
_FEW_STEPS = 20


def spectral_fingerprint(
    model: nn.Module | StepModel,
    inputs: Inputs,
    k: int | None = None,
    *,
    state: StateKind = "full",
    direction: Direction | None = None,
) -> LyapunovSpectrum:
    """The cheap setting used inside a study: the whole spectrum along 12 to 32 steps.

    It ranks networks as a long run does and costs a few percent of a training epoch. Probe inputs
    should be the same for all trials of a study.

    Args:
        model: A recurrent module or `StepModel`, as in `lyapunov_spectrum`; or a whole model that
            holds one or several. It is run once on ``inputs`` (in evaluation mode, and left as it
            was), and each recurrent part reads what the model feeds it. The fingerprint of several
            is the union of their exponents, which is exact where none feeds an earlier one back.
        inputs: What ``model`` takes: sequences as in `lyapunov_spectrum`, or tokens for a model
            that embeds them. If a whole model cannot be run on them but holds exactly one
            recurrent part, they may be that part's own. The first 32 steps of the first 2
            sequences count, of a `PackedSequence` those of the 2 longest; from N = 65 on of one
            sequence, from N = 129 on 16 steps, from 385 on 12.
        k: At most this many leading exponents; None for all, which trials want.
        state: As in `lyapunov_spectrum`.
        direction: As in `lyapunov_spectrum`; of a whole model, for its bidirectional parts.

    Raises:
        TypeError: ``inputs`` are no tensor, or ``model`` is no network.
        ValueError: As in `lyapunov_spectrum`, or fewer than 8 steps.
        FloatingPointError: The state itself overflowed along the inputs.

    Example:
        >>> import torch
        >>> spectral_fingerprint(nn.GRU(1, 16, batch_first=True), torch.randn(4, 64, 1)).n_steps
        24
        >>> model = nn.Sequential(nn.Embedding(50, 8), nn.LSTM(8, 16, batch_first=True))
        >>> spectral_fingerprint(model, torch.randint(50, (4, 64))).exponents.shape
        (2, 32)
    """
    check_tensor(inputs)
    (found,) = spectral_fingerprints([model], inputs, k, state=state, direction=direction)
    assert isinstance(found, LyapunovSpectrum)
    return found


def spectral_fingerprints(
    models: Sequence[nn.Module | StepModel],
    inputs: Inputs | Sequence[Inputs],
    k: int | None = None,
    *,
    state: StateKind = "full",
    direction: Direction | None = None,
    errors: Errors = "raise",
) -> list[Any]:
    """The fingerprints of many networks; those of equal type and size run side by side.

    Returns:
        One `LyapunovSpectrum` for each model, in their order; with ``errors="return"`` the error
        of a model that has none.

    Args:
        models: As ``model`` of `spectral_fingerprint`, of any types and sizes.
        inputs: For all models, or a list with those of each.
        k: This and all else as in `spectral_fingerprint`.
        state: As there.
        direction: As there.
        errors: ``"raise"`` the first error, or ``"return"`` each in the place of its model's
            spectrum, so that the others are not lost.

    Raises:
        TypeError: As in `spectral_fingerprint`, with the model that it is about:
            ``models[2]: ...``.
        ValueError: Likewise.
        FloatingPointError: Likewise.

    Example:
        >>> import torch
        >>> networks = [nn.GRU(1, size, batch_first=True) for size in (8, 8, 16)]
        >>> [f.state_size for f in spectral_fingerprints(networks, torch.randn(4, 64, 1))]
        [8, 8, 16]
    """
    doubts: dict[object, str] = {}
    tasks: list[list[Task] | Exception] = []
    for i, (model, given) in enumerate(
        zip(models, inputs_of_each(inputs, len(models)), strict=True)
    ):
        name = f"models[{i}]" if len(models) > 1 else ""
        try:
            tasks.append(_tasks_of(model, given, name, k, state, direction, doubts))
        except Exception as error:  # a model's own layers may raise any
            if errors == "raise":
                raise
            tasks.append(error)
    for doubt in doubts.values():
        warnings.warn(doubt, UserWarning, stacklevel=caller_level())
    return spectra_of(tasks, k, errors, clip_k=True)


def _tasks_of(
    model: nn.Module | StepModel,
    given: Inputs,
    name: str,
    k: int | None,
    state: StateKind,
    direction: Direction | None,
    doubts: dict[object, str],
) -> list[Task]:
    """A fingerprint of each part of one model; notes in ``doubts`` what may not be meant."""
    started = time.perf_counter()
    with about(name):
        parts = layers_of(model, given)
    some_bidirectional = any(is_bidirectional(part) for part in parts)
    tasks = []
    for part in parts:
        of_part = f"{name}.{part.name}".strip(".") if len(parts) > 1 or name else ""
        one_way = some_bidirectional and not is_bidirectional(part)
        with about(of_part):
            sequences, n_steps = _shortened(part, state, doubts)
        if part.feeds_back:
            doubts.setdefault(type(model), feedback_of(model, part))
        settings = Settings(
            k=k,
            clip_k=True,
            warmup=n_steps // _WARMUP_SHARE,
            state=state,
            direction=None if one_way else direction,
            sum_rule=False,
        )
        seconds = time.perf_counter() - started
        started += seconds
        tasks.append(
            Task(
                part.recurrent,
                sequences,
                part.inputs,
                settings,
                of_part,
                seconds,
                part.owner,
            )
        )
    return tasks


def _state_size(recurrent: nn.Module | StepModel, state: StateKind) -> int:
    """N, before anything is built."""
    if isinstance(recurrent, StepModel):
        return recurrent.state_size
    size: int = getattr(recurrent, "hidden_size", 1) * getattr(recurrent, "num_layers", 1)
    in_two_parts = isinstance(recurrent, nn.LSTM | nn.LSTMCell) and state == "full"
    return size * (2 if in_two_parts else int(getattr(recurrent, "n_parts", 1)))


def _shortened(part: Part, state: StateKind, doubts: dict[object, str]) -> tuple[Sequences, int]:
    """The probe of a fingerprint, and its steps; notes in ``doubts`` what may be misread."""
    # Where nothing is carried, steps cost nothing.
    cheap = isinstance(part.recurrent, DiagonalModel)
    size = 1 if cheap else _state_size(part.recurrent, state)
    most_steps, most_sequences = next(probe[1:] for probe in _PROBES if size <= probe[0])
    values, lengths = read_inputs(part.recurrent, part.inputs, None, warmup=0)
    n_steps = lengths[0]
    if min(lengths) < max(lengths):
        longest = sorted(range(len(lengths)), key=lambda i: -lengths[i])[:most_sequences]
        # Rather one sequence than none.
        longest = [i for i in longest if lengths[i] >= _LEAST_STEPS] or longest
        n_steps = lengths[longest[-1]]
        values = values[:, longest]
    if n_steps < _LEAST_STEPS:
        raise ValueError(
            f"Expected at least {_LEAST_STEPS} steps, got {_as_read(part, n_steps, len(lengths))}."
        )
    if n_steps < min(_FEW_STEPS, len(lengths)) and _two_ways(part) is not None:
        # One warning for all networks that read the same.
        doubt = f"The probe has {_as_read(part, n_steps, len(lengths))}."
        doubts.setdefault((n_steps, len(lengths)), doubt)
    n_steps = min(most_steps, n_steps)
    values = values[:n_steps, :most_sequences]
    return Sequences(values, (n_steps,) * values.shape[1]), n_steps


def _as_read(part: Part, n_steps: int, batch: int) -> str:
    """How the inputs were read, what else they may be, and what to do then."""
    read = f"{_count(n_steps, 'step')} of {_count(batch, 'sequence')}"
    if part.by_steps:
        return f"{read}: so often was the module called. Pass longer inputs"
    shape = _two_ways(part)
    if shape is None:
        return f"{read}. Pass longer inputs"
    batch_first = batch_axis(part.recurrent) == 0
    form = "(B, T, D)" if batch_first else "(T, B, D)"
    return (
        f"shape {shape}, read as {form}: {read}. If it is "
        f"{_count(batch, 'step')} of {_count(n_steps, 'sequence')}, transpose it or build the "
        f"module with batch_first={not batch_first}; otherwise pass longer inputs"
    )


def _two_ways(part: Part) -> tuple[int, ...] | None:
    """The shape of inputs whose steps and sequences may be mistaken for each other, or None."""
    inputs = part.inputs
    if part.by_steps or not isinstance(inputs, Tensor) or inputs.dim() != 3:
        return None
    return tuple(inputs.shape)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
