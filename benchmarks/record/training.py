"""What did every epoch of a training show? Train a stack of networks, and keep it.

Notation: G networks, E epochs, S fingerprints of k exponents (nats per step).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.record.networks import Stack
from benchmarks.record.spaces import Params
from benchmarks.record.tasks import Task
from benchmarks.record.tasks.base import BATCH_SIZE
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import spectral_fingerprints
from optuna_aelle.lyapunov.spectrum import FloatArray

# −1 is the untrained network, 0 follows the first epoch. Spectra change fast at first.
SPECTRUM_STEPS = (-1, 0, 1, 2, 4, 7, 12, 20, 33, 54)
# Torch's defaults, and its epsilon below.
ADAM_BETAS, RMSPROP_BETA = (0.9, 0.999), 0.99
# Plain gradient steps need about this much more to keep pace with normalised ones. They follow a
# running mean of gradients with Adam's first rate, which is a momentum of .9 at twice the rate.
SGD_FACTOR = 20.0
_EPSILON = 1e-8


@dataclass(frozen=True)
class StackRecord:
    """What the networks of a stack did.

    Attributes:
        train_loss: ``(G, E)`` mean over the epoch's batches; NaN once a training has diverged.
        validation: ``(G, E)`` the score.
        test: ``(G, E)`` the score on test data.
        seconds: ``(G, E)`` of training and validation: the stack's time over G.
        spectra: ``(G, S, 32)`` nats per step, NaN where there is none.
        spectrum_seconds: ``(G, S)``, shared in the same way.
        state_sizes: ``(G,)`` how many exponents each network has.
    """

    train_loss: FloatArray
    validation: FloatArray
    test: FloatArray
    seconds: FloatArray
    spectra: FloatArray
    spectrum_seconds: FloatArray
    state_sizes: npt.NDArray[np.int64]


def train_stack(
    task: Task,
    cell: str,
    params: Sequence[Params],
    seeds: Sequence[int],
    *,
    n_epochs: int,
    device: torch.device,
    after_epoch: Callable[[], None] = lambda: None,
) -> StackRecord:
    """Train configurations of one shape and batch size for ``n_epochs``, and record."""
    probe = task.probe
    steps = [step for step in SPECTRUM_STEPS if step < n_epochs]
    batch_size = params[0].get("batch_size", BATCH_SIZE)
    stack = Stack(
        params,
        cell,
        seeds,
        n_inputs=task.n_inputs,
        n_outputs=task.n_outputs,
        n_steps=probe.shape[1],
        device=device,
    )
    optimizer = StackOptimizer(stack, params)
    size = len(params), n_epochs
    fingerprints = len(params), len(steps)
    record = StackRecord(
        train_loss=np.full(size, np.nan),
        validation=np.full(size, np.nan),
        test=np.full(size, np.nan),
        seconds=np.full(size, np.nan),
        spectra=np.full((*fingerprints, FINGERPRINT_LENGTH), np.nan),
        spectrum_seconds=np.full(fingerprints, np.nan),
        state_sizes=np.zeros(len(params), dtype=np.int64),
    )
    for step in range(-1, n_epochs):
        if step >= 0:
            started = time.perf_counter()
            record.train_loss[:, step] = train_epoch(stack, task, optimizer, step, batch_size)
            record.validation[:, step] = _score(stack, task, task.split.validation, optimizer)
            record.seconds[:, step] = (time.perf_counter() - started) / len(params)
            record.test[:, step] = _score(stack, task, task.split.test, optimizer)
            after_epoch()
        if step in steps:
            column = steps.index(step)
            alive = [i for i in range(len(params)) if not optimizer.diverged[i]]
            started = time.perf_counter()
            for i, spectrum in zip(alive, _fingerprints(stack, probe, alive), strict=True):
                record.spectra[i, column] = resample_exponents(spectrum.mean, FINGERPRINT_LENGTH)
                record.state_sizes[i] = spectrum.state_size
            seconds = (time.perf_counter() - started) / max(len(alive), 1)
            record.spectrum_seconds[alive, column] = seconds
    return record


class StackOptimizer:
    """Adam, RMSprop or SGD with momentum, each network with its own settings and clipping.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101). A network whose gradient
    is not finite has diverged: it stays as it is from then on.
    """

    def __init__(self, stack: Stack, params: Sequence[Params]) -> None:
        self._weights = list(stack.weights.values())
        device = stack.device
        kinds = [p["optimizer"] for p in params]
        self._is_adam = torch.tensor([kind == "adam" for kind in kinds], device=device)
        self._is_sgd = torch.tensor([kind == "sgd" for kind in kinds], device=device)
        self._rate = torch.tensor([p["learning_rate"] for p in params], device=device)
        self._decay = torch.tensor([p["weight_decay"] for p in params], device=device)
        self._clipping = torch.tensor([p["clipping"] for p in params], device=device)
        self._beta = torch.where(
            self._is_adam, ADAM_BETAS[1], torch.full_like(self._rate, RMSPROP_BETA)
        )
        self._momenta = [torch.zeros_like(w) for w in self._weights]
        self._squares = [torch.zeros_like(w) for w in self._weights]
        self._n_steps = 0
        self.diverged = torch.zeros(len(params), dtype=torch.bool, device=device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update of all networks."""
        self._n_steps += 1
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        self.diverged |= ~torch.isfinite(norms)
        shrink = (self._clipping / (norms + _EPSILON)).clamp(max=1.0)
        momentum_correction = torch.where(
            self._is_adam, 1.0 - ADAM_BETAS[0] ** self._n_steps, torch.ones_like(self._rate)
        )
        square_correction = torch.where(
            self._is_adam, 1.0 - self._beta**self._n_steps, torch.ones_like(self._rate)
        )
        alive = (~self.diverged).to(self._rate.dtype)
        for weight, gradient, momentum, square in zip(
            self._weights, gradients, self._momenta, self._squares, strict=True
        ):

            def wide(per_network: Tensor, like: Tensor = weight) -> Tensor:
                return per_network.view(-1, *(1,) * (like.dim() - 1))

            g = torch.where(wide(self.diverged), torch.zeros_like(gradient), gradient)
            g = g * wide(shrink.nan_to_num(0.0))
            momentum.mul_(ADAM_BETAS[0]).add_(g, alpha=1.0 - ADAM_BETAS[0])
            square.lerp_(g.square(), 1.0 - wide(self._beta))
            scale = (square / wide(square_correction)).sqrt_().add_(_EPSILON)
            direction = torch.where(
                wide(self._is_sgd),
                SGD_FACTOR * momentum,
                torch.where(wide(self._is_adam), momentum / wide(momentum_correction), g) / scale,
            )
            weight.mul_(1.0 - wide(alive * self._rate * self._decay))
            weight.sub_(wide(alive * self._rate) * direction)


