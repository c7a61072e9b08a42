"""Ten tasks for recurrent networks: data, loss and score.

Notation: N sequences of T steps with D inputs; G networks trained side by side; O outputs. Data is
the same for every configuration: which batches an epoch has follows from its number alone.
"""

from __future__ import annotations

import gzip
import hashlib
import sysconfig
from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

Data = tuple[Tensor, Tensor]
BATCH_SIZE = 25
PROBE_SEQUENCES = 4
# A network that does worse than this has failed; the score of those that diverge, too.
WORST_ERROR = 2.0

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")


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

    def batches(self, epoch: int) -> Iterator[Data]:
        """The training data of an epoch in its own order."""
        x, y = self.draw(epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + epoch))
        for rows in torch.split(order, BATCH_SIZE):
            yield x[rows], y[rows]

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


class _Classification(Task):
    metric = "accuracy"
    direction: Literal["minimize", "maximize"] = "maximize"
    worst = 0.0

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).float().mean(-1)


class _Regression(Task):
    """The score is the share of the targets' variance that is left unexplained: 1 is chance."""

    metric = "unexplained variance"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs - targets).square().flatten(1, -2).mean(1)
        error = (errors / targets.flatten(0, -2).var(0)).mean(-1)
        return error.nan_to_num(nan=WORST_ERROR, posinf=WORST_ERROR).clamp(max=WORST_ERROR)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats, one number a network."""
    logits = outputs.flatten(1, -2)
    labels = targets.flatten().expand(len(logits), -1)
    picked = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])
    return -picked.mean(dim=(1, 2))


class Digits(_Classification):
    """scikit-learn's 8 by 8 digits, one pixel a step."""

    name = "digits"
    n_inputs, n_outputs = 1, 10

    def load(self) -> Split:
        pixels, labels = load_digits(return_X_y=True)
        x = torch.tensor(pixels, dtype=torch.float32)[..., None] / 8.0 - 1.0
        y = torch.tensor(labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b, c = order[:800], order[800:1200], order[1200:1600]
        return Split(train=(x[a], y[a]), validation=(x[b], y[b]), test=(x[c], y[c]))


class FashionRows(_Classification):
    """Fashion-MNIST, one row of 28 pixels a step; the score is the cross-entropy."""

    name = "fashion"
    metric = "cross-entropy"
    direction: Literal["minimize", "maximize"] = "minimize"
    worst = 5.0
    n_inputs, n_outputs = 28, 10

    def load(self) -> Split:
        if not FASHION_FOLDER.exists():
            raise FileNotFoundError(
                f"Expected Fashion-MNIST in {FASHION_FOLDER}, found nothing. Install Debian's "
                "package dataset-fashion-mnist."
            )
        x, y = _read_idx("train")
        test_x, test_y = _read_idx("t10k")
        return Split(
            train=(x[:1200], y[:1200]),
            validation=(x[50000:50500], y[50000:50500]),
            test=(test_x[:500], test_y[:500]),
        )

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets).nan_to_num(nan=5.0, posinf=5.0).clamp(max=5.0)


def _read_idx(name: str) -> Data:
    def payload(path: Path, header: int) -> torch.Tensor:
        with gzip.open(path) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    images = payload(FASHION_FOLDER / f"{name}-images-idx3-ubyte.gz", 16).view(-1, 28, 28)
    labels = payload(FASHION_FOLDER / f"{name}-labels-idx1-ubyte.gz", 8)
    return images.float() / 127.5 - 1.0, labels.long()


class _Archive(_Classification):
    """A data set of the UCR/UEA archives that `aeon` brings along."""

    def read(self, part: Literal["train", "test"]) -> Data:
        from aeon.datasets import load_classification

        series, labels = load_classification(self.archive_name, split=part)
        longest = max(s.shape[1] for s in series)
        # Shorter ones are padded in front: the network answers after the last step.
        x = torch.zeros(len(series), longest, series[0].shape[0])
        for row, s in zip(x, series, strict=True):
            row[longest - s.shape[1] :] = torch.from_numpy(np.asarray(s.T, dtype=np.float32))
        return x, torch.tensor([int(label) - 1 for label in labels])

    archive_name: str


