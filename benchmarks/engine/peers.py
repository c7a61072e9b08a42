"""How fast are other packages on the same network, and do they agree?

    python -m benchmarks.engine --section peers

Same weights, same starts, same first frame, all exponents, one core. The peers know autonomous
maps, so the network is driven by one constant input. They come with ``pip install
"optuna-aelle[peers]"``; what is not installed is reported as such.

Notation: N size of the state, T steps of which the first 20 warm up, B starts.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import nn
from tqdm import tqdm

from benchmarks.engine.baselines import initial_frame
from benchmarks.engine.cells import PlainCell
from benchmarks.engine.timing import N_INPUTS
from benchmarks.engine.timing import WARMUP
from benchmarks.engine.timing import Row
from benchmarks.engine.timing import Setting
from benchmarks.engine.timing import median_ratio
from benchmarks.engine.timing import take_turns
from benchmarks.engine.timing import timings
from optuna_aelle.lyapunov import lyapunov_spectrum

DType = Literal["float32", "float64"]
Run = Callable[[], npt.NDArray[np.float64]]
# Few: one of the peers takes starts one after the other.
_BATCH = 4
# Any: of the first frame.
_SEED = 7


@dataclass(frozen=True)
class Problem:
    """A network under a constant input; ``starts (B, N)`` and ``frame (N, N)`` are float64."""

    network: nn.RNNBase
    inputs: Tensor
    starts: Tensor
    frame: Tensor


def peers(setting: Setting) -> Row:
    """How many times longer than ours do others take, and by how much do exponents differ?

    In a process of its own that keeps to one core.
    """
    if setting.device.type != "cpu":
        return {"skipped": "measured on the CPU only"}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, setting).result()


def _measure(setting: Setting) -> Row:
    # Before jax is imported and its thread pools start.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*jax_enable_x64.*")
    found = {name: find_spec(name) is not None for name in ("jax", *_PEERS)}
    makers = {n: m for n, m in _PEERS.items() if found[n] and (found["jax"] or n == "clvlib")}
    dtypes: tuple[DType, ...] = ("float32", "float64")
    cases = [
        (dtype, module, size)
        for dtype in dtypes
        for module in (nn.RNN, nn.GRU, nn.LSTM)
        for size in setting.sizes(8, 16, 32, 64, 128)
    ]
    rows = []
    for dtype, module, size in tqdm(cases if makers else [], desc="peers"):
        if found["jax"]:
            import_module("jax").config.update("jax_enable_x64", dtype == "float64")
        rows.append(_compare(_problem(module, size, setting), makers, dtype, setting))
    return {
        "peers": {n: version(n) if n in makers else "not installed" for n in _PEERS},
        "jax": version("jax") if found["jax"] else "not installed",
        "notes": _NOTES,
        "starts": _BATCH,
        "rows": rows,
    }


def _compare(
    problem: Problem, makers: dict[str, Callable[..., Run]], dtype: DType, setting: Setting
) -> Row:
    ours, mode = _ours(problem), problem.network.mode
    runs = {name: make(problem, dtype) for name, make in makers.items()}
    first, found = {}, {}
    for name, run in runs.items():
        started = time.perf_counter()
        found[name] = run()
        first[name] = time.perf_counter() - started
    expected = ours()
    seconds = take_turns({"ours": ours, **runs}, setting.rounds, setting.device)
    if "clvlib" in makers:
        found["clvlib"] = _clvlib(problem, dtype, same_frame=True)()
    checked = {name: exponents - expected for name, exponents in found.items()}
    return {
        "architecture": {"RNN_TANH": "RNN", "LSTM": "LSTM full"}.get(mode, mode),
        "hidden_size": problem.network.hidden_size,
        "dtype": dtype,
        **timings(seconds),
        "first_call_seconds": first,
        "over_ours": {n: median_ratio(seconds[n], seconds["ours"]) for n in makers},
        "max_difference": {n: float(np.abs(d).max()) for n, d in checked.items()},
    }


def _problem(module: type[nn.RNNBase], size: int, setting: Setting) -> Problem:
    torch.manual_seed(0)
    make: Any = module
    network = make(N_INPUTS, size)
    n_state = size * (2 if network.mode == "LSTM" else 1)
    constant = torch.randn(N_INPUTS).expand(WARMUP + setting.measured_steps, _BATCH, -1)
    starts = torch.randn(_BATCH, n_state, dtype=torch.float64)
    frame = initial_frame(n_state, torch.Generator().manual_seed(_SEED))
    return Problem(network, constant.contiguous(), starts, frame)


def _ours(problem: Problem) -> Run:
    n_parts = problem.starts.shape[1] // problem.network.hidden_size
    start = [part[None] for part in problem.starts.chunk(n_parts, dim=1)]
    return lambda: (
        lyapunov_spectrum(
            problem.network,
            problem.inputs,
            warmup=WARMUP,
            initial_state=start if len(start) > 1 else start[0],
            generator=torch.Generator().manual_seed(_SEED),
        ).exponents
    )


def _chaotax(problem: Problem, dtype: DType) -> Run:
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    step = _jax_step(problem, dtype)
    rollout = import_module("chaotax").rollout_growth_spectrum(step, len(problem.inputs))

    def growth(state: Any, tangents: Any) -> Any:
        # It works out sizes with jax.numpy, which jit would trace.
        with jax.ensure_compile_time_eval():
            return rollout(state, tangents)

    run = jax.jit(jax.vmap(growth, in_axes=(0, None)))
    starts, tangents = jnp.asarray(problem.starts, dtype), jnp.asarray(problem.frame.T, dtype)
    return lambda: _average(np.log(np.abs(run(starts, tangents))).cumsum(axis=1))


def _lyapax(problem: Problem, dtype: DType) -> Run:
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    lyapax = import_module("lyapax")
    step = _jax_step(problem, dtype)

    def history(state: Any, frame: Any) -> Any:
        zeros = jnp.zeros(len(frame), frame.dtype)
        begin = lyapax.LyapunovCheckpoint(state, frame, zeros, jnp.zeros((), frame.dtype), 1.0)
        result = lyapax.lyapunov_spectrum(step, state, 1.0, len(problem.inputs), resume=begin)
        return result.history * result.times[:, None]

    run = jax.jit(jax.vmap(history, in_axes=(0, None)))
    starts, frame = jnp.asarray(problem.starts, dtype), jnp.asarray(problem.frame, dtype)
    return lambda: _average(np.asarray(run(starts, frame)))


def _clvlib(problem: Problem, dtype: DType, *, same_frame: bool = False) -> Run:
    clvlib = import_module("clvlib.pytorch")
    # Its progress bar cannot be switched off, and should not be timed.
    vars(import_module("clvlib.pytorch.integrators"))["tqdm"] = lambda steps, **_: steps
    cell = PlainCell(problem.network, getattr(torch, dtype))
    x = problem.inputs[0, :1].to(cell.weight_hh)
    starts, frame = problem.starts.to(x.dtype), problem.frame.to(x.dtype)
    times = torch.arange(len(problem.inputs) + 1, dtype=x.dtype)

    # It starts from the identity: another frame F is the identity in coordinates Fᵀ h.
    basis = frame if same_frame else None

    def step(_: float, state: Tensor) -> Tensor:
        if basis is None:
            return cell.step(x, state[None])[0]
        return cell.step(x, (basis @ state)[None])[0] @ basis

    def jacobian(_: float, state: Tensor) -> Tensor:
        if basis is None:
            return cell.advance(x, state[None])[1][0]
        return basis.T @ cell.advance(x, (basis @ state)[None])[1][0] @ basis

    begin = starts if basis is None else starts @ basis
    run = partial(clvlib.lyap_exp_from_ic, step, jacobian, t=times, stepper="discrete")

    def all_starts() -> npt.NDArray[np.float64]:
        with torch.no_grad():
            means = torch.stack([run(x0=state)[1] for state in begin])
        return _average((means * times[:, None])[:, 1:].numpy())

    return all_starts


def _average(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Exponents ``(B, N)`` from cumulative logarithms ``(B, T, N)``, without the warm-up."""
    measured = sums.shape[1] - WARMUP
    mean = (sums[:, -1].astype(np.float64) - sums[:, WARMUP - 1]) / measured
    return -np.sort(-mean, axis=1)


