"""Training one recurrent network, epoch by epoch, with its fingerprints on the way.

A training is a function of (task, parameters, seed) alone, so any configuration can be trained
again, by another pruner or another process, with the same curve.
"""

from __future__ import annotations

import json
import time
import zlib
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
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

Params = Mapping[str, Any]

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
# A spectrum changes fast at first and slowly later; few keep its cost small against an epoch.
SPECTRUM_EPOCHS = (-1, 2, 7, 20, 54)
# Twenty updates an epoch of a thousand sequences.
BATCH_SIZE = 50


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; ``step`` −1 is the untrained network, without a value."""

    step: int
    value: float | None
    spectrum: LyapunovSpectrum | None
    seconds: float


class Task(ABC):
    """Data, search space and score of one search."""

    name: str
    metric: str
    direction: Literal["minimize", "maximize"]
    n_inputs: int
    n_outputs: int
    probe_inputs: Tensor
    # What other tasks have taught: `Prior.pretrained()`, or a file that leaves this task out.
    prior: str = "pretrained"

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
        """Draw a configuration."""
        cell = trial.suggest_categorical("cell", list(CELLS))
        params = {
            "cell": cell,
            "hidden_size": trial.suggest_int("hidden_size", 16, 64, log=True),
            "init_gain": trial.suggest_float("init_gain", 0.1, 3.0, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 5e-4, 2e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            "clipping": trial.suggest_float("clipping", 0.05, 10.0, log=True),
        }
        if cell != "rnn":
            params["forget_bias"] = trial.suggest_float("forget_bias", -2.0, 4.0)
        return params

    def space(self) -> dict[str, BaseDistribution]:
        """The distribution of every parameter, of all branches."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        found: dict[str, BaseDistribution] = {}
        for _ in range(20):
            trial = study.ask()
            self.suggest(trial)
            found |= trial.distributions
        return found

    def reduce(self, params: Params) -> dict[str, Any]:
        """A configuration without the parameters of branches that it does not take."""
        drop = {"forget_bias"} if params["cell"] == "rnn" else set()
        return {name: value for name, value in params.items() if name not in drop}


class SequenceNetwork(nn.Module):
    """One recurrent layer and a linear read-out of its last hidden state."""

    def __init__(self, cell: str, n_inputs: int, hidden_size: int, n_outputs: int) -> None:
        super().__init__()
        self.rnn = CELLS[cell](n_inputs, hidden_size, batch_first=True)
        self.readout = nn.Linear(hidden_size, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.rnn(x)
        out: Tensor = self.readout(hidden[:, -1])
        return out


def build_network(task: Task, params: Params, seed: int) -> SequenceNetwork:
    """The untrained network of a configuration: recurrent weights N(0, gain² / H)."""
    hidden_size = params["hidden_size"]
    generator = torch.Generator().manual_seed(training_seed(params, seed))
    network = SequenceNetwork(params["cell"], task.n_inputs, hidden_size, task.n_outputs)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name:
                parameter.zero_()
                continue
            gain = params["init_gain"] if "weight_hh" in name else 1.0
            parameter.normal_(0.0, gain / parameter.shape[1] ** 0.5, generator=generator)
        if params["cell"] != "rnn":
            # The second gate is the LSTM's forget gate and the GRU's update gate, which in torch
            # keeps the old state where it is open.
            bias = network.get_parameter("rnn.bias_ih_l0")
            bias[hidden_size : 2 * hidden_size] = params["forget_bias"]
    return network


def untrained_spectrum(task: Task, params: Params, seed: int) -> LyapunovSpectrum:
    """The fingerprint of a configuration before any training."""
    return spectral_fingerprint(build_network(task, params, seed).rnn, task.probe_inputs)


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
        return spectral_fingerprint(self._network.rnn, self._probe)


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