class JapaneseVowels(_Archive):
    """Nine speakers by twelve cepstral coefficients of one vowel."""

    name = "vowels"
    archive_name = "JapaneseVowels"
    n_inputs, n_outputs = 12, 9

    def load(self) -> Split:
        train, (x, y) = self.read("train"), self.read("test")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b = order[:185], order[185:]
        return Split(train=train, validation=(x[a], y[a]), test=(x[b], y[b]))


class OSULeaf(_Archive):
    """Outlines of leaves, 427 steps of one number, six classes."""

    name = "osuleaf"
    archive_name = "OSULeaf"
    n_inputs, n_outputs = 1, 6

    def load(self) -> Split:
        (x, y), (other_x, other_y) = self.read("train"), self.read("test")
        x, y = torch.cat([x, other_x]), torch.cat([y, other_y])
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b, c = order[:200], order[200:320], order[320:]
        return Split(train=(x[a], y[a]), validation=(x[b], y[b]), test=(x[c], y[c]))


class CharLM(Task):
    """Next-character prediction on the source of Python's standard library; bits a character."""

    name = "charlm"
    metric = "bits a character"
    every_step = True
    worst = 8.0
    modules = ("argparse", "ast", "dataclasses", "datetime", "inspect", "tarfile", "typing")
    alphabet = "\n abcdefghijklmnopqrstuvwxyz_.,:=()[]'\"#0"
    n_inputs = n_outputs = len(alphabet) + 1
    n_steps, n_windows = 50, 500

    def load(self) -> Split:
        folder = Path(sysconfig.get_path("stdlib"))
        texts = [(folder / f"{name}.py").read_text() for name in self.modules]
        text = "\n".join(" ".join(t.lower().split(" ")) for t in texts)
        # Indentation in steps of four says nothing new after its first blank.
        text = text.replace("    ", " ")
        known = {character: i for i, character in enumerate(self.alphabet)}
        codes = torch.tensor([known.get(character, len(known)) for character in text])
        width = self.n_steps + 1
        windows = codes[: len(codes) // width * width].view(-1, width)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
        self._windows = windows[order[400:]]
        return Split(
            validation=self._pair(windows[order[:200]]), test=self._pair(windows[order[200:400]])
        )

    def draw(self, epoch: int) -> Data:
        generator = torch.Generator().manual_seed(epoch)
        rows = torch.randint(len(self._windows), (self.n_windows,), generator=generator)
        return self._pair(self._windows[rows])

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        bits = cross_entropy(outputs, targets) / float(np.log(2.0))
        return bits.nan_to_num(nan=self.worst, posinf=self.worst).clamp(max=self.worst)

    def _pair(self, windows: Tensor) -> Data:
        return F.one_hot(windows[:, :-1], self.n_inputs).float(), windows[:, 1:]


class Lorenz(_Regression):
    """Forecast x of the Lorenz system half a unit of time ahead, from x alone."""

    name = "lorenz"
    every_step = True
    n_inputs = n_outputs = 1
    n_steps, ahead, washout = 60, 10, 10
    dt = 0.05

    def load(self) -> Split:
        x = torch.tensor(self._trajectory(60_000), dtype=torch.float32)
        x = (x - x.mean()) / x.std()
        self._train = x[:40_000]
        return Split(
            validation=self._windows(x[40_000:50_000], 300, 1),
            test=self._windows(x[50_000:], 300, 2),
        )

    def draw(self, epoch: int) -> Data:
        return self._windows(self._train, 500, 10 + epoch)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().losses(outputs[:, :, self.washout :], targets[:, self.washout :])

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().scores(outputs[:, :, self.washout :], targets[:, self.washout :])

    def _windows(self, series: Tensor, n: int, seed: int) -> Data:
        last = len(series) - self.n_steps - self.ahead
        starts = torch.randint(last, (n,), generator=torch.Generator().manual_seed(seed))
        at = starts[:, None] + torch.arange(self.n_steps)
        return series[at][..., None], series[at + self.ahead][..., None]

    def _trajectory(self, n: int) -> list[float]:
        def flow(s: np.ndarray) -> np.ndarray:
            x, y, z = s
            return np.array([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])

        state, h, kept = np.array([1.0, 1.0, 20.0]), self.dt / 4.0, []
        for i in range(4 * (n + 100)):
            a = flow(state)
            b = flow(state + h / 2.0 * a)
            c = flow(state + h / 2.0 * b)
            d = flow(state + h * c)
            state = state + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)
            if i % 4 == 3 and i >= 400:
                kept.append(float(state[0]))
        return kept


