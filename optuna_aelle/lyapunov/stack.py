"""All layers of equal networks along their inputs, and the records that come out.

Jacobians of stacked layers are block-triangular, so the spectrum of the stack is the union of its
layers' spectra, each along the input that the layer below feeds it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.inputs import reverse
from optuna_aelle.lyapunov.inputs import split_state
from optuna_aelle.lyapunov.lapack import single_threaded
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.diagonal import DiagonalMap
from optuna_aelle.lyapunov.maps.step import coupled
from optuna_aelle.lyapunov.models import build_layers
from optuna_aelle.lyapunov.plan import Plan
from optuna_aelle.lyapunov.run import LayerRun
from optuna_aelle.lyapunov.run import start_run
from optuna_aelle.lyapunov.settings import Settings
from optuna_aelle.lyapunov.spectrum import FloatArray
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum

# A picture of convergence takes a few points, each of enough steps to differ by more than noise.
_MAX_CHECKPOINTS = 10
_MIN_STRETCH = 50
# Inputs are projected and Jacobians linearised this many steps at a time at most: few large
# operations instead of many small ones, at a memory cost that does not grow with T ...
_CHUNK = 256
# How often standard errors are looked at, if a run is to stop early.
_LOOK = 64
# ... and of no more numbers at once than a cache holds, beside what is made of them.
_CHUNK_NUMBERS = 2**16
# Any will do, as long as the same call gives the same numbers.
_FRAME_SEED = 0


@dataclass
class Stack:
    """The layers of one direction of M equal networks.

    Attributes:
        layers: From the bottom up.
        starts: Their initial states; None for zero.
        others: The opposite direction of each layer, if the layers above read it too.
        other_starts: Their initial states.
        backward: Whether ``layers`` run from the end of the sequence.

    Example:
        >>> Stack(layers=[], starts=[], others=[], other_starts=[], backward=False).backward
        False
    """

    layers: list[RecurrentMap]
    starts: list[State | None]
    others: list[RecurrentMap]
    other_starts: list[State | None]
    backward: bool


def build_stack(
    recurrents: Sequence[nn.Module | StepModel],
    settings: Settings,
    *,
    batch: int,
    initial_state: Any,
    device: torch.device,
    input_dtype: torch.dtype,
) -> Stack:
    """Layers and their initial states for ``batch`` sequences.

    Example:
        >>> stack = build_stack(
        ...     [nn.GRU(3, 4, num_layers=2)],
        ...     Settings(),
        ...     batch=2,
        ...     initial_state=None,
        ...     device=torch.device("cpu"),
        ...     input_dtype=torch.float32,
        ... )
        >>> [layer.state_size for layer in stack.layers]
        [4, 4]
    """
    first = recurrents[0]
    bidirectional = bool(getattr(first, "bidirectional", False))
    backward = settings.direction == "backward"
    if bidirectional and settings.direction is None:
        raise ValueError(
            "Expected a direction for a bidirectional module, whose two directions are two "
            "separate systems, got direction=None. Pass direction='forward' or "
            "direction='backward'."
        )
    if backward and not bidirectional:
        raise ValueError(
            "direction must be None or 'forward' for a one-directional module, but got 'backward'."
        )

    def build(reverse: bool) -> list[RecurrentMap]:
        return build_layers(
            recurrents,
            state=settings.state,
            reverse=reverse,
            device=device,
            input_dtype=input_dtype,
        )

    directions = [build(False), build(True)] if bidirectional else [build(False)]
    in_order = [layer for pair in zip(*directions, strict=True) for layer in pair]
    sizes = [
        first.part_sizes if isinstance(first, StepModel) else layer.part_sizes
        for layer in in_order
    ]
    starts = split_state(initial_state, sizes, batch, device)
    if isinstance(first, StepModel) and starts[0] is not None:
        starts = [(torch.cat(starts[0], dim=-1),)]
    step = len(directions)
    stack = Stack(
        layers=directions[int(backward)],
        starts=starts[int(backward) :: step],
        others=directions[1 - int(backward)] if bidirectional else [],
        other_starts=starts[1 - int(backward) :: step] if bidirectional else [],
        backward=backward,
    )
    if settings.layers == "union" or len(stack.layers) == 1:
        return stack
    if bidirectional:
        raise ValueError(
            "layers='coupled' expects a one-directional stack: the two directions of a "
            "bidirectional one never form a map of a single state. Use layers='union'."
        )
    joined = [part for start in stack.starts if start is not None for part in start]
    return Stack(
        layers=[coupled(stack.layers)],
        starts=[(torch.cat(joined, dim=-1),) if joined else None],
        others=[],
        other_starts=[],
        backward=False,
    )


def run_stack(
    stack: Stack,
    values: Tensor,
    lengths: tuple[int, ...],
    n_models: int,
    settings: Settings,
    generator: torch.Generator | None,
) -> list[LyapunovSpectrum]:
    """One spectrum for each of the M networks; the time that it took is the caller's to note.

    Args:
        stack: Of M networks.
        values: Inputs ``(T, M or 1, B, D)``.
        lengths: Of each of the B sequences.
        n_models: M.
        settings: All else.
        generator: Draws the initial frame; None for a fixed one.

    Example:
        >>> network, settings, cpu = nn.GRU(3, 4), Settings(), torch.device("cpu")
        >>> stack = build_stack([network], settings, batch=2, initial_state=None, device=cpu,
        ...     input_dtype=torch.float32)
        >>> (spectrum,) = run_stack(stack, torch.randn(40, 1, 2, 3), (40, 40), 1, settings, None)
        >>> spectrum.exponents.shape
        (2, 4)
    """
    total = sum(layer.state_size for layer in stack.layers)
    k = total if settings.k is None else settings.k
    if settings.clip_k:
        k = min(k, total)
    if not 1 <= k <= total:
        raise ValueError(f"k must be in [1, {total}], the size of the state, but got {k}.")
    batch, warmup = len(lengths), settings.warmup
    unequal = min(lengths) < max(lengths)
    if unequal and (settings.window or settings.target_stderr):
        raise ValueError(
            "window and target_stderr expect sequences of equal length, got lengths from "
            f"{min(lengths)} to {max(lengths)}."
        )
    if settings.target_stderr and batch == 1:
        raise ValueError(
            "target_stderr is a standard error over sequences: expected at least 2, got 1."
        )
    if settings.target_stderr and stack.others and len(stack.layers) > 1:
        raise ValueError(
            "target_stderr cannot stop a bidirectional stack early: its upper layers read the "
            "whole sequence of both directions below. Pass target_stderr=None."
        )
    if settings.window and settings.window > max(lengths) - warmup:
        raise ValueError(
            f"window must be at most the {max(lengths) - warmup} steps after the warm-up, but got "
            f"{settings.window}."
        )
    traced = _checkpoints(max(lengths), settings)
    plan = Plan(
        warmup=warmup,
        ends=lengths * n_models,
        checkpoints=frozenset(traced) | frozenset(lengths),
        method=settings.method,
        interval=None if settings.interval == "auto" else settings.interval,
        frame_dtype=None if settings.dtype == "auto" else settings.dtype,
        sum_rule=settings.sum_rule and k == total,
    )

    def frame(size: int, wanted: int) -> Tensor:
        return (
            _initial_frame(size, wanted, generator).expand(n_models * batch, -1, -1).contiguous()
        )

    runs = [
        start_run(layer, layer.initial_state(n_models, batch, start), plan, k, frame)
        for layer, start in zip(stack.layers, stack.starts, strict=True)
    ]
    if stack.backward:
        values = reverse(values, lengths)
    with single_threaded:
        stopped = _advance(stack, runs, values, lengths, n_models, settings)
    lengths = tuple(min(end, stopped) for end in lengths)
    return [
        _collect(
            runs,
            slice(model * batch, (model + 1) * batch),
            k,
            lengths,
            [step for step in traced if step <= stopped],
            settings,
        )
        for model in range(n_models)
    ]


def _checkpoints(n_steps: int, settings: Settings) -> list[int]:
    """Steps at which running means are recorded; the last step is one of them."""
    measured = n_steps - settings.warmup
    if not (settings.window or settings.target_stderr):
        count = min(max(measured // _MIN_STRETCH, 1), _MAX_CHECKPOINTS)
        return [settings.warmup + round(measured * (i + 1) / count) for i in range(count)]
    steps = {n_steps}
    if settings.window:
        steps |= {*range(settings.warmup + settings.window, n_steps, settings.window)}
    if settings.target_stderr:
        steps |= {*range(_LOOK * (settings.warmup // _LOOK + 1), n_steps, _LOOK)}
    return sorted(steps)


def _advance(
    stack: Stack,
    runs: Sequence[LayerRun],
    values: Tensor,
    lengths: tuple[int, ...],
    n_models: int,
    settings: Settings,
) -> int:
    """Run all layers over the inputs; the step at which they stopped."""
    dtype = stack.layers[0].dtype
    n_steps = _chunk_steps(stack, n_models * len(lengths), settings)
    if not stack.others or len(runs) == 1:
        step = 0
        for chunk in torch.split(values, n_steps):
            signal = chunk.to(dtype)
            for run in runs:
                signal = run.advance(signal)
            step += len(chunk)
            if _is_reached(runs, step, n_models, settings):
                break
        return step
    # A layer above the first reads both directions, hence the whole sequence of the one below.
    signal = values.to(dtype)
    for run, other, start in zip(runs, stack.others, stack.other_starts, strict=True):
        own = torch.cat([run.advance(chunk) for chunk in torch.split(signal, n_steps)])
        opposite = _outputs(other, reverse(signal, lengths), n_models, start)
        pair = (own, reverse(opposite, lengths))
        signal = torch.cat(pair[::-1] if stack.backward else pair, dim=-1)
    return len(values)


def _chunk_steps(stack: Stack, n_systems: int, settings: Settings) -> int:
    """Steps at a time: a power of two, so that chunks end where `_LOOK` would."""
    if any(isinstance(layer, DiagonalMap) and not layer.by_steps for layer in stack.layers):
        return sys.maxsize
    widest = 4 * n_systems * max(layer.state_size for layer in stack.layers)
    fitting = max(_CHUNK_NUMBERS // widest, 8)
    most = _CHUNK if settings.target_stderr is None else _LOOK
    return min(most, 1 << (fitting.bit_length() - 1))


def _outputs(layer: RecurrentMap, signal: Tensor, n_models: int, start: State | None) -> Tensor:
    state = layer.initial_state(n_models, signal.shape[2], start)
    outputs = []
    for chunk in torch.split(signal, _CHUNK):
        trajectory = layer.unroll(layer.drive(chunk), state)
        state = tuple(part[-1] for part in trajectory.after)
        outputs.append(layer.visible(trajectory.after))
    return torch.cat(outputs)


def _is_reached(runs: Sequence[LayerRun], step: int, n_models: int, settings: Settings) -> bool:
    """Whether every network's standard errors are as small as was asked for."""
    if settings.target_stderr is None or any(step not in run.record for run in runs):
        return False
    sums = torch.cat([run.record[step] for run in runs], dim=1)
    exponents = (sums / (step - settings.warmup)).view(n_models, -1, sums.shape[1])
    errors = exponents.std(dim=1) / math.sqrt(exponents.shape[1])
    # A direction that is dead for all sequences has no error; for some, none that is known.
    dead = torch.isneginf(exponents).all(dim=1)
    return bool((dead | (errors <= settings.target_stderr)).all())


