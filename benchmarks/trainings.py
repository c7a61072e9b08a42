"""Trainings, each done once and kept: what lets many pruners be compared on the same curves.

A training is a function of (task, parameters, seed) alone (`studies.training`), so an arm that
asks for a configuration that another arm has trained gets the very same epochs, spectra and
seconds.
Lines of JSON, appended as they come; an interrupted run resumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from tqdm import tqdm

from optuna_aelle.lyapunov.spectrum import FloatArray
from studies.training import Params
from studies.training import Task
from studies.training import train


@dataclass(frozen=True)
class RecordedEpoch:
    """One epoch as it was measured; ``exponents`` is the mean spectrum, nats per step."""

    step: int
    value: float | None
    seconds: float
    exponents: FloatArray | None
    spectrum_seconds: float


class Trainings:
    """All trainings of one task and seed, from disk where they are, trained where not."""

    def __init__(self, task: Task, seed: int, n_epochs: int, folder: Path) -> None:
        self.task = task
        self.seed = seed
        self.n_epochs = n_epochs
        self._path = folder / f"{task.name}-{seed}-{n_epochs}.jsonl"
        self._done: dict[str, list[RecordedEpoch]] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                record = json.loads(line)
                self._done[_key(record["params"])] = [_decode(e) for e in record["epochs"]]

    def epochs(self, params: Params) -> Iterator[RecordedEpoch]:
        """The untrained network, then every epoch; who stops early leaves the rest untrained."""
        key = _key(params)
        known = self._done.get(key, [])
        yield from known
        if len(known) == self.n_epochs + 1:
            return
        fresh = []
        try:
            for epoch in train(self.task, params, n_epochs=self.n_epochs, seed=self.seed):
                spectrum = epoch.spectrum
                fresh.append(
                    RecordedEpoch(
                        epoch.step,
                        epoch.value,
                        epoch.seconds,
                        None if spectrum is None else spectrum.mean,
                        0.0 if spectrum is None else spectrum.seconds,
                    )
                )
                if len(fresh) > len(known):
                    yield fresh[-1]
        finally:
            if len(fresh) > len(known):
                self._done[key] = fresh
                self._append(params, fresh)

    def train_stream(self, n_trials: int) -> list[float]:
        """Train the first configurations of the random stream in full; their final values."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        finals = []
        for _ in tqdm(range(n_trials), desc=f"{self.task.name}, seed {self.seed}", leave=False):
            *_, last = self.epochs(self.task.suggest(study.ask()))
            finals.append(float("nan") if last.value is None else last.value)
        return finals

    def mean_epoch_seconds(self) -> float:
        """Mean seconds of an epoch over everything trained so far."""
        seconds = [e.seconds for epochs in self._done.values() for e in epochs if e.step >= 0]
        return float(np.mean(seconds))

    def _append(self, params: Params, epochs: list[RecordedEpoch]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record = {"params": dict(params), "epochs": [_encode(e) for e in epochs]}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _key(params: Params) -> str:
    return json.dumps(dict(params), sort_keys=True)


def _encode(epoch: RecordedEpoch) -> dict[str, Any]:
    exponents = epoch.exponents
    return {
        "step": epoch.step,
        "value": epoch.value,
        "seconds": round(epoch.seconds, 5),
        "exponents": None
        if exponents is None
        else [float(f"{x:.6g}") if math.isfinite(x) else None for x in exponents],
        "spectrum_seconds": round(epoch.spectrum_seconds, 5),
    }


def _decode(payload: dict[str, Any]) -> RecordedEpoch:
    exponents = payload["exponents"]
    return RecordedEpoch(
        payload["step"],
        payload["value"],
        payload["seconds"],
        None
        if exponents is None
        else np.array([-math.inf if x is None else x for x in exponents], dtype=np.float64),
        payload["spectrum_seconds"],
    )
