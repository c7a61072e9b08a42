"""Training one recurrent network, epoch by epoch, with its fingerprints on the way.

A training is a function of (task, parameters, seed) alone, so any configuration can be trained
again, by another pruner or another process, with the same curve.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import zlib
from abc import ABC
from abc import abstractmethod
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Literal

import optuna
import torch
from optuna.distributions import BaseDistribution
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from studies.cells import CELLS
from studies.cells import DEFAULT_CELLS

Params = Mapping[str, Any]

# A spectrum changes fast at first and slowly later; few keep its cost small against an epoch.
SPECTRUM_EPOCHS = (-1, 2, 7, 20, 54)
# Twenty updates an epoch of a thousand sequences.
BATCH_SIZE = 50
# Layers draw their weights from the generator of the process, in which threads would meet.
_BUILDING = threading.Lock()


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; ``step`` −1 is the untrained network, without a value."""

    step: int
    value: float | None
    spectrum: LyapunovSpectrum | None
    seconds: float


class Task(ABC):
    """Data, search space and score of one search.

    Attributes:
        cells: The recurrences that are searched, of `studies.cells.CELLS` and in its order.
    """

    name: str
    metric: str
    direction: Literal["minimize", "maximize"]
    n_inputs: int
    n_outputs: int
    probe_inputs: Tensor
    # What other tasks have taught: `Prior.pretrained()`, or a file that leaves this task out.
    prior: str = "pretrained"
    cells: tuple[str, ...] = DEFAULT_CELLS

    def over(self, cells: Sequence[str]) -> Task:
        """The same task, searched over these recurrences."""
        other = copy.copy(self)
        other.cells = tuple(cells)
        return other

    @abstractmethod
    def training_batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of ``x (B, T, D)`` and targets."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises."""

    @abstractmethod
    def score(self, network: SequenceNetwork) -> float:
        """The validation score that the search optimises."""

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw a configuration, with the parameters that `reduce` leaves its cell."""
        cell = trial.suggest_categorical("cell", list(self.cells))
        params: dict[str, Any] = {
            "cell": cell,
            "hidden_size": trial.suggest_int("hidden_size", 16, 64, log=True),
        }
        if CELLS[cell].gained:
            params["init_gain"] = trial.suggest_float("init_gain", 0.1, 3.0, log=True)
        params |= {
            "learning_rate": trial.suggest_float("learning_rate", 5e-4, 2e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            "clipping": trial.suggest_float("clipping", 0.05, 10.0, log=True),
        }
        if CELLS[cell].forget is not None:
            params["forget_bias"] = trial.suggest_float("forget_bias", -2.0, 4.0)
        return params

    def space(self) -> dict[str, BaseDistribution]:
        """The distribution of every parameter, of all branches: each cell is one."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        found: dict[str, BaseDistribution] = {}
        for cell in self.cells:
            study.enqueue_trial({"cell": cell})
            trial = study.ask()
            self.suggest(trial)
            found |= trial.distributions
        return found

    def reduce(self, params: Params) -> dict[str, Any]:
        """A configuration without the parameters of branches that it does not take."""
        cell = CELLS[params["cell"]]
        drop = set() if cell.gained else {"init_gain"}
        if cell.forget is None:
            drop.add("forget_bias")
        return {name: value for name, value in params.items() if name not in drop}


