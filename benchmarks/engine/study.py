"""What does the engine cost inside a study?

A fingerprint in training epochs, candidates and equal networks at once, diagonal recurrences, the
first call of a process, memory by length of the sequence.

    python -m benchmarks.engine --section fingerprint candidates many_models
    python -m benchmarks.engine --section diagonal first_call memory
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch import nn
from tqdm import tqdm

from benchmarks.engine.memory import measure_memory
from benchmarks.engine.timing import ARCHITECTURES
from benchmarks.engine.timing import N_INPUTS
from benchmarks.engine.timing import Calls
from benchmarks.engine.timing import Row
from benchmarks.engine.timing import Setting
from benchmarks.engine.timing import median_ratio
from benchmarks.engine.timing import run_in_turns
from benchmarks.engine.timing import take_turns
from benchmarks.engine.timing import timings
from benchmarks.engine.timing import without_compiled_code
from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov import spectral_fingerprints

# An epoch as small as that of scikit-learn's digits, 1,797 images of 64 pixels: the smaller the
# epoch, the larger a fingerprint's share.
_EPOCH_SEQUENCES = 1800
_STEPS = 64
_BATCH = 64
# S6 has 16 numbers of state for each unit, and its epochs take minutes.
_FEWER_BATCHES = {"S6": 1}
# Cells of candidates; any seed.
_CANDIDATE_CELLS: dict[str, Callable[..., Any]] = {
    "RNN": nn.RNN,
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "MinGRU": cells.MinGRU,
}
_CANDIDATE_SEED = 11
_ROOT = Path(__file__).parents[2]


def fingerprint(setting: Setting) -> Row:
    """What share of a training epoch of the same network does its fingerprint take?"""
    cases = setting.cases(ARCHITECTURES, 16, 32, 64, 128, 256)
    n_batches = 2 if setting.quick else 6
    inputs = setting.inputs(_STEPS, _BATCH, 8)
    rows = []
    for name, size in tqdm(cases, desc="fingerprint"):
        network, state = setting.network(name, 8, size), ARCHITECTURES[name][1]
        batches = min(n_batches, _FEWER_BATCHES.get(name, n_batches))
        calls: dict[str, Callable[[], object]] = {
            "fingerprint": partial(spectral_fingerprint, network, inputs, state=state),
            "training": partial(_Training(network, inputs).run, batches),
        }
        for call in calls.values():
            call()
        row = timings(take_turns(calls, setting.rounds, setting.device))
        epoch = row["median_seconds"]["training"] * _EPOCH_SEQUENCES / _BATCH / batches
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                **row,
                "batches": batches,
                "epoch_seconds": epoch,
                "share_of_epoch": row["median_seconds"]["fingerprint"] / epoch,
            }
        )
    return {
        "exponents": "all",
        "epoch": f"{_EPOCH_SEQUENCES} sequences of {_STEPS} steps in batches of {_BATCH}, Adam, a "
        "linear head on the last state; measured on a few batches and scaled up",
        "rows": rows,
    }


def candidates(setting: Setting) -> Row:
    """What do the fingerprints of a sampler's candidates take, which differ in cell and size?

    At once, one by one, and one by one without compiled code.
    """
    n_models, sizes = (8, (8, 32)) if setting.quick else (64, (16, 128))
    models, counts = _candidates(n_models, sizes, setting)
    calls: Calls = {
        "together": partial(spectral_fingerprints, models),
        "one_by_one": partial(_fingerprint_each, models),
        "general": partial(without_compiled_code, _fingerprint_each, models),
    }
    seconds = run_in_turns(calls, setting.inputs(_STEPS, 4), setting)
    row = timings(seconds)
    return {
        "models": n_models,
        "cells": counts,
        "sizes": list(sizes),
        "depths": [1, 2],
        "sequences": 4,
        "steps": _STEPS,
        **row,
        "milliseconds_each": {w: 1e3 * s / n_models for w, s in row["median_seconds"].items()},
        "one_by_one_over_together": median_ratio(seconds["one_by_one"], seconds["together"]),
        "general_over_together": median_ratio(seconds["general"], seconds["together"]),
        "general_over_one_by_one": median_ratio(seconds["general"], seconds["one_by_one"]),
    }


def _candidates(
    n_models: int, sizes: tuple[int, int], setting: Setting
) -> tuple[list[nn.Module], dict[str, int]]:
    """Networks of all cells in turn, with sizes and depths drawn at random."""
    rng = np.random.default_rng(_CANDIDATE_SEED)
    torch.manual_seed(_CANDIDATE_SEED)
    models: list[nn.Module] = []
    counts = dict.fromkeys(_CANDIDATE_CELLS, 0)
    for number in range(n_models):
        name = list(_CANDIDATE_CELLS)[number % len(_CANDIDATE_CELLS)]
        size, depth = int(rng.integers(sizes[0], sizes[1] + 1)), int(rng.integers(1, 3))
        make = _CANDIDATE_CELLS[name]
        if issubclass(make, nn.RNNBase):  # type: ignore[arg-type]
            model = make(N_INPUTS, size, num_layers=depth)
        else:
            widths = [N_INPUTS, *[size] * depth]
            model = _Stacked([make(d, h) for d, h in zip(widths[:-1], widths[1:], strict=True)])
        models.append(model.to(setting.device))
        counts[name] += 1
    return models, counts


def _fingerprint_each(models: Sequence[nn.Module], inputs: Tensor) -> None:
    for model in models:
        spectral_fingerprint(model, inputs)


class _Stacked(nn.Module):
    """Layers each of which reads the outputs of the one below."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)[0]
        return inputs


