"""How many seconds do all exponents take, and how many could they not do without?

    python -m benchmarks.engine --section speed gemm_cost methods

Calls that are compared run in turns, one of each a round, so that a ratio is taken between
neighbours in time; what is reported is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any
from typing import Literal
from unittest.mock import patch

import numpy as np
import scipy.linalg.blas
import torch
from threadpoolctl import threadpool_info
from torch import Tensor
from torch import nn
from tqdm import tqdm

from benchmarks.engine.baselines import qr_spectrum
from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov.compiled import general_path

Row = dict[str, Any]
Calls = dict[str, Callable[[Tensor], object]]
StateKind = Literal["full", "hidden"]

# Those along which tangent vectors are carried, which has a price ...
CARRIED: dict[str, tuple[Callable[[int, int], Any], StateKind]] = {
    "LSTM hidden": (nn.LSTM, "hidden"),
    "LSTM full": (nn.LSTM, "full"),
    "GRU": (nn.GRU, "full"),
    "RNN": (nn.RNN, "full"),
}
# ... and two whose exponents are sums.
ARCHITECTURES = {**CARRIED, "MinGRU": (cells.MinGRU, "full"), "S6": (cells.S6, "full")}
# The engine's own default.
WARMUP = 20
# Any: input weights are no part of a Jacobian.
N_INPUTS = 10
SEQUENCES = 15
# Five rounds of such calls would take too long.
_SLOW_SECONDS = 4.0
_SLOW_ROUNDS = 3
_SHORT_SECONDS = 0.05
# Where QR at every step takes longer, fewer steps are run: each costs the same.
_LONG_SECONDS = 6.0
_LEAST_STEPS = 5
# What glibc is told. By default it gives large blocks back to the system when they are freed, and
# the system clears each page of the next ones: dear where every step makes new matrices.
_RETURNS = "returns memory"
_KEEPS = "keeps memory"
ALLOCATORS = {
    _RETURNS: {},
    _KEEPS: {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"},
}
_WAYS = ("plain", "public")
# Processes that measure are told nothing else about memory, and nothing about OpenBLAS, which is
# left to take the kernels of this processor.
_SETTINGS = ("MALLOC_", "OPENBLAS_")


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

    def network(self, architecture: str, n_inputs: int, hidden_size: int, seed: int = 0) -> Any:
        """A network with the initialisation that it comes with."""
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
    Where a call takes longer than four seconds, three rounds have to do.
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


def without_compiled_code(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What ``call`` returns through PyTorch alone."""
    with general_path():
        return call(*arguments, **keywords)


def speed(setting: Setting) -> Row:
    """How much faster than QR at every step, and than without compiled code?

    All exponents, 15 sequences: the engine, the same without compiled code, a careful user's ten
    lines, and the operations of the paper's own code; once in a process where glibc has its
    defaults, as in `take_turns`, and once in one where it keeps what is freed.
    """
    # With 1024 exponents, the (h, c) map of 512 units, a round takes minutes for each allocator.
    cases = setting.cases(CARRIED, 8, 16, 32, 64, 128, 256, 512)
    cases = [case for case in cases if case != ("LSTM full", 512)]
    with ExitStack() as open_processes:
        processes = {
            name: open_processes.enter_context(
                ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            )
            for name in ALLOCATORS
        }
        rows = []
        for name, size in tqdm(cases, desc="speed"):
            found = {}
            for allocator, process in processes.items():
                # Of use at the first call, which starts the process.
                with told(ALLOCATORS[allocator]):
                    found[allocator] = process.submit(_side_by_side, setting, name, size).result()
            row = {"architecture": name, "hidden_size": size, **found[_RETURNS]}
            rows.append({**row, "other_allocator": found[_KEEPS]})
    return {
        "sequences": SEQUENCES,
        "warmup": WARMUP,
        "steps": setting.measured_steps,
        "rounds": f"{setting.rounds}; {_SLOW_ROUNDS} where a call takes over {_SLOW_SECONDS:g} s",
        "steps_timed": "all; QR at every step that would take longer than "
        f"{_LONG_SECONDS:g} s runs fewer, and its seconds are scaled up",
        "allocator": "glibc's, by default",
        "other_allocator": " ".join(f"{k}={v}" for k, v in ALLOCATORS[_KEEPS].items()),
        "rows": rows,
    }


