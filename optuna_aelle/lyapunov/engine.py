"""Lyapunov spectra of recurrent networks along their inputs.

Notation: T steps, B sequences, D inputs, N state size of a layer, k leading exponents in nats per
step. Tangent vectors are carried *forward*: the frame becomes J_t F, so that after T steps it is
J_T ... J_1 F. Jacobians of stacked layers are block-triangular, so the spectrum of the stack is
the union of its layers' spectra, each along the input that the layer below feeds it.

Sources: Benettin et al., Meccanica 15 (1980); Engelken, Wolf and Abbott, arXiv 2006.02427;
Vogt et al., arXiv 2204.04876.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.lyapunov.inputs import InitialState
from optuna_aelle.lyapunov.inputs import batch_axis
from optuna_aelle.lyapunov.inputs import device_of
from optuna_aelle.lyapunov.inputs import split_state
from optuna_aelle.lyapunov.inputs import state_size_of
from optuna_aelle.lyapunov.inputs import time_major
from optuna_aelle.lyapunov.maps import Derivative
from optuna_aelle.lyapunov.maps import RecurrentMap
from optuna_aelle.lyapunov.maps import State
from optuna_aelle.lyapunov.maps import StateKind
from optuna_aelle.lyapunov.models import StepModel
from optuna_aelle.lyapunov.models import build_layers
from optuna_aelle.lyapunov.models import find_recurrent
from optuna_aelle.lyapunov.renormalization import renormalize_lu
from optuna_aelle.lyapunov.renormalization import renormalize_qr
from optuna_aelle.lyapunov.spectrum import FloatArray
from optuna_aelle.lyapunov.spectrum import LyapunovSpectrum

_MAX_CHECKPOINTS = 10
_MIN_STRETCH = 10
# Inputs are projected this many steps at a time: one large product instead of many small ones,
# at a memory cost that does not grow with T.
_CHUNK = 64
_FRAME_SEED = 0

_FINGERPRINT_STEPS = 64
_FINGERPRINT_SEQUENCES = 4
_FINGERPRINT_WARMUP = 16


def lyapunov_spectrum(
    model: nn.Module | StepModel,
    inputs: Tensor,
    *,
    k: int | None = None,
    warmup: int = 20,
    state: StateKind = "full",
    method: Literal["auto", "lu", "qr"] = "auto",
    interval: int | Literal["auto"] = "auto",
    initial_state: InitialState | None = None,
    direction: Literal["forward", "backward"] | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    generator: torch.Generator | None = None,
) -> LyapunovSpectrum:
    """Compute the leading Lyapunov exponents of a recurrent network along its inputs.

    Returns:
        A `LyapunovSpectrum` whose ``exponents`` have shape ``(B, k)``, in nats per step.

    Args:
        model: `nn.RNN`, `nn.LSTM`, `nn.GRU` (stacked or not, biased or not), one of their cells, a
            module that holds exactly one of them (``inputs`` are then the inputs of that one), or
            a step function through `from_step`. Dropout between layers is off.
        inputs: ``(T, B, D)``, or ``(B, T, D)`` if the module is ``batch_first``, or ``(T, D)`` for
            one sequence. The first ``warmup`` steps settle state and frame and are not averaged.
        k: The number of exponents; None for all (the sum of all layers' state sizes).
        warmup: Steps before the average starts.
        state: For an LSTM, ``"full"`` is the true map of (h, c), ``"hidden"`` the paper's ∂h/∂h
            with c held fixed. Other cells have one state only.
        method: ``"lu"`` (the default) or ``"qr"`` at every renormalisation. Both give the same
            numbers; LU is faster, and more accurate on saturated networks.
        interval: Steps between renormalisations; ``"auto"`` is every step.
        initial_state: As the module takes it: ``h0`` or, for an LSTM, ``(h0, c0)``, with or
            without the layer axis; None for zeros.
        direction: Needed for a bidirectional module: which of its two systems.
        dtype: Dtype of the tangent vectors. ``"auto"`` is float64. The state runs in float64
            (for a step function: in the dtype of the inputs).
        generator: Draws the initial frame; None for a fixed one.

    Raises:
        ValueError: Inputs, weights or arguments that no spectrum can be computed from.
        FloatingPointError: The state itself overflowed along the inputs.
    """
    started = time.perf_counter()
    recurrent = find_recurrent(model)
    if method not in ("auto", "lu", "qr"):
        raise ValueError(f"method must be 'auto', 'lu' or 'qr', but got {method!r}.")
    if state not in ("full", "hidden"):
        raise ValueError(f"state must be 'full' or 'hidden', but got {state!r}.")
    if interval != "auto" and interval < 1:
        raise ValueError(f"interval must be 'auto' or at least 1, but got {interval}.")
    frame_dtype = torch.float64 if dtype == "auto" else dtype
    if not frame_dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating dtype or 'auto', but got {frame_dtype}.")

    device = device_of(recurrent, inputs)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        sequence = time_major(recurrent, inputs, warmup).to(device)
        maps = build_layers(
            recurrent,
            state=state,
            direction=direction,
            frame_dtype=frame_dtype,
            input_dtype=sequence.dtype,
        )
        if direction == "backward":
            sequence = sequence.flip(0)
        n_steps, batch = sequence.shape[:2]
        total = sum(layer.state_size for layer in maps)
        if k is None:
            k = total
        if not 1 <= k <= total:
            raise ValueError(f"k must be in [1, {total}], the size of the state, but got {k}.")
        given = split_state(initial_state, maps, batch, device)
        runs = [
            _LayerRun(
                layer,
                layer.initial_state(batch, start),
                _initial_frame(batch, min(k, layer.state_size), layer, frame_dtype, generator),
                warmup=warmup,
                n_steps=n_steps,
                use_qr=method == "qr",
                sum_rule=k == total,
                interval=1 if interval == "auto" else interval,
            )
            for layer, start in zip(maps, given, strict=True)
        ]
        for chunk in torch.split(sequence, _CHUNK):
            signal = chunk.to(maps[0].dtype)
            for run in runs:
                signal = run.advance(signal)

    exponents = _union([run.log_sums for run in runs], k) / (n_steps - warmup)
    trace_steps = np.array([steps for steps, _ in runs[0].trace], dtype=np.int64)
    trace = [_union([run.trace[i][1] for run in runs], k) for i in range(len(trace_steps))]
    determinants = [run.log_det.cpu().numpy() for run in runs if run.log_det is not None]
    return LyapunovSpectrum(
        exponents=-np.sort(-exponents, axis=1),
        state_size=total,
        n_steps=n_steps - warmup,
        trace=np.stack([log.mean(axis=0) / t for t, log in zip(trace_steps, trace, strict=True)]),
        trace_steps=trace_steps,
        log_abs_det=np.sum(determinants, axis=0) / (n_steps - warmup)
        if len(determinants) == len(runs)
        else None,
        seconds=time.perf_counter() - started,
    )


def spectral_fingerprint(
    model: nn.Module | StepModel,
    inputs: Tensor,
    k: int = FINGERPRINT_LENGTH,
    *,
    state: StateKind = "full",
) -> LyapunovSpectrum:
    """The cheap setting used inside a study: at most 4 sequences of 64 steps, k leading exponents.

    It ranks networks as a long run does and costs a few percent of a training epoch. Probe inputs
    should be the same for all trials of a study.

    Args:
        model: As in `lyapunov_spectrum`.
        inputs: As in `lyapunov_spectrum`; the first sequences and steps are used.
        k: At most this many exponents (fewer if the state is smaller).
        state: As in `lyapunov_spectrum`.
    """
    recurrent = find_recurrent(model)
    sequence = inputs.unsqueeze(batch_axis(recurrent)) if inputs.dim() == 2 else inputs
    time_axis = 1 - batch_axis(recurrent)
    n_steps = min(_FINGERPRINT_STEPS, sequence.shape[time_axis])
    sequence = sequence.narrow(time_axis, 0, n_steps)
    batch = min(_FINGERPRINT_SEQUENCES, sequence.shape[1 - time_axis])
    sequence = sequence.narrow(1 - time_axis, 0, batch)
    size = state_size_of(recurrent, state)
    return lyapunov_spectrum(
        recurrent,
        sequence,
        k=min(k, size),
        warmup=min(_FINGERPRINT_WARMUP, n_steps // 4),
        state=state,
        # The leading half stays exact when two steps are renormalised at once; tails may not.
        interval=2 if k <= size // 2 else 1,
    )


class _LayerRun:
    """One layer on its way along the sequence: state, frame and the sums of logarithms."""

    def __init__(
        self,
        layer: RecurrentMap,
        state: State,
        frame: Tensor,
        *,
        warmup: int,
        n_steps: int,
        use_qr: bool,
        sum_rule: bool,
        interval: int,
    ) -> None:
        self.layer = layer
        self.state = state
        self.frame = layer.to_working(state, frame)
        self.log_sums = frame.new_zeros(frame.shape[:2], dtype=torch.float64)
        self.log_det: Tensor | None = self.log_sums.new_zeros(len(frame)) if sum_rule else None
        self.trace: list[tuple[int, Tensor]] = []
        self._renormalize = renormalize_qr if use_qr else renormalize_lu
        self._interval = interval
        self._warmup = warmup
        measured = n_steps - warmup
        n_checkpoints = min(max(measured // _MIN_STRETCH, 1), _MAX_CHECKPOINTS)
        self._checkpoints = {
            warmup + round(measured * (i + 1) / n_checkpoints) for i in range(n_checkpoints)
        }
        self._step = 0

    def advance(self, signal: Tensor) -> Tensor:
        """Run over ``signal (T, B, D)`` and return what the next layer reads, ``(T, B, H)``."""
        states, derivatives = self.layer.unroll(self.layer.drive(signal), self.state)
        if not bool(torch.isfinite(states[0]).all()):
            raise FloatingPointError(
                "Expected a state that stays finite along the inputs, but it overflowed (a ReLU "
                "network with a growing direction, say). Shorten the sequence or scale the "
                "weights down."
            )
        self._add_log_det(derivatives)
        # The state needs float64; from here on the frame's dtype does.
        steps = zip(*(d.to(self.frame.dtype).unbind(0) for d in derivatives), strict=True)
        for t, derivative in enumerate(steps):
            self.frame = self.layer.tangent(derivative, self.frame)
            self._step += 1
            if self._step == self._warmup or self._step in self._checkpoints:
                self._orthonormalize(tuple(part[t] for part in states))
            elif self._step % self._interval == 0:
                self.frame, log_growth = self._renormalize(self.frame)
                self.log_sums += log_growth
        self.state = tuple(part[-1] for part in states)
        return states[0]

    def _add_log_det(self, derivatives: Derivative) -> None:
        """Add ln|det J| of the measured steps; ``derivatives`` are those of the next stretch."""
        if self.log_det is None:
            return
        log_det = self.layer.log_abs_det(derivatives)
        skipped = max(self._warmup - self._step, 0)
        self.log_det = None if log_det is None else self.log_det + log_det[skipped:].sum(dim=0)

    def _orthonormalize(self, state: State) -> None:
        """QR in float64 and in the state's own coordinates: from here on, sums are Benettin's."""
        # LU first: it keeps rows of very different size apart where QR would blur them.
        frame, log_growth = self._renormalize(self.frame)
        orthonormal, log_rest = renormalize_qr(self.layer.from_working(state, frame.double()))
        self.frame = self.layer.to_working(state, orthonormal).to(frame.dtype)
        if self._step == self._warmup:
            self.log_sums.zero_()
        else:
            self.log_sums += log_growth + log_rest
            self.trace.append((self._step - self._warmup, self.log_sums.clone()))


def _union(logs: Sequence[Tensor], k: int) -> FloatArray:
    """The k largest of all layers' columns (by their mean), ``(B, k)``, descending by mean."""
    joined: FloatArray = torch.cat(list(logs), dim=1).cpu().numpy()
    if len(logs) == 1:
        return joined
    return joined[:, np.argsort(-joined.mean(axis=0), kind="stable")[:k]]


def _initial_frame(
    batch: int,
    k: int,
    layer: RecurrentMap,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Tensor:
    """Random orthonormal tangent vectors ``(B, k, N)``, the same for every sequence."""
    if generator is None:
        generator = torch.Generator().manual_seed(_FRAME_SEED)
    device = layer.initial_state(1, None)[0].device
    noise = torch.randn(
        layer.state_size, k, generator=generator, dtype=torch.float64, device=generator.device
    )
    frame: Tensor = torch.linalg.qr(noise).Q.mT.to(device=device, dtype=dtype)
    return frame.expand(batch, -1, -1).contiguous()
