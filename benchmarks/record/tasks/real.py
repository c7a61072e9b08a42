"""Tasks on data from outside: images by pixel or row, and measured series.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.record.tasks.base import Classification
from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import cross_entropy
from benchmarks.record.tasks.generated import Forecast

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


class GradedClassification(Classification):
    """The score is the cross-entropy: where data is small, accuracies are few."""

    metric = "cross-entropy"
    direction: Literal["minimize", "maximize"] = "minimize"
    worst = 5.0

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.bounded(cross_entropy(outputs, targets))


class FashionRows(GradedClassification):
    """Fashion-MNIST, one row of 28 pixels a step; the score is the cross-entropy."""

    name = "fashion"
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
        try:
            from aeon.datasets import load_classification
        except ImportError as error:
            raise _missing("aeon") from error
        series, labels = load_classification(self.archive_name, split=part)
        longest = max(s.shape[1] for s in series)
        # Shorter ones are padded in front: the network answers after the last step.
        x = torch.zeros(len(series), longest, series[0].shape[0])
        for row, s in zip(x, series, strict=True):
            row[longest - s.shape[1] :] = torch.from_numpy(np.asarray(s.T, dtype=np.float32))
        classes = sorted(set(labels), key=lambda label: (len(label), label))
        return x, torch.tensor([classes.index(label) for label in labels])

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


class Power(Archive, GradedClassification):
    """A day of Italian power demand by the hour: summer or winter? The score is cross-entropy."""

    name = "power"
    archive_name = "ItalyPowerDemand"
    n_inputs, n_outputs = 1, 2

    def load(self) -> Split:
        (x, y), (other_x, other_y) = self.read("train"), self.read("test")
        x, y = torch.cat([x, other_x]), torch.cat([y, other_y])
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b, c = order[:240], order[240:660], order[660:]
        return Split(train=(x[a], y[a]), validation=(x[b], y[b]), test=(x[c], y[c]))


class Motions(Archive, GradedClassification):
    """Four motions by what a watch measures, 50 steps of six numbers; scored by cross-entropy."""

    name = "motions"
    archive_name = "BasicMotions"
    n_inputs, n_outputs = 6, 4
    n_steps, starts = 50, (0, 10, 20, 30, 40, 50)

    def load(self) -> Split:
        train, (x, y) = self.read("train"), self.read("test")
        center, spread = train[0].mean((0, 1)), train[0].std((0, 1))

        def windows(x: Tensor, y: Tensor) -> Data:
            cut = [x[:, at : at + self.n_steps] for at in self.starts]
            return (torch.cat(cut) - center) / spread, y.repeat(len(cut))

        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        a, b = order[:20], order[20:]
        return Split(
            train=windows(*train), validation=windows(x[a], y[a]), test=windows(x[b], y[b])
        )


class MNIST1D(Classification):
    """MNIST-1D: ten shapes, stretched, shifted and noisy, in 40 steps of one number.

    Source: Greydanus and Kobak (arXiv 2011.14439); made by the authors' package.
    """

    name = "mnist1d"
    n_inputs, n_outputs = 1, 10

    def load(self) -> Split:
        try:
            from mnist1d.data import make_dataset
        except ImportError as error:
            raise _missing("mnist1d") from error
        made = make_dataset()
        x = torch.tensor(made["x"], dtype=torch.float32)[..., None]
        y = torch.tensor(made["y"])
        return Split(
            train=(x[:1000], y[:1000]),
            validation=(x[1500:2500], y[1500:2500]),
            test=(x[2500:3500], y[2500:3500]),
        )


class Laser(Forecast):
    """Forecast the intensity of a chaotic laser 2 and 10 steps ahead; 200 steps are seen.

    Source: the Santa Fe time series competition (1991), set A, as reservoirpy brings it along.
    """

    name = "laser"
    n_train = 200
    n_steps, ahead = 200, (2, 10)
    n_inputs, n_outputs = 1, 2

    def courses(self) -> Tensor:
        try:
            from reservoirpy.datasets import santafe_laser
        except ImportError as error:
            raise _missing("reservoirpy") from error
        return torch.tensor(np.asarray(santafe_laser(), dtype=np.float64))[None]

    def parts(self, courses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return courses[:, :6000], courses[:, 6000:8000], courses[:, 8000:]


def _missing(package: str) -> ImportError:
    return ImportError(
        f"Expected the package {package}, found none. Install it: pip install -e .[record]."
    )
