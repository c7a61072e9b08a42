"""Which part of a spectrum should a fingerprint hold, and along how much input?

The configurations of the development tables are trained again for three epochs, and their whole
spectra taken before training and after epochs 1 and 3, along several lengths of input. Each kind
of fingerprint is made from these, and predicts the recorded final scores of one half of a table
from those of the other half (mean over splits and tables): alone through AeLLE, and together with
the hyperparameters. What each costs is measured side by side. Recorded spectra are kept in
``cache/fingerprints``, so that an interrupted run goes on where it stopped.

    python -m benchmarks.decisions.fingerprints        # ten minutes on one core
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from optuna.trial import FrozenTrial
from scipy.stats import rankdata
from torch import nn
from tqdm import tqdm

from benchmarks.decisions.ranking import correlation
from benchmarks.environment import RESULTS
from benchmarks.environment import describe_environment
from benchmarks.record.__main__ import configuration_seed
from benchmarks.record.__main__ import plan
from benchmarks.record.networks import Stack
from benchmarks.record.spaces import draw_params
from benchmarks.record.table import TABLES
from benchmarks.record.tables import FIRST_DEVELOPMENT_TABLES
from benchmarks.record.tasks import TASKS
from benchmarks.record.tasks import Task
from benchmarks.record.training import StackOptimizer
from benchmarks.record.training import train_epoch
from optuna_aelle import AeLLERegressor
from optuna_aelle import PerformancePredictor
from optuna_aelle import RecordedTrials
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import resample_exponents
from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.trials.attributes import encode_fingerprint

FloatArray = npt.NDArray[np.float64]

CACHE = Path("cache/fingerprints")
EPOCHS = (-1, 1, 3)
# Steps and sequences; the warm-up is the first quarter, 16 steps at most.
LENGTHS = {"64 steps of 4": (64, 4), "32 steps of 2": (32, 2), "16 steps of 1": (16, 1)}
LEADING = "leading 32, 64 steps of 4"
KINDS = (*(f"whole, {length}" for length in LENGTHS), LEADING)
_LARGEST = 512
_N_SPLITS = 4


def record(table: str, path: Path) -> None:
    """Train a table's configurations for three epochs; keep whole spectra and their seconds."""
    task_name, cell = table.rsplit("-", 1)
    task = TASKS[task_name]()
    n = len(RecordedTrials.load(TABLES / f"{table}.npz"))
    spectra = np.full((len(LENGTHS), n, len(EPOCHS), _LARGEST), np.nan)
    seconds = np.full((len(KINDS), n, len(EPOCHS)), np.nan)
    sizes = np.zeros(n, dtype=np.int64)
    for members in tqdm(plan(table, n), desc=table):
        seeds = [configuration_seed(table, i) for i in members]
        params = [draw_params(cell, seed) for seed in seeds]
        stack = Stack(
            params,
            cell,
            seeds,
            n_inputs=task.n_inputs,
            n_outputs=task.n_outputs,
            n_steps=task.probe.shape[1],
            device=torch.device("cpu"),
        )
        optimizer = StackOptimizer(stack, params)
        for column, epoch in enumerate(EPOCHS):
            if epoch > 0:
                for passed in range(max(EPOCHS[column - 1], 0), epoch):
                    train_epoch(stack, task, optimizer, passed)
            alive = [i for i in range(len(members)) if not optimizer.diverged[i]]
            if not alive:
                continue
            modules = [stack.module(i) for i in alive]
            rows = [members[i] for i in alive]
            for kind, (n_steps, n_sequences) in enumerate(LENGTHS.values()):
                found, seconds[kind, rows, column] = _timed(modules, task, n_steps, n_sequences)
                for row, spectrum in zip(rows, found, strict=True):
                    sizes[row] = spectrum.state_size
                    spectra[kind, row, column, : spectrum.state_size] = spectrum.mean
            k = min(FINGERPRINT_LENGTH, found[0].state_size)
            seconds[-1, rows, column] = _timed(modules, task, *LENGTHS["64 steps of 4"], k=k)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez_compressed(unfinished, spectra=spectra, seconds=seconds, sizes=sizes)
    unfinished.rename(path)