class _Generated(_Regression):
    """Sequences made by a formula, fresh ones for every epoch."""

    n_train, n_held_out = 500, 250

    def load(self) -> Split:
        return Split(
            validation=self.make(self.n_held_out, _generator(1)),
            test=self.make(self.n_held_out, _generator(2)),
        )

    def draw(self, epoch: int) -> Data:
        return self.make(self.n_train, _generator(10 + epoch))

    @abstractmethod
    def make(self, n: int, generator: torch.Generator) -> Data:
        """``n`` sequences and what the network is to answer."""


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Adding(_Generated):
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


class Recall(_Generated):
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


class Copying(_Generated):
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
        for start in self._answers():
            x[:, start, -2:] = torch.tensor([1.0, 0.0])
        return x, symbols

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = [outputs[:, :, at : at + self.length] for at in self._answers()]
        return torch.stack([cross_entropy(answer, targets) for answer in answers]).mean(0)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        relative = self.losses(outputs, targets) / float(np.log(self.n_symbols))
        return relative.nan_to_num(nan=WORST_ERROR, posinf=WORST_ERROR).clamp(max=WORST_ERROR)

    def _answers(self) -> tuple[int, int]:
        first = self.length + self.delays[0]
        return first, self.length + self.delays[1]


class FourSines(_Generated):
    """Go on with a sum of four sines, seen with noise for 30 steps, for 30 more by heart.

    Source of the signal: Vogt et al. (arXiv 2204.04876), signal reconstruction, after Sussillo and
    Abbott (2009); here every sequence has phases and amplitudes of its own.
    """

    name = "sines"
    every_step = True
    n_steps, seen, noise = 60, 30, 0.1
    periods = (40.0, 20.0, 40.0 / 3.0, 10.0)
    n_inputs, n_outputs = 2, 1

    def make(self, n: int, generator: torch.Generator) -> Data:
        phases = 2.0 * np.pi * torch.rand(n, 1, 4, generator=generator)
        sizes = 0.3 + torch.rand(n, 1, 4, generator=generator)
        t = torch.arange(self.n_steps, dtype=torch.float32)[None, :, None]
        rates = 2.0 * np.pi / torch.tensor(self.periods)
        signal = (sizes * torch.sin(rates * t + phases)).sum(-1)
        x = torch.zeros(n, self.n_steps, 2)
        shown = signal + self.noise * torch.randn(n, self.n_steps, generator=generator)
        x[:, : self.seen, 0] = shown[:, : self.seen]
        x[:, self.seen :, 1] = 1.0
        return x, signal[..., None]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().losses(outputs[:, :, self.seen :], targets[:, self.seen :])

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().scores(outputs[:, :, self.seen :], targets[:, self.seen :])


TASKS: dict[str, Callable[[], Task]] = {
    task.name: task
    for task in (
        Digits,
        FashionRows,
        JapaneseVowels,
        OSULeaf,
        CharLM,
        Lorenz,
        Adding,
        Recall,
        Copying,
        FourSines,
    )
}
