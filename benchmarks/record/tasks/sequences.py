"""Tasks of working with symbols: parity, counts, sums, brackets, and evidence in context.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Regression
from benchmarks.record.tasks.base import Task
from benchmarks.record.tasks.base import cross_entropy
from benchmarks.record.tasks.generated import Choices
from benchmarks.record.tasks.generated import Generated
from benchmarks.record.tasks.generated import Questions


class Parity(Generated, Questions):
    """After every step the parities of the last 2, 3, 4 and 6 bits."""

    name = "parity"
    every_step = True
    n_train = 1000
    n_steps, spans = 24, (2, 3, 4, 6)
    n_inputs, n_outputs = 1, len(spans)

    def make(self, n: int, generator: torch.Generator) -> Data:
        bits = torch.randint(2, (n, self.n_steps), generator=generator)
        ones = F.pad(bits.cumsum(1), (max(self.spans), 0))
        y = torch.full((n, self.n_steps, len(self.spans)), float("nan"))
        for i, span in enumerate(self.spans):
            first = max(self.spans) - span
            since = ones[:, max(self.spans) :] - ones[:, first : first + self.n_steps]
            # Before that there are no such many bits.
            y[:, span - 1 :, i] = (since % 2).float()[:, span - 1 :]
        return 2.0 * bits[..., None].float() - 1.0, y


class Counting(Generated, Regression):
    """How many more a than b, how many a, and how long ago was the last c, since the last reset?

    A reset comes every 25 steps on average; counts are over ten.
    """

    name = "counting"
    every_step = True
    n_steps = 50
    chances = (0.3, 0.3, 0.1, 0.26, 0.04)
    n_inputs, n_outputs = 4, 3

    def make(self, n: int, generator: torch.Generator) -> Data:
        draws = torch.rand(n, self.n_steps, generator=generator)
        # Of a, b, c, nothing and reset.
        symbols = torch.bucketize(draws, torch.tensor(self.chances).cumsum(0)[:-1])
        counts = torch.zeros(n, self.n_outputs)
        answers = []
        for t in range(self.n_steps):
            is_a, is_b, is_c, _, is_reset = F.one_hot(symbols[:, t], 5).float().unbind(1)
            counts = counts + torch.stack([is_a - is_b, is_a, torch.ones(n)], dim=1)
            counts[:, 2] *= 1.0 - is_c
            counts = counts * (1.0 - is_reset)[:, None]
            answers.append(counts / 10.0)
        return F.one_hot(symbols, 5).float()[..., [0, 1, 2, 4]], torch.stack(answers, dim=1)


class Brackets(Generated, Choices):
    """Which of three brackets may close next, or none? After every step of a random nesting.

    Nestings are at most six deep.
    """

    name = "brackets"
    n_steps, n_kinds, deepest = 40, 3, 6
    n_inputs, n_outputs = 2 * n_kinds, n_kinds + 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        kinds = torch.randint(self.n_kinds, (n, self.n_steps), generator=generator)
        opens = torch.rand(n, self.n_steps, generator=generator) < 0.55
        # Below the first bracket there is none to close.
        stacks = torch.full((n, self.deepest + 1), self.n_kinds)
        depth = torch.zeros(n, dtype=torch.long)
        symbols, answers = [], []
        rows = torch.arange(n)
        for t in range(self.n_steps):
            opening = (opens[:, t] | (depth == 0)) & (depth < self.deepest)
            top = stacks[rows, depth]
            symbols.append(torch.where(opening, kinds[:, t], self.n_kinds + top))
            depth = depth + torch.where(opening, 1, -1)
            stacks[rows, depth] = torch.where(opening, kinds[:, t], stacks[rows, depth])
            answers.append(stacks[rows, depth])
        x = F.one_hot(torch.stack(symbols, dim=1), self.n_inputs).float()
        return x, torch.stack(answers, dim=1)


class Integration(Generated, Regression):
    """The sum of what one of two noisy channels has shown since a cue said which one counts.

    After every step; a new cue comes every 20 steps on average.
    """

    name = "integration"
    every_step = True
    n_train = 400
    n_steps, cue_chance = 50, 0.05
    n_inputs, n_outputs = 4, 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        shape = (n, self.n_steps)
        strength = torch.rand(n, 1, 2, generator=generator) - 0.5
        evidence = strength + 0.7 * torch.randn(*shape, 2, generator=generator)
        cued = torch.rand(shape, generator=generator) < self.cue_chance
        cued[:, 0] = True
        channel = torch.randint(2, shape, generator=generator)
        # The step of the last cue, and which channel it named.
        steps = torch.arange(self.n_steps)
        last = torch.where(cued, steps, 0).cummax(1).values
        counts = channel.gather(1, last)[..., None]
        sums = F.pad(evidence.cumsum(1), (0, 0, 1, 0))
        since = sums[:, 1:] - sums[:, :-1].gather(1, last[..., None].expand(-1, -1, 2))
        x = torch.zeros(*shape, 4)
        x[..., :2] = evidence
        x[..., 2:] = F.one_hot(channel, 2) * cued[..., None]
        return x, since.gather(2, counts) / math.sqrt(20.0)


class Modular(Generated, Task):
    """The sum of the marked digits so far, modulo 2, 3 and 5, after every step.

    Every third digit is marked. The score is the cross-entropy over what blind guessing has: 1 is
    chance.
    """

    name = "modular"
    metric = "relative cross-entropy"
    every_step = True
    n_train = 800
    n_steps, n_digits, moduli, mark_chance = 20, 5, (2, 3, 5), 1.0 / 3.0
    n_inputs, n_outputs = n_digits + 1, sum(moduli)

    def make(self, n: int, generator: torch.Generator) -> Data:
        shape = (n, self.n_steps)
        digits = torch.randint(self.n_digits, shape, generator=generator)
        marked = torch.rand(shape, generator=generator) < self.mark_chance
        x = torch.cat([F.one_hot(digits, self.n_digits), marked[..., None]], dim=-1).float()
        total = (digits * marked).cumsum(1)
        return x, torch.stack([total % modulus for modulus in self.moduli], dim=-1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        parts = torch.split(outputs, list(self.moduli), dim=-1)
        relative = [
            cross_entropy(part, targets[..., i]) / math.log(self.moduli[i])
            for i, part in enumerate(parts)
        ]
        return torch.stack(relative).mean(0)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.bounded(self.losses(outputs, targets))