def _timed(
    modules: Sequence[nn.Module], task: Task, n_steps: int, n_sequences: int, k: int | None = None
) -> tuple[list[LyapunovSpectrum], float]:
    """Spectra along the first steps and sequences of the probe, and the seconds of each."""
    n_steps = min(n_steps, task.probe.shape[1])
    inputs = task.probe[:n_sequences, :n_steps]
    started = time.perf_counter()
    found = lyapunov_spectra(modules, inputs, k=k, warmup=min(16, n_steps // 4))
    return found, (time.perf_counter() - started) / len(modules)


def evaluate(table: str, path: Path) -> list[dict[str, Any]]:
    """Rank correlations of each kind of fingerprint: ``[all, better half]``."""
    torch.set_num_threads(1)
    recorded = RecordedTrials.load(TABLES / f"{table}.npz")
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    finals = sign * recorded.finals
    with np.load(path) as file:
        spectra, seconds, sizes = file["spectra"], file["seconds"], file["sizes"]
    rows: list[dict[str, Any]] = []
    for kind, name in enumerate(KINDS):
        for column, epoch in enumerate(EPOCHS):
            whole = spectra[0 if name == LEADING else kind, :, column]
            most = FINGERPRINT_LENGTH if name == LEADING else _LARGEST
            points = [
                None if np.isnan(x[0]) else resample_exponents(x[: min(n, most)])
                for x, n in zip(whole, sizes, strict=True)
            ]
            rows.append(
                {
                    "table": table,
                    "fingerprint": name,
                    "epoch": epoch,
                    "alone": _alone(points, finals),
                    "with_hyperparameters": _together(recorded, points, sizes, finals, epoch),
                    "hyperparameters": _together(
                        recorded, [None] * len(points), sizes, finals, epoch
                    )
                    if kind == 0
                    else None,
                    "seconds": float(np.nanmean(seconds[kind, :, column])),
                }
            )
    return rows


def _alone(points: Sequence[FloatArray | None], finals: FloatArray) -> list[float]:
    """What AeLLE reads from the spectra alone."""
    there = np.array([i for i, x in enumerate(points) if x is not None])
    rows = np.stack([x for x in points if x is not None])
    scores = rankdata(finals[there])
    found = []
    for seed in range(_N_SPLITS):
        order = np.random.default_rng(seed).permutation(len(there))
        known, hidden = np.array_split(order, 2)
        regressor = AeLLERegressor(random_state=0).fit(rows[known], scores[known])
        found.append(_pair(regressor.predict(rows[hidden]), finals[there[hidden]], finals))
    return _mean(found)


def _together(
    recorded: RecordedTrials,
    points: Sequence[FloatArray | None],
    sizes: npt.NDArray[np.int64],
    finals: FloatArray,
    epoch: int,
) -> list[float]:
    """What the predictor makes of hyperparameters and spectra, at one epoch."""
    features: tuple[Feature, ...] = ("params", "spectrum")
    trials: list[FrozenTrial] = []
    for trial, spectrum, size in zip(recorded.trials, points, sizes.tolist(), strict=True):
        bare = copy.copy(trial)
        bare.system_attrs = {}
        if spectrum is not None:
            bare.system_attrs = encode_fingerprint(spectrum, epoch, state_size=size, seconds=None)
        trials.append(bare)
    found = []
    for seed in range(_N_SPLITS):
        order = np.random.default_rng(seed).permutation(len(trials))
        known, hidden = np.array_split(order, 2)
        predictor = PerformancePredictor(features, direction=recorded.direction)
        fitted = predictor.fit([trials[i] for i in known])
        mean, _ = fitted.predict_standings([trials[i] for i in hidden], epoch)
        found.append(_pair(mean, finals[hidden], finals))
    return _mean(found)


def _pair(predicted: FloatArray, actual: FloatArray, finals: FloatArray) -> list[float]:
    upper = actual >= np.median(finals)
    return [correlation(predicted, actual), correlation(predicted[upper], actual[upper])]


def _mean(pairs: Sequence[list[float]]) -> list[float]:
    return [round(float(x), 3) for x in np.mean(pairs, axis=0)]


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Means over the tables, as Markdown: all / better half."""

    def cell(name: str, epoch: int, what: str) -> str:
        pairs = [r[what] for r in rows if r["fingerprint"] == name and r["epoch"] == epoch]
        return "{:.2f} / {:.2f}".format(*np.mean(pairs, axis=0))

    def cost(name: str) -> float:
        return float(np.mean([r["seconds"] for r in rows if r["fingerprint"] == name]))

    columns = [("alone", -1), ("alone", 3), ("with_hyperparameters", -1)]
    columns += [("with_hyperparameters", 3)]
    titles = ["alone, untrained", "alone, epoch 3", "with hyperparameters, untrained"]
    titles += ["with hyperparameters, epoch 3"]
    lines = [
        "| fingerprint | " + " | ".join(titles) + " | cost |",
        "|---" * (len(titles) + 2) + "|",
    ]
    for name in KINDS:
        cells = [cell(name, epoch, what) for what, epoch in columns]
        relative = cost(name) / cost(LEADING)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {relative:.2g} |")
    alone = [cell(KINDS[0], epoch, "hyperparameters") for epoch in (-1, 3)]
    lines.append(f"| none | | | {alone[0]} | {alone[1]} | 0 |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record what is missing, evaluate, write the results, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decisions.fingerprints",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = sorted(path.stem for path in TABLES.glob("*.npz"))
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=known,
        default=list(FIRST_DEVELOPMENT_TABLES),
        metavar="TABLE",
        help="names; by default those that designs come from",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for table in options.tables:
        path = CACHE / f"{table}.npz"
        if not path.exists():
            record(table, path)
        rows += evaluate(table, path)
    results = {
        "command": "python -m benchmarks.decisions.fingerprints",
        "environment": describe_environment(),
        "runs": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "fingerprints.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table_text(rows))


if __name__ == "__main__":
    main()