def _collect(
    runs: Sequence[LayerRun],
    systems: slice,
    k: int,
    lengths: tuple[int, ...],
    traced: Sequence[int],
    settings: Settings,
) -> LyapunovSpectrum:
    """The record of one network."""
    records = [
        {step: sums[systems].cpu().numpy() for step, sums in run.record.items()} for run in runs
    ]
    ends = np.array(lengths)
    means = np.concatenate([_means(record, ends, settings.warmup) for record in records], axis=1)
    # Every layer contributes its leading columns; the k largest of them all, by their mean.
    several = len(runs) > 1 or means.shape[1] > k
    order = np.argsort(-means.mean(axis=0), kind="stable")[:k] if several else slice(None)
    *before, _ = traced
    trace = [
        np.concatenate(
            [_means(record, np.minimum(ends, t), settings.warmup) for record in records], axis=1
        )[:, order]
        for t in before
    ]
    # The last step is one of those that are traced.
    trace.append(means[:, order])
    determinants = [run.log_det[systems].cpu().numpy() for run in runs if run.log_det is not None]
    windows = None
    if settings.window:
        whole = [t for t in traced if (t - settings.warmup) % settings.window == 0]
        sums = [np.concatenate([record[t] for record in records], axis=1) for t in whole]
        with np.errstate(invalid="ignore"):
            growth = np.diff(np.stack([np.zeros_like(sums[0]), *sums]), axis=0)
        # A direction that died before a window is dead in it: −inf − −inf.
        windows = np.where(np.isnan(growth), -np.inf, growth)[:, :, order] / settings.window
    return LyapunovSpectrum(
        exponents=-np.sort(-means, axis=1)[:, :k],
        state_size=sum(run.layer.state_size for run in runs),
        n_steps=int(ends.max()) - settings.warmup,
        trace=np.stack([values.mean(axis=0) for values in trace]),
        trace_steps=np.array(traced, dtype=np.int64) - settings.warmup,
        log_abs_det=np.sum(determinants, axis=0) / (ends - settings.warmup)
        if len(determinants) == len(runs)
        else None,
        seconds=0.0,
        window_exponents=windows,
        computations=tuple(run.carrier.computation for run in runs),
    )


def _means(record: dict[int, FloatArray], ends: Any, warmup: int) -> FloatArray:
    """``(B, k)`` running means, each sequence as of its own step in ``ends (B,)``."""
    first = int(ends[0])
    if (ends == first).all():
        return record[first] / (first - warmup)
    rows = [record[int(end)][i] / (int(end) - warmup) for i, end in enumerate(ends)]
    return np.stack(rows)


def _initial_frame(size: int, k: int, generator: torch.Generator | None) -> Tensor:
    """Random tangent vectors ``(k, N)`` float64.

    They span what they would span if they were orthonormal, and the volume of a frame is taken
    off where the sums begin.
    """
    if generator is None:
        return _fixed_frame(size, k)
    noise = torch.randn(size, k, generator=generator, dtype=torch.float64, device=generator.device)
    return noise.mT


# A network is asked for again and again while it trains, and others of its size are.
@lru_cache(maxsize=8)
def _fixed_frame(size: int, k: int) -> Tensor:
    return _initial_frame(size, k, torch.Generator().manual_seed(_FRAME_SEED))