def train_epoch(
    stack: Stack,
    task: Task,
    optimizer: StackOptimizer,
    epoch: int,
    batch_size: int = BATCH_SIZE,
) -> FloatArray:
    """One pass over the epoch's data; the mean loss of each network ``(G,)``."""
    total, n = torch.zeros(len(stack), device=stack.device), 0
    weights = list(stack.weights.values())
    for x, y in task.batches(epoch, batch_size):
        outputs = stack.outputs(x.to(stack.device), every_step=task.every_step, training=True)
        losses = task.losses(outputs, y.to(stack.device))
        # What one network has lost must not spoil the gradients of the others.
        kept = torch.where(torch.isfinite(losses), losses, torch.zeros_like(losses))
        optimizer.diverged |= ~torch.isfinite(losses)
        optimizer.step(torch.autograd.grad(kept.sum(), weights))
        total, n = total + losses.detach(), n + 1
    total[optimizer.diverged] = float("nan")
    return np.asarray((total / n).cpu().numpy(), dtype=np.float64)


@torch.no_grad()
def _score(
    stack: Stack, task: Task, data: tuple[Tensor, Tensor], optimizer: StackOptimizer
) -> FloatArray:
    x, y = (part.to(stack.device) for part in data)
    scores = task.scores(stack.outputs(x, every_step=task.every_step), y)
    scores[optimizer.diverged] = task.worst
    return np.asarray(scores.cpu().numpy(), dtype=np.float64)


def _fingerprints(stack: Stack, probe: Tensor, indices: Sequence[int]) -> list[LyapunovSpectrum]:
    if not indices:
        return []
    return spectral_fingerprints([stack.module(i) for i in indices], probe.to(stack.device))
