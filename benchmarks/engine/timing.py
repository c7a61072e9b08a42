"""How many seconds do all exponents take?

    python -m benchmarks.engine --section speed gemm_cost methods

Calls that are compared run in turns, one of each a round, so that a ratio is taken between
neighbours in time; what is reported is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch import nn
from tqdm import tqdm

from benchmarks.engine.baselines import qr_spectrum
from optuna_aelle.lyapunov import lyapunov_spectrum

Row = dict[str, Any]
Calls = dict[str, Callable[[Tensor], object]]
StateKind = Literal["full", "hidden"]

ARCHITECTURES: dict[str, tuple[Callable[[int, int], nn.RNNBase], StateKind]] = {
    "LSTM hidden": (nn.LSTM, "hidden"),
    "GRU": (nn.GRU, "full"),
    "RNN": (nn.RNN, "full"),
    "LSTM full": (nn.LSTM, "full"),
}
# The engine's own default.
WARMUP = 20
# Any: input weights are no part of a Jacobian.
N_INPUTS = 10
# Five rounds of four such calls would take more than an hour.
_SLOW_SECONDS = 200.0
_SLOW_ROUNDS = 3
_SHORT_SECONDS = 0.05


@dataclass(frozen=True)
class Setting:
    """Where to measure, whether to try everything out in small, and what to leave out.

    Attributes:
        device: Of models and inputs.
        quick: Tiny sizes.
        only_architectures: Names of `ARCHITECTURES`; empty for all.
        only_sizes: Hidden sizes; empty for all.
    """

    device: torch.device
    quick: bool = False
    only_architectures: tuple[str, ...] = ()
    only_sizes: tuple[int, ...] = ()

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @property
    def measured_steps(self) -> int:
        return 20 if self.quick else 100

    def sizes(self, *full: int) -> tuple[int, ...]:
        """The hidden sizes to measure."""
        sizes = (16, 32) if self.quick else full
        return tuple(size for size in sizes if size in (self.only_sizes or sizes))

    def cases(self, names: Iterable[str], *sizes: int) -> list[tuple[str, int]]:
        """Architectures with hidden sizes."""
        names = [n for n in names if n in (self.only_architectures or ARCHITECTURES)]
        return [(name, size) for name in names for size in self.sizes(*sizes)]

    def network(
        self, architecture: str, n_inputs: int, hidden_size: int, seed: int = 0
    ) -> nn.RNNBase:
        """A network with torch's default initialisation."""
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture][0](n_inputs, hidden_size).to(self.device)

    def inputs(self, n_steps: int, batch: int, n_inputs: int = N_INPUTS) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(n_steps, batch, n_inputs, generator=generator).to(self.device)


def take_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call in each round. Callers have run the calls once, to warm up.

    A call that takes less than a twentieth of a second is repeated until that time is over, and
    its mean counts: alone, it would be charged for the caches that its predecessor has filled.
    Where a call takes longer than three minutes, three rounds are enough.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(rounds):
        if done >= _SLOW_ROUNDS and max(map(max, seconds.values())) > _SLOW_SECONDS:
            break
        for name, call in calls.items():
            _synchronize(device)
            n_done, started = 0, time.perf_counter()
            while n_done == 0 or time.perf_counter() - started < _SHORT_SECONDS:
                call()
                _synchronize(device)
                n_done += 1
            seconds[name].append((time.perf_counter() - started) / n_done)
    return seconds


def run_in_turns(calls: Calls, inputs: Tensor, setting: Setting) -> dict[str, list[float]]:
    """Warm every call up on a few steps, then time them in turns on all."""
    for call in calls.values():
        call(inputs[: WARMUP + 5])
    bound = {name: partial(call, inputs) for name, call in calls.items()}
    return take_turns(bound, setting.rounds, setting.device)