def diagonal(setting: Setting) -> Row:
    """Do thousands of exponents take longer than the forward pass, where J is diagonal?

    Than the layer's own, which scans all steps at once, and than one that goes step by step.
    """
    size, n_state, n_steps = (16, 64, 100) if setting.quick else (256, 4096, 1000)
    # A complex number of the state is two real ones.
    makers: dict[str, Callable[[], cells.DiagonalLayer]] = {
        "S4D": lambda: cells.S4D(N_INPUTS, size, state_size=n_state // 2 // size),
        "LRU": lambda: cells.LRU(N_INPUTS, size, state_size=n_state // 2),
        "S6": lambda: cells.S6(N_INPUTS, size, state_size=n_state // size),
    }
    inputs = setting.inputs(n_steps, 8)
    rows = []
    for name, make in tqdm(makers.items(), desc="diagonal"):
        torch.manual_seed(0)
        layer = make().to(setting.device)
        calls: Calls = {
            "exponents": partial(lyapunov_spectrum, layer),
            "forward": partial(_forward, layer),
            "loop": partial(_forward_in_steps, layer),
        }
        seconds = run_in_turns(calls, inputs, setting)
        ratios = {
            f"exponents_over_{way}": median_ratio(seconds["exponents"], seconds[way])
            for way in ("forward", "loop")
        }
        row = {"architecture": name, "hidden_size": size, "state_size": n_state, "steps": n_steps}
        rows.append({**row, **timings(seconds), **ratios})
    return {"sequences": 8, "rows": rows}


def _forward(layer: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        layer(inputs)


def _forward_in_steps(layer: cells.DiagonalLayer, inputs: Tensor) -> None:
    """What `_forward` computes, where a state is made of the one before it."""
    with torch.no_grad():
        a, b = layer.coefficients(inputs)
        states = b.new_empty(len(b) + 1, *b.shape[1:])
        states[0] = 0.0
        for t, kept in enumerate(a.expand(len(b), *a.shape[1:])):
            torch.addcmul(b[t], kept, states[t], out=states[t + 1])
        layer.read(states[:-1], states[1:], inputs)


def first_call(setting: Setting) -> Row:
    """How long does a fresh process wait for its first spectrum?

    With Numba's cache empty, as once after installation, and with a warm one. The fingerprint of a
    GRU and of an LSTM, one after the other, and the most memory that the process has held.
    """
    n_fresh, n_warm = (1, 1) if setting.quick else (2, 5)
    empty, warm = [], []
    for _ in tqdm(range(n_fresh), desc="first_call"):
        with TemporaryDirectory() as cache:
            empty.append(_start(cache))
            warm += [_start(cache) for _ in range(-(-n_warm // n_fresh))]
    return {
        "import": "python -c 'import optuna_aelle', of which torch",
        "first": "spectral_fingerprint of GRU(10, 64), then of LSTM(10, 64)",
        "empty_cache": _medians(empty),
        "warm_cache": _medians(warm),
        "runs": {"empty_cache": empty, "warm_cache": warm},
    }


def _start(cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine.startup"],
        env={**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def many_models(setting: Setting) -> Row:
    """Do equal networks take less at once than one after the other? 64 steps, 16 to warm up."""
    size, n_models = (16, 4) if setting.quick else (64, 64)
    inputs = setting.inputs(_STEPS, 4)
    cases = [(name, k) for name in ("LSTM hidden", "GRU") for k in (size // 2, size)]
    rows = []
    for name, k in tqdm(cases, desc="many_models"):
        models = [setting.network(name, N_INPUTS, size, seed) for seed in range(n_models)]
        keywords: dict[str, Any] = {"k": k, "state": ARCHITECTURES[name][1], "warmup": 16}
        calls: Calls = {
            "together": partial(lyapunov_spectra, models, **keywords),
            "one_by_one": partial(_one_by_one, models, keywords),
        }
        seconds = run_in_turns(calls, inputs, setting)
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                "models": n_models,
                "k": k,
                **timings(seconds),
                "one_by_one_over_together": median_ratio(
                    seconds["one_by_one"], seconds["together"]
                ),
            }
        )
    return {"sequences": 4, "steps": _STEPS, "rows": rows}


def memory(setting: Setting) -> Row:
    """Does memory grow with the length of the sequence? Peaks, each run in a fresh process.

    There glibc gives freed memory back at once: what is measured is use, not its stock.
    """
    size, batch = (16, 2) if setting.quick else (128, 8)
    lengths = (100, 400) if setting.quick else (200, 2000, 4000)
    exponents = (32,) if setting.quick else (32, 2 * size)
    rows = []
    for n_steps, k in tqdm([(t, k) for k in exponents for t in lengths], desc="memory"):
        with (
            patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="1000000"),
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
        ):
            run = process.submit(measure_memory, str(setting.device), size, batch, n_steps, k)
            rows.append(run.result())
    return {"architecture": "LSTM full", "rows": rows}


class _Training:
    """Adam steps of a network under a linear head, each on the same batch."""

    def __init__(self, network: Any, inputs: Tensor) -> None:
        self.network = network
        self.inputs = inputs
        self.head = nn.Linear(network.hidden_size, 1).to(inputs.device)
        parameters = [*network.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters)

    def run(self, n_batches: int) -> None:
        targets = self.inputs[-1, :, :1]
        for _ in range(n_batches):
            self.optimizer.zero_grad()
            outputs: Tensor = self.head(self.network(self.inputs)[0][-1])
            torch.autograd.backward(nn.functional.mse_loss(outputs, targets))
            self.optimizer.step()


def _one_by_one(models: list[nn.Module], keywords: dict[str, Any], inputs: Tensor) -> None:
    for model in models:
        lyapunov_spectrum(model, inputs, **keywords)