def told(variables: Mapping[str, str]) -> Any:
    """The environment to start a process in: of allocators and OpenBLAS, ``variables`` alone."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(_SETTINGS)}
    return patch.dict(os.environ, {**kept, **variables}, clear=True)


def _side_by_side(setting: Setting, name: str, size: int) -> Row:
    """All ways on one network, in a process of its own."""
    torch.set_num_threads(1)
    network, state = setting.network(name, N_INPUTS, size), ARCHITECTURES[name][1]
    inputs = setting.inputs(WARMUP + setting.measured_steps, SEQUENCES)
    ours = partial(lyapunov_spectrum, network, state=state, warmup=WARMUP)
    calls: dict[str, Callable[[], object]] = {
        "ours": partial(ours, inputs),
        "general": partial(without_compiled_code, ours, inputs),
    }
    ours(inputs[: WARMUP + 5])
    without_compiled_code(ours, inputs[: WARMUP + 5])
    n_steps = {}
    for way in _WAYS:
        baseline: Callable[..., object] = partial(qr_spectrum, network, way=way, state=state)  # type: ignore[arg-type]
        n_steps[way] = _steps_to_time(partial(baseline, warmup=0), inputs)
        warmup = WARMUP if n_steps[way] > WARMUP else 0
        calls[way] = partial(baseline, inputs[: n_steps[way]], warmup=warmup)
    seconds = take_turns(calls, setting.rounds, setting.device)
    for way, number in n_steps.items():
        seconds[way] = [s * len(inputs) / number for s in seconds[way]]
    others = [way for way in seconds if way != "ours"]
    return {
        **timings(seconds),
        "steps_timed": n_steps,
        **{f"{way}_over_ours": median_ratio(seconds[way], seconds["ours"]) for way in others},
    }


def _steps_to_time(call: Callable[[Tensor], object], inputs: Tensor) -> int:
    """As many steps as QR at every step takes a few seconds for."""
    call(inputs[:1])
    started = time.perf_counter()
    call(inputs[:2])
    of_step = (time.perf_counter() - started) / 2
    return min(len(inputs), max(int(_LONG_SECONDS / of_step), _LEAST_STEPS))


def gemm_cost(setting: Setting) -> Row:
    """How far is a step from what the machine could not do without?

    In units of one product (15, N, N) @ (15, N, N) of matrices as large as the Jacobian, N = H or
    2H: with `torch.bmm` in float32 and in float64, and matrix by matrix with the BLAS that SciPy
    brings. The floor is the fastest of these in float64, which our frames are in.
    """
    with (
        told({}),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        return process.submit(_measure_products, setting).result()


def _measure_products(setting: Setting) -> Row:
    torch.set_num_threads(1)
    cases = setting.cases(CARRIED, 128, 256, 512)
    cases = [case for case in cases if case != ("LSTM full", 512)]
    inputs = setting.inputs(WARMUP + setting.measured_steps, SEQUENCES)
    rows = []
    for name, size in tqdm(cases, desc="gemm_cost"):
        network, state = setting.network(name, N_INPUTS, size), ARCHITECTURES[name][1]
        n = 2 * size if name == "LSTM full" else size
        ours = partial(lyapunov_spectrum, network, state=state, warmup=WARMUP)
        products = _products(n, setting.device)
        ours(inputs[: WARMUP + 5])
        for product in products.values():
            product()
        calls: dict[str, Callable[[], object]] = {"ours": partial(ours, inputs), **products}
        seconds = take_turns(calls, setting.rounds, setting.device)
        seconds["ours"] = [s / len(inputs) for s in seconds["ours"]]
        rows.append(_in_products(name, size, n, seconds))
    kernels = [lib for lib in threadpool_info() if "scipy.libs" in lib["filepath"]]
    return {
        "sequences": SEQUENCES,
        "counted": "seconds of a call over its steps, in products",
        "kernels of SciPy's BLAS": [lib.get("architecture") for lib in kernels],
        "rows": rows,
    }


def _in_products(name: str, size: int, n: int, seconds: Mapping[str, list[float]]) -> Row:
    row = timings(seconds)
    middle = row["median_seconds"]
    best = min((w for w in middle if w.endswith("64")), key=lambda way: float(middle[way]))
    ratios = {w: median_ratio(seconds["ours"], seconds[w]) for w in seconds if w != "ours"}
    return {
        "architecture": name,
        "hidden_size": size,
        "product_size": n,
        **row,
        "gigaflops": {w: 2e-9 * SEQUENCES * n**3 / float(middle[w]) for w in ratios},
        "step_in": ratios,
        "best_float64": best,
        "step_in_best_float64": ratios[best],
    }


def _products(n: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """One product of all sequences' matrices ``(N, N)``, by library and dtype."""
    calls: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.float64):
        left, right = torch.randn(2, SEQUENCES, n, n, dtype=dtype, device=device)
        name, out = str(dtype).removeprefix("torch."), torch.empty_like(left)
        calls[f"torch.bmm {name}"] = partial(torch.bmm, left, right, out=out)
        if device.type == "cpu":
            gemm = getattr(scipy.linalg.blas, {"float32": "sgemm", "float64": "dgemm"}[name])
            # BLAS takes matrices by columns without copies, which transposed views are: it forms
            # (A B)ᵀ as Bᵀ Aᵀ.
            triples = [tuple(m.numpy().T for m in ms) for ms in zip(right, left, out, strict=True)]
            calls[f"SciPy's BLAS {name}"] = partial(_one_by_one, gemm, triples)
    return calls


def _one_by_one(gemm: Callable[..., object], triples: list[tuple[Any, ...]]) -> None:
    for first, second, out in triples:
        gemm(1.0, first, second, beta=0.0, c=out, overwrite_c=1)


def methods(setting: Setting) -> Row:
    """What do tangent vectors cost by how they are kept apart?

    Milliseconds: LSTM hidden, 15 sequences, 100 steps. LU is in compiled code, the others are not.
    """
    size = 32 if setting.quick else 256
    network = setting.network("LSTM hidden", N_INPUTS, size)
    names: tuple[Any, ...] = ("auto", "lu", "qr", "cholesky")
    run = partial(lyapunov_spectrum, network, state="hidden", warmup=WARMUP)
    calls: Calls = {method: partial(run, method=method) for method in names}
    inputs = setting.inputs(WARMUP + setting.measured_steps, SEQUENCES)
    row = timings(run_in_turns(calls, inputs, setting))
    row["milliseconds"] = {name: 1e3 * s for name, s in row["median_seconds"].items()}
    return {"architecture": "LSTM hidden", "hidden_size": size, "sequences": SEQUENCES, **row}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