def median_ratio(over: list[float], under: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return float(np.median(np.divide(over, under)))


def timings(seconds: Mapping[str, list[float]]) -> Row:
    """All seconds and their medians, as they go into a results file."""
    return {
        "rounds": len(next(iter(seconds.values()))),
        "seconds": {name: [float(f"{s:.5g}") for s in runs] for name, runs in seconds.items()},
        "median_seconds": {name: float(np.median(runs)) for name, runs in seconds.items()},
    }


def speed(setting: Setting) -> Row:
    """All exponents, 15 sequences: the engine and three ways of QR at every step."""
    cases = setting.cases(ARCHITECTURES, 64, 128, 256, 512)
    # The (h, c) map of 512 units has 1024 exponents: hours for the baselines.
    cases = [case for case in cases if case != ("LSTM full", 512)]
    inputs = setting.inputs(WARMUP + setting.measured_steps, 15)
    rows = []
    for name, size in tqdm(cases, desc="speed"):
        network, state = setting.network(name, N_INPUTS, size), ARCHITECTURES[name][1]
        calls: Calls = {
            "ours": partial(lyapunov_spectrum, network, state=state, warmup=WARMUP),
            "public": partial(qr_spectrum, network, way="public", state=state, warmup=WARMUP),
            "diagonal": partial(qr_spectrum, network, way="diagonal", state=state, warmup=WARMUP),
            "plain": partial(qr_spectrum, network, way="plain", state=state, warmup=WARMUP),
        }
        seconds = run_in_turns(calls, inputs, setting)
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                **timings(seconds),
                "public_over_ours": median_ratio(seconds["public"], seconds["ours"]),
                "diagonal_over_ours": median_ratio(seconds["diagonal"], seconds["ours"]),
                "plain_over_ours": median_ratio(seconds["plain"], seconds["ours"]),
            }
        )
    return {
        "sequences": 15,
        "warmup": WARMUP,
        "steps": setting.measured_steps,
        "rounds": f"{setting.rounds}; {_SLOW_ROUNDS} where a call takes over {_SLOW_SECONDS:g} s",
        "rows": rows,
    }


def gemm_cost(setting: Setting) -> Row:
    """One step of the engine in units of one float32 product (15, H, H) @ (15, H, H)."""
    cases = setting.cases(("LSTM hidden", "GRU", "RNN"), 256, 512)
    inputs = setting.inputs(WARMUP + setting.measured_steps, 15)
    rows = []
    for name, size in tqdm(cases, desc="gemm_cost"):
        network, state = setting.network(name, N_INPUTS, size), ARCHITECTURES[name][1]
        left = torch.randn(15, size, size, device=setting.device)
        calls: Calls = {
            "ours": partial(lyapunov_spectrum, network, state=state, warmup=WARMUP),
            "gemm": partial(_one_product_a_step, left, torch.randn_like(left)),
        }
        seconds = run_in_turns(calls, inputs, setting)
        rows.append(
            {
                "architecture": name,
                "hidden_size": size,
                **timings(seconds),
                "gemms_per_step": median_ratio(seconds["ours"], seconds["gemm"]),
            }
        )
    return {"sequences": 15, "steps_and_products_timed": len(inputs), "rows": rows}


def methods(setting: Setting) -> Row:
    """Milliseconds by method of renormalisation: LSTM hidden, 15 sequences, 100 steps."""
    size = 32 if setting.quick else 512
    network = setting.network("LSTM hidden", N_INPUTS, size)
    names: tuple[Any, ...] = ("auto", "lu", "cholesky")
    run = partial(lyapunov_spectrum, network, state="hidden", warmup=WARMUP)
    calls: Calls = {method: partial(run, method=method) for method in names}
    inputs = setting.inputs(WARMUP + setting.measured_steps, 15)
    row = timings(run_in_turns(calls, inputs, setting))
    row["milliseconds"] = {name: 1e3 * s for name, s in row["median_seconds"].items()}
    return {"architecture": "LSTM hidden", "hidden_size": size, "sequences": 15, **row}


def _one_product_a_step(left: Tensor, right: Tensor, inputs: Tensor) -> None:
    product = torch.empty_like(left)
    for _ in inputs:
        torch.bmm(left, right, out=product)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