def _jax_step(problem: Problem, dtype: DType) -> Callable[[Any], Any]:
    """The network's step as a function of the state alone, ``(N,) -> (N,)``."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    weights: Any = problem.network
    size = problem.network.hidden_size

    def array(tensor: Tensor) -> Any:
        return jnp.asarray(tensor.detach().numpy(), dtype)

    x = problem.inputs[0, 0].double()
    driven = array(weights.weight_ih_l0.double() @ x + weights.bias_ih_l0)
    matrix, bias = array(weights.weight_hh_l0), array(weights.bias_hh_l0)

    def vanilla(h: Any) -> Any:
        return jnp.tanh(driven + matrix @ h + bias)

    def gru(h: Any) -> Any:
        u = matrix @ h + bias
        r, z = jnp.split(jax.nn.sigmoid(driven[: 2 * size] + u[: 2 * size]), 2)
        n = jnp.tanh(driven[2 * size :] + r * u[2 * size :])
        return (1.0 - z) * n + z * h

    def lstm(state: Any) -> Any:
        h, c = jnp.split(state, 2)
        i, f, g, o = jnp.split(driven + matrix @ h + bias, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(c), c])

    return {"RNN_TANH": vanilla, "GRU": gru, "LSTM": lstm}[problem.network.mode]


_PEERS: dict[str, Callable[..., Run]] = {
    "chaotax": _chaotax,
    "clvlib": _clvlib,
    "lyapax": _lyapax,
}
_NOTES = {
    "chaotax": "rollout_growth_spectrum under jit and vmap; under jit only inside "
    "jax.ensure_compile_time_eval",
    "clvlib": "PyTorch backend, stepper 'discrete', closed-form Jacobians, starts in a loop",
    "lyapax": "takes a map as its step with dt = 1; under jit and vmap, first frame by resume",
}
