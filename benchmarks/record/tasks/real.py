"""Tasks on data from outside: images by pixel or row, series of archives, the text of programs.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import gzip
import sysconfig
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Classification
from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import Task
from benchmarks.record.tasks.base import cross_entropy

# Where Debian's package dataset-fashion-mnist puts it.
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class Digits(Classification):
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


class FashionRows(Classification):
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
        return self.bounded(cross_entropy(outputs, targets))


def _read_idx(name: str) -> Data:
    def payload(path: Path, header: int) -> torch.Tensor:
        with gzip.open(path) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    images = payload(FASHION_FOLDER / f"{name}-images-idx3-ubyte.gz", 16).view(-1, 28, 28)
    labels = payload(FASHION_FOLDER / f"{name}-labels-idx1-ubyte.gz", 8)
    return images.float() / 127.5 - 1.0, labels.long()


class Archive(Classification):
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


class JapaneseVowels(Archive):
    """Nine speakers by twelve cepstral coefficients of one vowel."""

    name = "vowels"
    archive_name = "JapaneseVowels"
    n_inputs, n_outputs = 12, 9

    def load(self) -> Split:
        train, (x, y) = self.read("train"), self.read("test")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b = order[:185], order[185:]
        return Split(train=train, validation=(x[a], y[a]), test=(x[b], y[b]))


class OSULeaf(Archive):
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
        return self.bounded(bits)

    def _pair(self, windows: Tensor) -> Data:
        return F.one_hot(windows[:, :-1], self.n_inputs).float(), windows[:, 1:]
