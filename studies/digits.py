"""Search RNN, LSTM, GRU or others on scikit-learn's handwritten digits, read pixel by pixel.

1,797 images of 8 x 8 pixels, each a sequence of 64 numbers; the network names the digit after the
last one. Score: validation accuracy. ``python -m studies.digits --cells gru,mingru,ssm`` searches
other recurrences (`studies.cells`); ``--help`` names them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from studies.search import main
from studies.training import BATCH_SIZE
from studies.training import SequenceNetwork
from studies.training import Task

# Of 1,797 images; accuracy then goes in steps of a quarter of a percent.
N_TRAIN = 1000
N_VALIDATION = 400


class Digits(Task):
    """Handwritten digits as sequences of 64 pixels; maximise validation accuracy."""

    name = "digits"
    metric = "validation accuracy"
    direction = "maximize"
    n_inputs = 1
    n_outputs = 10
    # The shipped prior has learned from these very digits, among others.
    prior = str(Path(__file__).parent / "priors" / "without_digits.npz")

    def __init__(self) -> None:
        pixels, labels = _load()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        train, held_out = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_VALIDATION]
        self.x_train, self.y_train = pixels[train], labels[train]
        self.x_validation, self.y_validation = pixels[held_out], labels[held_out]
        self.probe_inputs = self.x_train[:4]

    def training_batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in torch.split(torch.randperm(N_TRAIN, generator=generator), BATCH_SIZE):
            yield self.x_train[batch], self.y_train[batch]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, network: SequenceNetwork) -> float:
        with torch.no_grad():
            device = next(network.parameters()).device
            guessed = network(self.x_validation.to(device)).argmax(dim=1).cpu()
        return float((guessed == self.y_validation).float().mean())


@lru_cache
def _load() -> tuple[Tensor, Tensor]:
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32).reshape(-1, 64, 1) / 8.0 - 1.0
    return pixels, torch.tensor(data.target)


if __name__ == "__main__":
    main(Digits())
