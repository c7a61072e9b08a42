"""What does the engine cost inside a study?

A fingerprint in training epochs, many networks at once, memory by length of the sequence.

    python -m benchmarks.engine --section fingerprint many_models memory
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint

# An epoch as small as that of scikit-learn's digits, 1,797 images of 64 pixels: the smaller the
# epoch, the larger a fingerprint's share.
_EPOCH_SEQUENCES = 1800
_STEPS = 64
_BATCH = 64


def fingerprint(setting: Setting) -> Row:
    """A fingerprint as a share of one training epoch of the same network."""
    cases = setting.cases(ARCHITECTURES, 64, 128, 256)
    n_batches = 2 if setting.quick else 6
    inputs = setting.inputs(_STEPS, _BATCH, 8)
    rows = []
    for name, size in tqdm(cases, desc="fingerprint"):
        network, state = setting.network(name, 8, size), ARCHITECTURES[name][1]
        probe = partial(spectral_fingerprint, network, inputs, state=state)
        train = partial(_Training(network, inputs).run, n_batches)
        probe()
        train()
        seconds = take_turns({"fingerprint": probe, "training": train}, 3, setting.device)
        more = take_turns({"fingerprint": probe}, 2, setting.device)
        seconds["fingerprint"] += more["fingerprint"]
        row = timings(seconds)
        epoch = row["median_seconds"]["training"] * _EPOCH_SEQUENCES / _BATCH / n_batches
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                "seconds": row["seconds"],
                "epoch_seconds": epoch,
                "share_of_epoch": float(np.median(seconds["fingerprint"])) / epoch,
            }
        )
    return {
        "exponents": "all",
        "epoch": f"{_EPOCH_SEQUENCES} sequences of {_STEPS} steps in batches of {_BATCH}, Adam, a "
        f"linear head on the last state; measured on {n_batches} batches and scaled up",
        "rows": rows,
    }


def many_models(setting: Setting) -> Row:
    """Equal networks at once, against one after the other; 64 steps of which 16 warm up."""
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
    """Peak growth of memory with the length of the sequence, each run in a fresh process.

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

    def __init__(self, network: nn.RNNBase, inputs: Tensor) -> None:
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


def _one_by_one(models: list[nn.RNNBase], keywords: dict[str, Any], inputs: Tensor) -> None:
    for model in models:
        lyapunov_spectrum(model, inputs, **keywords)
