"""What a task is: its data, what training minimises, and the score that a table records.

Notation: N sequences of T steps with D inputs; G networks trained side by side; O outputs. Data is
the same for every configuration: which batches an epoch has follows from its number alone.
"""

from __future__ import annotations

import hashlib
from abc import ABC
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Data = tuple[Tensor, Tensor]
# 8 to 48 updates an epoch with as few sequences as the first tasks have.
BATCH_SIZE = 25
# As many as `spectral_fingerprint` looks at.
PROBE_SEQUENCES = 4
# Twice the error of blind guessing: a network that does worse has failed, as one that diverged.
WORST_ERROR = 2.0


@dataclass(frozen=True)
class Split:
    """Inputs ``(N, T, D)`` and targets ``(N,)`` classes, ``(N, O)`` or ``(N, T, ...)``."""

    validation: Data
    test: Data
    train: Data | None = None


class Task(ABC):
    """One task; the score is taken on validation and on test data after every epoch.

    Attributes:
        direction: Of the score.
        every_step: Whether the network answers after every step, or after the last one only.
        worst: The score of a network whose training has diverged.
    """

    name: str
    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"
    every_step = False
    worst = WORST_ERROR
    n_inputs: int
    n_outputs: int

    def __init__(self) -> None:
        self.split = self.load()

    @abstractmethod
    def load(self) -> Split:
        """All data, or validation and test data where training data is drawn anew."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises, one number a network: ``(G, N, ..., O)`` to ``(G,)``."""

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The score, ``(G,)``."""

    def draw(self, epoch: int) -> Data:
        """The training data of an epoch; the same for all unless a task draws it anew."""
        assert self.split.train is not None
        return self.split.train

    def batches(self, epoch: int, batch_size: int = BATCH_SIZE) -> Iterator[Data]:
        """The training data of an epoch in its own order."""
        x, y = self.draw(epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + epoch))
        for rows in torch.split(order, batch_size):
            yield x[rows], y[rows]

    def bounded(self, errors: Tensor) -> Tensor:
        """Errors of which none is above that of a network whose training has diverged."""
        return errors.nan_to_num(nan=self.worst, posinf=self.worst).clamp(max=self.worst)

    @property
    def probe(self) -> Tensor:
        """What every network's fingerprint is taken along: ``(4, T, D)``."""
        return self.split.validation[0][:PROBE_SEQUENCES]

    @property
    def data_version(self) -> str:
        """A hash of validation, test and first training data."""
        digest = hashlib.sha256()
        for part in (*self.split.validation, *self.split.test, *self.draw(0)):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


class Classification(Task):
    metric = "accuracy"
    direction: Literal["minimize", "maximize"] = "maximize"
    worst = 0.0

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).float().mean(-1)


class Regression(Task):
    """The score is the share of the targets' variance that is left unexplained: 1 is chance."""

    metric = "unexplained variance"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs - targets).square().flatten(1, -2).mean(1)
        error = (errors / targets.flatten(0, -2).var(0)).mean(-1)
        return self.bounded(error)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats, one number a network."""
    logits = outputs.flatten(1, -2)
    labels = targets.flatten().expand(len(logits), -1)
    picked = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])
    return -picked.mean(dim=(1, 2))
