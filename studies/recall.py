"""Search RNN, LSTM and GRU on delayed recall: remember two numbers through 40 steps of noise.

Each sequence opens with two numbers in [−1, 1]; then come 40 steps of noise and a cue, and the
network must give the numbers back. Score: the share of their variance that is left unexplained
(1 is chance, 0 is perfect). For many epochs most networks sit at 1, and their losses say nothing
about which of them will learn. Run ``python -m studies.recall --help``; ``--cells`` searches other
recurrences.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.search import main
from studies.training import BATCH_SIZE
from studies.training import SequenceNetwork
from studies.training import Task

# Steps of noise between the numbers and the cue.
DELAY = 40
# Fresh sequences every epoch, and those that score.
N_TRAIN = 1000
N_VALIDATION = 500
# About half the spread of the numbers to remember, which is 0.58.
NOISE = 0.3


class Recall(Task):
    """Delayed recall of two numbers; minimise the unexplained share of their variance."""

    name = "recall"
    metric = "unexplained variance"
    direction = "minimize"
    n_inputs = 2
    n_outputs = 2

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x_validation, self.y_validation = _sequences(N_VALIDATION, generator)
        self.probe_inputs = self.x_validation[:4]

    def training_batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = _sequences(N_TRAIN, generator)
        yield from zip(torch.split(x, BATCH_SIZE), torch.split(y, BATCH_SIZE), strict=True)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def score(self, network: SequenceNetwork) -> float:
        with torch.no_grad():
            device = next(network.parameters()).device
            recalled = network(self.x_validation.to(device)).cpu()
        error = (recalled - self.y_validation).square().mean() / self.y_validation.var()
        return min(float(error.nan_to_num(nan=2.0, posinf=2.0)), 2.0)


def _sequences(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs ``(n, 1 + DELAY + 1, 2)`` (the values and noise, the cue) and targets ``(n, 2)``."""
    values = torch.rand(n, 2, generator=generator) * 2.0 - 1.0
    x = torch.zeros(n, DELAY + 2, 2)
    x[:, 0] = values
    x[:, 1:-1, 0] = NOISE * torch.randn(n, DELAY, generator=generator)
    x[:, -1, 1] = 1.0
    return x, values


if __name__ == "__main__":
    main(Recall())
