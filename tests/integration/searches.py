"""A small search that every framework's tests run: which network adds up its inputs."""

from __future__ import annotations

from typing import Any

import optuna
import torch
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from torch import Tensor
from torch import nn
from torch.utils.data import TensorDataset

N_EPOCHS = 4
N_STEPS = 20


def sums(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences ``(n, T, 1)`` and their means ``(n, 1)``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, N_STEPS, 1, generator=generator)
    return x, x.mean(dim=1)


PROBE = sums(2, seed=9)[0]


def dataset(n: int = 32, seed: int = 0) -> TensorDataset:
    return TensorDataset(*sums(n, seed))


class Reader(nn.Module):
    """A GRU with a head: the network that all of them train."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, size, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.rnn(x)[0][:, -1]))


class Stops(NopPruner):
    """Stops some trials after some step: ``{number: step}``; −1 is before training.

    Notes what each trial had reported whenever it was asked.
    """

    asks_before_training = True

    def __init__(self, steps: dict[int, int] | None = None) -> None:
        self.steps = steps or {}
        self.asked: list[tuple[int, int]] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = -1 if trial.last_step is None else trial.last_step
        self.asked.append((trial.number, step))
        return self.steps.get(trial.number) == step


def stopping_study(steps: dict[int, int] | None = None, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=RandomSampler(seed=0), pruner=Stops(steps), **options)
