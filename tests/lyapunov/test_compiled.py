"""Compiled code against PyTorch's operations, part by part and as a whole."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from optuna_aelle.lyapunov import compiled
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov.compiled import general_path
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.models import build_layers
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import rotation
from tests.lyapunov.networks import state_of

numba = pytest.importorskip("numba")
from optuna_aelle.lyapunov.compiled import functions  # noqa: E402
from optuna_aelle.lyapunov.compiled.tiles import LANES  # noqa: E402
from optuna_aelle.lyapunov.compiled.tiles import largest  # noqa: E402

D, B = 3, 3


def generally(network: Any, inputs: Any, **options: Any) -> Any:
    """By PyTorch, as accurately as it can."""
    with general_path():
        return lyapunov_spectrum(
            network, inputs, interval=1, method="lu", dtype=torch.float64, **options
        )


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_the_spectrum_of_the_general_path(name: str, gain: float) -> None:
    network, inputs = built(name, D, 11, gain), noise(70, B, D)
    # What takes the place of a direction that has died is any, so that it has to count at once.
    warmup = 0 if name == "rnn-relu" else 20
    for k in (None, 1, 6):
        options: dict[str, Any] = {"state": state_of(name), "k": k, "warmup": warmup}
        ours = lyapunov_spectrum(network, inputs, **options)
        theirs = generally(network, inputs, **options)
        assert ours.computations[0].compiled
        assert not theirs.computations[0].compiled
        # A projection leaves cancellations that both ways lose digits to.
        atol = 1e-2 if "projected" in name and gain > 1.0 else 1e-9
        np.testing.assert_allclose(ours.exponents, theirs.exponents, atol=atol)
        np.testing.assert_allclose(ours.trace, theirs.trace, atol=atol)


# Around the sizes of a vector, of a block and of the groups that blocks are worked on in.
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65, 100])
def test_every_size_has_the_spectrum_of_the_general_path(size: int) -> None:
    for name, batch in (("gru", 1), ("lstm", 2), ("lstm-hidden", 9), ("rnn-tanh", 3), ("gru", 6)):
        network, inputs = built(name, D, size, 1.0), noise(40, batch, D)
        for k in {None, 1, max(1, size // 2), max(1, size - 1)}:
            options: dict[str, Any] = {"state": state_of(name), "k": k}
            ours = lyapunov_spectrum(network, inputs, **options)
            theirs = generally(network, inputs, **options)
            np.testing.assert_allclose(ours.exponents, theirs.exponents, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 192, 256, 300])
def test_large_networks_have_the_spectrum_of_the_general_path(size: int) -> None:
    for name in ("gru", "lstm-hidden", "rnn-relu"):
        network, inputs = built(name, D, size, 1.0), noise(30, 1, D)
        options: dict[str, Any] = {"state": state_of(name), "warmup": 0}
        ours = lyapunov_spectrum(network, inputs, **options)
        theirs = generally(network, inputs, **options)
        np.testing.assert_array_equal(np.isneginf(ours.exponents), np.isneginf(theirs.exponents))
        living = ~np.isneginf(ours.exponents)
        np.testing.assert_allclose(ours.exponents[living], theirs.exponents[living], atol=1e-8)


@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_equal_networks_run_side_by_side(module: Any) -> None:
    torch.manual_seed(0)
    networks = [module(D, 13, num_layers=2) for _ in range(3)]
    inputs = torch.randn(50, B, D)
    together = lyapunov_spectra(networks, inputs)
    for network, spectrum in zip(networks, together, strict=True):
        alone = lyapunov_spectrum(network, inputs)
        np.testing.assert_allclose(spectrum.exponents, alone.exponents, atol=1e-12)
        assert all(how.compiled for how in spectrum.computations)


def test_sequences_of_unequal_length_end_where_they_end() -> None:
    network, inputs = built("lstm", D, 9, 1.0), noise(60, B, D)
    lengths = [60, 33, 47]
    ours = lyapunov_spectrum(network, inputs, lengths=lengths)
    for i, length in enumerate(lengths):
        alone = lyapunov_spectrum(network, inputs[:length, i : i + 1])
        np.testing.assert_allclose(ours.exponents[i : i + 1], alone.exponents, atol=1e-10)


@pytest.mark.parametrize("n_shut", [2, 8])
@pytest.mark.parametrize("bias", [-15.0, -40.0, -400.0, -800.0])
def test_shut_forget_gates_keep_their_volume(bias: float, n_shut: int) -> None:
    """In stages: ln f of a shut gate lies below all digits of the numbers around it."""
    torch.manual_seed(0)
    lstm = nn.LSTM(D, 8).double()
    with torch.no_grad():
        lstm.bias_ih_l0[8 : 8 + n_shut] = bias
    spectrum = lyapunov_spectrum(lstm, noise(60, B, D))
    assert spectrum.computations[0].compiled
    residual = spectrum.sum_rule_residual
    assert residual is not None
    assert residual < 1e-8 * abs(spectrum.exponents.sum(axis=1)).max()


def test_dead_rows_are_counted_exactly() -> None:
    """A ReLU unit that is always off has a row of zeros: one exponent of −inf for each."""
    network = built("rnn-relu", D, 12, 0.3)
    with torch.no_grad():
        network.bias_ih_l0.fill_(100.0)
        network.bias_ih_l0[:5] = -1e6
    for k in (None, 10):
        spectrum = lyapunov_spectrum(network, noise(60, B, D), k=k)
        assert np.isneginf(spectrum.exponents).sum(axis=1).tolist() == [5 if k is None else 3] * B


def test_directions_that_an_identical_step_leaves_alone_die_and_the_rest_is_exact() -> None:
    """J of rank one: all directions but one are gone after a step."""
    ones = torch.ones(6, 6, dtype=torch.float64) / 6.0
    model = from_step(lambda _, h: 0.5 * h @ ones, 6)
    spectrum = lyapunov_spectrum(model, torch.zeros(50, 1, 0, dtype=torch.float64))
    np.testing.assert_allclose(spectrum.exponents[0, 0], np.log(0.5), atol=1e-12)
    assert (spectrum.exponents[0, 1:] < -30.0).all()


def test_growth_beyond_the_range_of_a_number_is_summed() -> None:
    """Directions that grow and shrink by e^±200 at every step."""
    scale = torch.exp(torch.tensor([200.0, -200.0, 0.0, 90.0], dtype=torch.float64))
    turn = rotation(4)
    model = from_step(lambda _, h: (h @ turn * scale) @ turn.T, 4)
    inputs = torch.zeros(30, 1, 0, dtype=torch.float64)
    spectrum = lyapunov_spectrum(model, inputs, warmup=5)
    np.testing.assert_allclose(np.sort(spectrum.exponents[0])[-1], 200.0, atol=1e-6)


def test_what_overflows_within_a_step_is_an_error() -> None:
    model = from_step(lambda _, h: h + 1e308 * (h - h.detach()) * 1e308, 3)
    with pytest.raises(FloatingPointError, match="overflowed or became NaN"):
        lyapunov_spectrum(model, torch.zeros(30, 1, 0, dtype=torch.float64))


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("name", ["rnn-tanh", "rnn-relu", "gru", "lstm", "exponential-tanh"])
def test_states_and_derivatives_are_those_of_the_operations(name: str, batch: int) -> None:
    (layer,) = build_layers(
        [built(name, D, 13, 2.0), built(name, D, 13, 0.5, seed=1)],
        state="full",
        reverse=False,
        device=torch.device("cpu"),
        input_dtype=torch.float64,
    )
    given = tuple(noise(batch, size, seed=i) for i, size in enumerate(layer.part_sizes))
    # Short, since rounding errors grow along chaotic states.
    drive = layer.drive(30.0 * noise(5, 1, batch, D))
    start = layer.initial_state(2, batch, given)
    ours, theirs = layer.unroll(drive, start), RecurrentMap.unroll(layer, drive, start)
    assert ours.derivatives
    for parts, others in zip(ours[:3], theirs[:3], strict=True):
        for part, other in zip(parts, others, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-12)
    # Relative to the number itself: the tail of a spectrum lives in derivatives like e^−60.
    recomputed = layer.linearize(ours._replace(derivatives=()))
    for part, other in zip(layer.linearize(ours), recomputed, strict=True):
        # h − n of a GRU may vanish, but for rounding.
        atol = 1e-15 if name == "gru" else 1e-300
        torch.testing.assert_close(part, other, rtol=1e-11, atol=atol)


@pytest.mark.parametrize(
    ("values", "sums"),
    [
        ([[0.5, -2.0], [1e-200, 1e-280]], [0.0, -480.0 * np.log(10.0)]),
        ([[1e200] * 6, [1e-99] * 6], [1200.0 * np.log(10.0), -594.0 * np.log(10.0)]),
        ([[0.5, np.nan], [1.0, 1.0]], [np.nan, 0.0]),
        ([[0.5, 1e-295], [1.0, 1.0]], None),
        ([[0.5, 0.0]], None),
    ],
)
def test_logarithms_are_summed_unless_digits_are_lost(values: Any, sums: Any) -> None:
    found = compiled.sum_of_logs(torch.tensor(values, dtype=torch.float64))
    assert (found is None) == (sums is None)
    if found is not None:
        np.testing.assert_allclose(found, sums, rtol=1e-14)


@given(
    st.lists(
        st.floats(-1e300, 1e300, allow_subnormal=False), min_size=LANES, max_size=LANES * 6
    ).map(lambda values: values[: len(values) // LANES * LANES])
)
@settings(max_examples=200, deadline=None)
def test_the_largest_entry_is_found(values: list[float]) -> None:
    array = np.array(values)
    assert abs(array[_find_largest(array)]) == np.abs(array).max()


@pytest.mark.parametrize("position", range(4 * LANES))
def test_the_largest_entry_is_found_in_every_lane(position: int) -> None:
    array = np.full(4 * LANES, 0.1)
    array[position] = -1.0
    assert _find_largest(array) == position


@numba.njit
def _find_largest(array: Any) -> Any:
    return largest(np.int64(array.ctypes.data), len(array) // LANES)


@pytest.mark.parametrize(("k", "size"), [(1, 1), (1, 9), (5, 9), (9, 9), (33, 40), (70, 70)])
def test_volumes_are_those_of_qr(k: int, size: int) -> None:
    scales = torch.logspace(-1, 1, size, dtype=torch.float64)
    frame = rotation(size)[:k] * scales + 0.3 * noise(2, k, size) / size**0.5
    rows = -(-k // functions.ROWS) * functions.ROWS
    padded = torch.zeros(2, rows, -(-size // LANES) * LANES, dtype=torch.float64)
    padded[:, :k, :size] = frame
    volumes = np.zeros((2, k))
    error = functions.add_log_volumes(padded.numpy(), (0, 2), k, size, volumes)
    r = torch.linalg.qr(frame.mT).R
    exact = torch.diagonal(r, dim1=-2, dim2=-1).abs().log()
    np.testing.assert_allclose(volumes, exact, atol=1e-14 * error * k)


def test_nearly_dependent_vectors_are_told() -> None:
    frame = torch.zeros(1, functions.ROWS, LANES, dtype=torch.float64)
    frame[0, 0, 0] = frame[0, 1, 0] = 1.0
    frame[0, 1, 1] = 1e-6
    volumes = np.zeros((1, 2))
    assert functions.add_log_volumes(frame.numpy(), (0, 1), 2, 3, volumes) > 1e11
    frame[0, 1] = torch.nan
    assert np.isnan(functions.add_log_volumes(frame.numpy(), (0, 1), 2, 3, volumes))


@pytest.mark.parametrize(
    ("name", "size", "kernel"), [("lstm", 40, "carry"), ("gru", 8, "carry_lanes")]
)
def test_threads_share_the_work_and_change_nothing(
    name: str, size: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = built(name, D, size, 1.0), noise(60, 20, D)
    alone = lyapunov_spectrum(network, inputs)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    names = set()
    carry = getattr(functions, kernel)

    def spy(*arguments: Any) -> None:
        names.add(threading.current_thread().name)
        carry(*arguments)

    monkeypatch.setattr(functions, kernel, spy)
    monkeypatch.setattr("optuna_aelle.lyapunov.compiled.carrier._PARALLEL_FROM", 0)
    shared = lyapunov_spectrum(network, inputs)
    assert len(names) > 1
    np.testing.assert_array_equal(shared.exponents, alone.exponents)


@pytest.fixture
def fresh() -> Iterator[None]:
    compiled._load.cache_clear()
    yield
    compiled._load.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_numba_everything_goes_through_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else find_spec(name)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = lyapunov_spectrum(nn.GRU(D, 8), torch.randn(40, B, D))
    assert not spectrum.computations[0].compiled


@pytest.mark.usefixtures("fresh")
def test_a_broken_numba_warns_once_and_spectra_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("optuna_aelle.lyapunov.compiled.functions")

    def fail(name: str) -> Any:
        raise ImportError(f"Numba needs NumPy 2.3 or less ({name})")

    broken.__getattr__ = fail  # type: ignore[method-assign]
    monkeypatch.delattr(compiled, "functions", raising=False)
    monkeypatch.setitem(sys.modules, broken.__name__, None)
    network, inputs = nn.GRU(D, 8), torch.randn(40, B, D)
    with pytest.warns(UserWarning, match="without compiled code.*Reinstall numba"):
        lyapunov_spectrum(network, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = lyapunov_spectrum(network, inputs)
    assert not spectrum.computations[0].compiled


def test_numba_is_loaded_with_the_first_spectrum_only() -> None:
    code = (
        "import sys, torch\n"
        "from optuna_aelle.lyapunov import lyapunov_spectrum\n"
        "print('numba' in sys.modules)\n"
        "lyapunov_spectrum(torch.nn.GRU(2, 4), torch.randn(30, 1, 2))\n"
        "print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.slow
def test_narrower_vectors_give_the_same_numbers(tmp_path: Path) -> None:
    """As on a processor without AVX-512: four numbers a vector."""
    code = """
        import llvmlite.binding
        llvmlite.binding.get_host_cpu_features = lambda: {"avx2": True}
        import torch
        from optuna_aelle.lyapunov import lyapunov_spectrum
        from optuna_aelle.lyapunov.compiled import general_path
        from optuna_aelle.lyapunov.compiled.tiles import LANES
        torch.manual_seed(0)
        worst = 0.0
        for network in (torch.nn.LSTM(3, 13), torch.nn.GRU(3, 37), torch.nn.RNN(3, 5)):
            x = torch.randn(60, 3 if network.hidden_size > 5 else 9, 3)
            for k in (None, 5):
                ours = lyapunov_spectrum(network, x, k=k)
                assert ours.computations[0].compiled
                with general_path():
                    theirs = lyapunov_spectrum(network, x, k=k, interval=1, dtype=torch.float64)
                worst = max(worst, float(abs(ours.exponents - theirs.exponents).max()))
        print(LANES, worst < 1e-9)
    """
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.split() == ["4", "True"]


@pytest.mark.parametrize("bias", [400.0, 1000.0])
@pytest.mark.parametrize("name", ["rnn-tanh", "gru"])
def test_derivatives_that_underflow_are_zero_in_both_ways(name: str, bias: float) -> None:
    network = built(name, D, 4, 0.1)
    with torch.no_grad():
        network.bias_ih_l0.fill_(bias)
    if name == "gru":
        # Update gates shut, so that nothing of the state is left.
        with torch.no_grad():
            network.bias_ih_l0[4:8] = -bias
    ours = lyapunov_spectrum(network, noise(40, B, D))
    theirs = generally(network, noise(40, B, D))
    np.testing.assert_array_equal(np.isneginf(ours.exponents), np.isneginf(theirs.exponents))
    living = ~np.isneginf(ours.exponents)
    np.testing.assert_allclose(ours.exponents[living], theirs.exponents[living], atol=1e-6)


@pytest.mark.parametrize("size", [5, 8])
def test_a_derivative_that_is_nan_at_the_last_step_alone_is_an_error(size: int) -> None:
    def step(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        # The state stays finite, its derivative does not.
        return 0.5 * h + torch.sqrt(torch.relu((h - h.detach()) * x[:, :1]))

    inputs = torch.zeros(40, 1, 1, dtype=torch.float64)
    inputs[-1] = 1.0
    with pytest.raises(FloatingPointError, match="became NaN"):
        lyapunov_spectrum(from_step(step, size, input_size=1), inputs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc fills freed memory when asked to")
def test_no_memory_is_used_after_it_is_freed() -> None:
    code = """
        import torch
        from optuna_aelle.lyapunov import lyapunov_spectra, lyapunov_spectrum
        torch.manual_seed(0)
        for network in (torch.nn.LSTM(3, 70), torch.nn.GRU(3, 200), torch.nn.RNN(3, 20)):
            for k in (None, 11):
                lyapunov_spectrum(network, torch.randn(30, 3, 3), k=k)
        lyapunov_spectrum(torch.nn.GRU(3, 11), torch.randn(30, 13, 3))
        lyapunov_spectra([torch.nn.LSTM(3, 20) for _ in range(3)], torch.randn(30, 3, 3))
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_PERTURB_": "165"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["done"]
