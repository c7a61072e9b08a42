"""What tasks made by a formula share: how data is drawn, and scores for questions at some steps.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Regression
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import Task

# A class that is no answer: nothing is asked at this step.
UNASKED = -1


class Generated(Task):
    """Sequences made by a formula: fresh ones for every epoch, or a few that stay the same.

    Attributes:
        fresh: Whether every epoch has its own sequences.
    """

    n_train, n_held_out = 500, 250
    fresh = True

    def load(self) -> Split:
        return Split(
            validation=self.make(self.n_held_out, seeded(1)),
            test=self.make(self.n_held_out, seeded(2)),
            train=None if self.fresh else self.make(self.n_train, seeded(10)),
        )

    def draw(self, epoch: int) -> Data:
        return self.make(self.n_train, seeded(10 + epoch)) if self.fresh else super().draw(epoch)

    @abstractmethod
    def make(self, n: int, generator: torch.Generator) -> Data:
        """``n`` sequences and what the network is to answer."""


class Questions(Task):
    """Yes or no to several questions, 1 and 0; NaN where nothing is asked.

    The score is the cross-entropy over what blind guessing has: 1 is chance.
    """

    metric = "relative cross-entropy"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        asked = ~torch.isnan(targets)
        answers = targets.nan_to_num().expand_as(outputs)
        each = F.binary_cross_entropy_with_logits(outputs, answers, reduction="none")
        return torch.where(asked, each, 0.0).flatten(1).sum(1) / asked.sum()

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.bounded(self.losses(outputs, targets) / math.log(2.0))


class Choices(Task):
    """One of O classes at some steps, `UNASKED` at the others; scored as `Questions`."""

    metric = "relative cross-entropy"
    every_step = True

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        asked = targets != UNASKED
        chances = F.log_softmax(outputs, dim=-1)
        labels = targets.clamp(min=0).expand(len(outputs), *targets.shape)[..., None]
        each = -chances.gather(-1, labels)[..., 0]
        return torch.where(asked, each, 0.0).flatten(1).sum(1) / asked.sum()

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.bounded(self.losses(outputs, targets) / math.log(self.n_outputs))


class SettledRegression(Regression):
    """Regression at every step but the first, which only tell the network where it is.

    Attributes:
        washout: How many steps count for nothing.
    """

    every_step = True
    washout = 10

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().losses(outputs[:, :, self.washout :], targets[:, self.washout :])

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().scores(outputs[:, :, self.washout :], targets[:, self.washout :])


class Forecast(SettledRegression):
    """Courses of a system, seen with noise; the answers are what comes several steps later.

    Attributes:
        ahead: How many steps.
        noise: Its standard deviation, in that of the courses.
        n_seen: How many of the numbers of a course are seen; the first ones.
        fresh: Whether every epoch has its own windows of the courses.
    """

    n_steps: int
    ahead: tuple[int, ...]
    noise = 0.0
    n_train, n_held_out = 400, 250
    fresh = True

    @abstractmethod
    def courses(self) -> Tensor:
        """Courses ``(M, L, D)`` of the numbers that are seen and forecast."""

    def load(self) -> Split:
        courses = self.courses()
        courses = (courses - courses.mean((0, 1))) / courses.std((0, 1))
        parts = self.parts(courses.float())
        self._courses = parts[0]
        return Split(
            validation=self._windows(parts[1], self.n_held_out, 1),
            test=self._windows(parts[2], self.n_held_out, 2),
        )

    def parts(self, courses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Courses to train on, to validate on and to test on."""
        n = len(courses)
        return courses[: n // 2], courses[n // 2 : 3 * n // 4], courses[3 * n // 4 :]

    def draw(self, epoch: int) -> Data:
        return self._windows(self._courses, self.n_train, 10 + epoch if self.fresh else 10)

    def _windows(self, courses: Tensor, n: int, seed: int) -> Data:
        generator = seeded(seed)
        rows = torch.randint(len(courses), (n, 1), generator=generator)
        last = courses.shape[1] - self.n_steps - max(self.ahead)
        starts = torch.randint(last, (n, 1), generator=generator)
        at = starts + torch.arange(self.n_steps)
        seen = courses[rows, at]
        x = seen + self.noise * torch.randn(seen.shape, generator=generator)
        return x, torch.cat([courses[rows, at + ahead] for ahead in self.ahead], dim=-1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
