"""Tasks of remembering what was shown: over known delays, by key, in order, against distractors.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Regression
from benchmarks.record.tasks.base import cross_entropy
from benchmarks.record.tasks.generated import UNASKED
from benchmarks.record.tasks.generated import Choices
from benchmarks.record.tasks.generated import Generated
from benchmarks.record.tasks.generated import Questions
from benchmarks.record.tasks.generated import seeded


class Adding(Generated, Regression):
    """Three sums of two marked numbers each, the marks up to 15, 30 and 60 steps back.

    Source: Hochreiter and Schmidhuber (1997), the adding problem, with several delays at once.
    """

    name = "adding"
    n_steps, spans = 60, (15, 30, 60)
    n_inputs, n_outputs = 4, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        numbers = torch.rand(n, self.n_steps, generator=generator) * 2.0 - 1.0
        x = torch.zeros(n, self.n_steps, 4)
        x[..., 0] = numbers
        y = torch.zeros(n, 3)
        rows = torch.arange(n)
        for pair, span in enumerate(self.spans):
            # One mark in the first, one in the second half of the pair's span.
            for half in range(2):
                start = self.n_steps - span + half * span // 2
                at = start + torch.randint(span // 2, (n,), generator=generator)
                x[rows, at, 1 + pair] = 1.0
                y[:, pair] += numbers[rows, at]
        return x, y


class Recall(Generated, Regression):
    """Give back three numbers that were shown 15, 35 and 70 steps ago, amid noise."""

    name = "recall"
    n_steps, delays, noise = 72, (15, 35, 70), 0.3
    n_inputs, n_outputs = 2, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        numbers = torch.rand(n, 3, generator=generator) * 2.0 - 1.0
        x = torch.zeros(n, self.n_steps, 2)
        x[..., 0] = self.noise * torch.randn(n, self.n_steps, generator=generator)
        for i, delay in enumerate(self.delays):
            x[:, -1 - delay, 0] = numbers[:, i]
            x[:, -1 - delay, 1] = 1.0
        return x, numbers


class Copying(Generated, Regression):
    """Repeat five symbols of an alphabet of six after 10 and again after 40 blank steps.

    The score is the cross-entropy over what blind guessing has: 1 is chance. Source: Hochreiter
    and Schmidhuber (1997), the copying task, with two delays.
    """

    name = "copying"
    metric = "relative cross-entropy"
    every_step = True
    n_symbols, length, delays = 6, 5, (10, 40)
    n_inputs, n_outputs = 8, 6

    def make(self, n: int, generator: torch.Generator) -> Data:
        symbols = torch.randint(self.n_symbols, (n, self.length), generator=generator)
        n_steps = 2 * self.length + self.delays[1] + self.length
        x = torch.zeros(n, n_steps, self.n_inputs)
        x[:, : self.length, : self.n_symbols] = F.one_hot(symbols, self.n_symbols).float()
        x[:, self.length :, -1] = 1.0
        for start in self.answer_starts():
            x[:, start, -2:] = torch.tensor([1.0, 0.0])
        return x, symbols

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = [outputs[:, :, at : at + self.length] for at in self.answer_starts()]
        return torch.stack([cross_entropy(answer, targets) for answer in answers]).mean(0)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        relative = self.losses(outputs, targets) / float(np.log(self.n_symbols))
        return self.bounded(relative)

    def answer_starts(self) -> tuple[int, int]:
        """The steps at which the two answers begin."""
        first = self.length + self.delays[0]
        return first, self.length + self.delays[1]


class Matching(Generated, Questions):
    """Is this the pattern that was shown before? After 4, 10 and 22 steps amid other patterns.

    A pattern that is not the same differs in two of its four signs.
    """

    name = "matching"
    every_step = True
    n_train = 600
    n_steps, size, tests = 24, 4, (5, 11, 23)
    n_inputs, n_outputs = size + 2, 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        shape = (n, self.n_steps, self.size)
        patterns = 2.0 * torch.randint(2, shape, generator=generator) - 1.0
        y = torch.full((n, self.n_steps, 1), float("nan"))
        sample = patterns[:, 1]
        for at in self.tests:
            same = torch.randint(2, (n, 1), generator=generator).float()
            order = torch.rand(n, self.size, generator=generator).argsort(1)
            flipped = torch.where(order < 2, -sample, sample)
            patterns[:, at] = torch.where(same == 1.0, sample, flipped)
            y[:, at] = same
        x = torch.zeros(n, self.n_steps, self.n_inputs)
        x[..., : self.size] = patterns
        x[:, 1, -2] = 1.0
        x[:, self.tests, -1] = 1.0
        return x, y


class Sorting(Generated, Regression):
    """Five numbers that were shown in the course of 16 steps, in rising order."""

    name = "sorting"
    n_train = 2000
    n_steps, n_keys = 16, 5
    n_inputs, n_outputs = 2, n_keys

    def make(self, n: int, generator: torch.Generator) -> Data:
        keys = torch.rand(n, self.n_keys, generator=generator) * 2.0 - 1.0
        at = torch.rand(n, self.n_steps, generator=generator).argsort(1)[:, : self.n_keys]
        x = torch.zeros(n, self.n_steps, 2)
        x[..., 0].scatter_(1, at, keys)
        x[..., 1].scatter_(1, at, torch.ones_like(keys))
        return x, keys.sort(dim=1).values


class Association(Generated, Choices):
    """Which of four values went with this key? Three pairs are shown, then three keys asked for.

    Keys are ten fixed random codes of six signs.
    """

    name = "association"
    n_train = 3000
    n_steps, n_pairs, n_keys, code_size = 18, 3, 10, 6
    n_values = n_outputs = 4
    n_inputs = code_size + n_values + 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        # Codes that are all different: the binary digits of numbers without repetition.
        numbers = torch.randperm(2**self.code_size, generator=seeded(0))[: self.n_keys]
        codes = 2.0 * (numbers[:, None] // 2 ** torch.arange(self.code_size) % 2) - 1.0
        keys = torch.rand(n, self.n_keys, generator=generator).argsort(1)[:, : self.n_pairs]
        values = torch.randint(self.n_values, (n, self.n_pairs), generator=generator)
        order = torch.rand(n, self.n_pairs, generator=generator).argsort(1)
        x = torch.zeros(n, self.n_steps, self.n_inputs)
        y = torch.full((n, self.n_steps), UNASKED)
        rows = torch.arange(n)
        for i in range(self.n_pairs):
            shown = 3 * i
            x[:, shown, : self.code_size] = codes[keys[:, i]]
            x[:, shown, self.code_size : -1] = F.one_hot(values[:, i], self.n_values).float()
            asked = self.n_steps - 1 - 3 * i
            which = order[:, i]
            x[:, asked, : self.code_size] = codes[keys[rows, which]]
            x[:, asked, -1] = 1.0
            y[:, asked] = values[rows, which]
        return x, y
