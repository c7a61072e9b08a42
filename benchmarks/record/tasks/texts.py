"""Tasks of going on with a text, character by character.

Notation as in `benchmarks.record.tasks.base`.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record.tasks.base import Data
from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import Task
from benchmarks.record.tasks.base import cross_entropy


class Text(Task):
    """Next-character prediction; bits a character.

    Attributes:
        alphabet: What is told apart; all other characters are one more.
        n_held_out: Windows to validate on, and as many to test on.
    """

    metric = "bits a character"
    every_step = True
    worst = 8.0
    alphabet: str
    n_held_out = 200
    n_steps, n_windows = 50, 500

    @abstractmethod
    def read(self) -> str:
        """The text."""

    def load(self) -> Split:
        known = {character: i for i, character in enumerate(self.alphabet)}
        codes = torch.tensor([known.get(character, len(known)) for character in self.read()])
        width = self.n_steps + 1
        windows = codes[: len(codes) // width * width].view(-1, width)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
        validation, test = order[: self.n_held_out], order[self.n_held_out : 2 * self.n_held_out]
        self._windows = windows[order[2 * self.n_held_out :]]
        return Split(validation=self._pair(windows[validation]), test=self._pair(windows[test]))

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


class CharLM(Text):
    """Next-character prediction on the source of Python's standard library; bits a character."""

    name = "charlm"
    modules = ("argparse", "ast", "dataclasses", "datetime", "inspect", "tarfile", "typing")
    alphabet = "\n abcdefghijklmnopqrstuvwxyz_.,:=()[]'\"#0"
    n_inputs = n_outputs = len(alphabet) + 1

    def read(self) -> str:
        folder = Path(sysconfig.get_path("stdlib"))
        texts = [(folder / f"{name}.py").read_text() for name in self.modules]
        text = "\n".join(" ".join(t.lower().split(" ")) for t in texts)
        # Indentation in steps of four says nothing new after its first blank.
        return text.replace("    ", " ")


class Bible(Text):
    """Next-character prediction on the King James Bible, 80 characters at a time."""

    name = "bible"
    alphabet = " abcdefghijklmnopqrstuvwxyz,.;:"
    n_inputs = n_outputs = len(alphabet) + 1
    n_steps, n_windows = 80, 250
    # Matthew to John.
    passage = "matt1:1-john21:25"

    def read(self) -> str:
        command = ["bible", "-l100000", self.passage]
        try:
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "Expected the program bible, found none. Install Debian's package bible-kjv."
            ) from error
        verses = re.findall(r"^  \d+ (.*)$", shown.lower(), flags=re.MULTILINE)
        return re.sub(r"[^a-z,.;:]+", " ", " ".join(verses))