class SequenceNetwork(nn.Module):
    """One recurrent layer and a linear read-out of its last outputs.

    A layer that is linear in its state, such as a state space, stands in a block, the same for all
    of them: a window of four steps before it; a normalisation and a gate after it (`Cell`).
    """

    def __init__(self, cell: str, n_inputs: int, hidden_size: int, n_outputs: int) -> None:
        super().__init__()
        kind = CELLS[cell]
        self.before = kind.before(n_inputs, hidden_size)
        self.rnn = kind.build(hidden_size if kind.in_block else n_inputs, hidden_size)
        # Where there are heads it may be more than what was asked for.
        size = int(getattr(self.rnn, "hidden_size", hidden_size))
        self.after = kind.after(size)
        self.readout = nn.Linear(size, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.rnn(self.before(x))
        out: Tensor = self.readout(self.after(outputs[:, -1]))
        return out

    def fingerprint(self, probe: Tensor) -> LyapunovSpectrum:
        """Of the recurrent layer, along what it reads of inputs ``(B, T, D)``."""
        with torch.no_grad():
            read = self.before(probe)
        return spectral_fingerprint(self.rnn, read)


def build_network(task: Task, params: Params, seed: int) -> SequenceNetwork:
    """The untrained network of a configuration: recurrent weights N(0, gain² / fan-in).

    Cells with a start of their own keep it, what the gain is for scaled by it.
    """
    cell, own_seed = CELLS[params["cell"]], training_seed(params, seed)
    generator = torch.Generator().manual_seed(own_seed)
    sizes = task.n_inputs, params["hidden_size"], task.n_outputs
    with _BUILDING:
        if cell.own_start:
            with torch.random.fork_rng(devices=()):
                torch.default_generator.manual_seed(own_seed)
                network = SequenceNetwork(params["cell"], *sizes)
        else:
            network = SequenceNetwork(params["cell"], *sizes)
    gained = {f"rnn.{name}" for name in cell.gained}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = params["init_gain"] if name in gained else 1.0
            if cell.own_start and name.startswith("rnn."):
                parameter.mul_(gain)
            elif "bias" in name:
                parameter.zero_()
            elif parameter.dim() > 1:  # what scales after a normalisation stays 1
                fan_in = parameter.shape[-1]
                parameter.normal_(0.0, gain / fan_in**0.5, generator=generator)
        if cell.forget is not None:
            biases = network.get_parameter(f"rnn.{cell.forget.parameter}")
            signs = cell.forget.signs
            for block, sign in zip(biases.chunk(len(signs)), signs, strict=True):
                if sign:
                    block.fill_(sign * params["forget_bias"])
    return network


def untrained_spectrum(task: Task, params: Params, seed: int) -> LyapunovSpectrum:
    """The fingerprint of a configuration before any training."""
    return build_network(task, params, seed).fingerprint(task.probe_inputs)


class Training:
    """One configuration, from its untrained network on.

    Attributes:
        states: All that training changes, as `optuna_aelle.Checkpoints` saves it.
    """

    def __init__(
        self,
        task: Task,
        params: Params,
        *,
        seed: int,
        with_spectra: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self._task = task
        self._device = device
        self._clipping = params["clipping"]
        self._probe = task.probe_inputs.to(device) if with_spectra else None
        self._network = build_network(task, params, seed).to(device)
        self._generator = torch.Generator().manual_seed(training_seed(params, seed) + 1)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(),
            lr=params["learning_rate"],
            weight_decay=params["weight_decay"],
        )
        self.states: dict[str, Any] = {
            "network": self._network,
            "optimizer": self._optimizer,
            "generator": self._generator,
        }

    def untrained(self) -> Epoch:
        """What is known before the first epoch."""
        return Epoch(-1, None, self._spectrum(-1), 0.0)

    def epoch(self, step: int) -> Epoch:
        """Train for one epoch; one that diverges scores as bad as can be from then on."""
        started = time.perf_counter()
        for x, target in self._task.training_batches(self._generator):
            outputs = self._network(x.to(self._device))
            loss = self._task.loss(outputs, target.to(self._device))
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._network.parameters(), self._clipping)
            self._optimizer.step()
        value = self._task.score(self._network)
        seconds = time.perf_counter() - started
        return Epoch(step, value, self._spectrum(step), seconds)

    def _spectrum(self, step: int) -> LyapunovSpectrum | None:
        if self._probe is None or step not in SPECTRUM_EPOCHS or not _is_finite(self._network):
            return None
        return self._network.fingerprint(self._probe)


def train(task: Task, params: Params, *, n_epochs: int, seed: int) -> Iterator[Epoch]:
    """Train a configuration; yields the untrained network, then every epoch."""
    training = Training(task, params, seed=seed)
    yield training.untrained()
    for step in range(n_epochs):
        yield training.epoch(step)


def training_seed(params: Params, seed: int) -> int:
    """One seed per configuration, so that a configuration always trains the same way."""
    text = json.dumps(dict(params), sort_keys=True)
    return zlib.crc32(f"{seed}:{text}".encode())


def _is_finite(network: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in network.parameters())
