"""What the engine chooses for itself without compiled code: intervals, digits, methods."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import carriers
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lapack
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov.compiled import general_path
from optuna_aelle.lyapunov.inputs import device_of
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import rotation
from tests.lyapunov.networks import state_of

D, H, B = 2, 6, 2
NARROW = [
    "rnn-tanh",
    "rnn-relu",
    "gru",
    "lstm-hidden",
    "antisymmetric-gated",
    "lipschitz",
    "exponential-modrelu",
    "exponential-tanh",
]
F32, F64 = torch.float32, torch.float64


class Blocks(list[tuple[int, str, torch.dtype]]):
    """Of each block that was carried: its steps, method and dtype, in their order."""

    @property
    def steps(self) -> list[int]:
        return [steps for steps, _, _ in self]


@pytest.fixture(autouse=True)
def without_compiled_code() -> Iterator[None]:
    with general_path():
        yield


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    seen = Blocks()
    carry_block, carry_factors = carriers.carry_block, carriers.carry_factors

    def spy(layer: Any, frame: Tensor, coefficients: Any, method: str) -> Any:
        seen.append((len(coefficients[0]), method, frame.dtype))
        return carry_block(layer, frame, coefficients, method)

    def spy_on_factors(layer: Any, frame: Any, coefficients: Any) -> Any:
        seen.append((len(coefficients[0]), "lu", coefficients[0].dtype))
        return carry_factors(layer, frame, coefficients)

    monkeypatch.setattr(carriers, "carry_block", spy)
    monkeypatch.setattr(carriers, "carry_factors", spy_on_factors)
    return seen


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_chosen_intervals_cost_no_accuracy(name: str, gain: float, blocks: Blocks) -> None:
    network, inputs = built(name, D, H, gain), noise(150, B, D)
    options: dict[str, Any] = {"state": state_of(name), "dtype": F64}
    chosen = lyapunov_spectrum(network, inputs, **options)
    n_chosen = len(blocks)
    each = lyapunov_spectrum(network, inputs, interval=1, **options)
    np.testing.assert_allclose(chosen.exponents, each.exponents, atol=1e-8)
    assert blocks.steps[n_chosen:] == [1] * (len(blocks) - n_chosen)


def test_intervals_grow_where_directions_stay_together(blocks: Blocks) -> None:
    """A frame that an orthogonal matrix turns needs no renormalisation at all."""
    network = built("exponential-modrelu", D, H, 0.1)
    with torch.no_grad():
        network.modrelu_bias.zero_()
    lyapunov_spectrum(network, noise(200, B, D))
    assert blocks.steps[0] == 1
    assert max(blocks.steps) == carriers._MAX_INTERVAL
    assert len(blocks) < 100


def test_intervals_shrink_where_directions_part_midway(blocks: Blocks) -> None:
    """At rest J = 0.95 Q; once large inputs saturate the units, rows of J differ by orders."""
    rnn = nn.RNN(1, H, bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(0.95 * rotation(H))
        rnn.weight_ih_l0.copy_(torch.linspace(0.1, 2.0, H)[:, None])
    inputs = torch.zeros(400, 1, 1, dtype=F64)
    # Not at the start of one of the 64 steps' chunks.
    inputs[210:] = 10.0 * noise(190, 1, 1)
    chosen = lyapunov_spectrum(rnn, inputs)
    assert 8 in blocks.steps[: len(blocks) // 2]
    assert set(blocks.steps[-100:]) == {1}
    n_chosen = len(blocks)
    each = lyapunov_spectrum(rnn, inputs, interval=1)
    assert len(blocks) - n_chosen == 400
    np.testing.assert_allclose(chosen.exponents, each.exponents, atol=1e-8)


@pytest.mark.parametrize("k", [1, 3, H])
@pytest.mark.parametrize("bias", [20.0, 100.0, 150.0])
def test_directions_that_shrink_together_do_not_underflow(bias: float, k: int) -> None:
    """Saturated, h is 1 to all digits, so that J = sech²(0.1 + b) 0.1 I at each step.

    Nothing parts the directions, but a product of a few such J leaves the range of float64.
    """
    rnn = nn.RNN(1, H).double()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
        rnn.weight_hh_l0.copy_(0.1 * torch.eye(H))
        rnn.bias_hh_l0.fill_(bias)
    spectrum = lyapunov_spectrum(rnn, torch.zeros(150, B, 1), k=k)
    y = bias + 0.1
    exact = np.log(0.1) + 2.0 * (np.log(2.0) - y - np.log1p(np.exp(-2.0 * y)))
    np.testing.assert_allclose(spectrum.exponents, exact, atol=1e-8)


@pytest.mark.parametrize("k", [1, 4, None])
def test_narrow_frames_do_not_underflow(k: int | None) -> None:
    """As above where float32 is chosen, whose range ends at 1e-38."""
    rnn = gaussian_(nn.RNN(1, 64), 1.0)
    with torch.no_grad():
        rnn.bias_hh_l0.fill_(10.0)
    inputs = noise(100, B, 1)
    chosen = lyapunov_spectrum(rnn, inputs, k=k)
    exact = lyapunov_spectrum(rnn, inputs, k=k, dtype=F64, interval=1)
    np.testing.assert_allclose(chosen.exponents, exact.exponents, atol=1e-3)


@pytest.mark.parametrize("gain", [0.5, 1.0])
@pytest.mark.parametrize("name", NARROW)
def test_narrow_frames_stay_close(
    name: str, gain: float, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-4; the last exponent less where a single J of the run comes near to singular."""
    monkeypatch.setattr(carriers, "_NARROW_ALWAYS_SIZE", 64)
    network, inputs = built(name, D, 64, gain), noise(80, 1, D)
    narrow = lyapunov_spectrum(network, inputs, state=state_of(name))
    assert {dtype for _, _, dtype in blocks} == {F32}
    wide = lyapunov_spectrum(network, inputs, state=state_of(name), dtype=F64, interval=1)
    dead = np.isneginf(wide.exponents)
    np.testing.assert_array_equal(np.isneginf(narrow.exponents), dead)
    gap = narrow.exponents[~dead] - wide.exponents[~dead]
    assert np.sqrt(np.mean(gap[:-1] ** 2)) < 1e-4
    assert np.abs(gap).max() < 1e-2
    # It really is another computation.
    assert np.abs(gap).max() > 1e-12


@pytest.mark.parametrize(
    ("name", "size", "gain", "first", "last"),
    [
        ("rnn-tanh", 64, 1.0, F64, F64),
        ("gru", 64, 0.1, F64, F32),
        ("rnn-tanh", 192, 1.0, F32, F32),
    ],
)
def test_narrow_frames_are_chosen_where_they_pay(
    name: str, size: int, gain: float, first: torch.dtype, last: torch.dtype, blocks: Blocks
) -> None:
    """In between, by whether float32 may go on without renormalising for a while."""
    lyapunov_spectrum(built(name, D, size, gain), noise(30, B, D))
    assert (blocks[0][2], blocks[-1][2]) == (first, last)


@pytest.mark.parametrize("name", ["rnn-tanh", "lstm", "gru", "lem"])
def test_small_and_staged_networks_keep_wide_frames(name: str, blocks: Blocks) -> None:
    lyapunov_spectrum(built(name, D, H, 1.0), noise(30, 1, D))
    if name in ("lstm", "lem"):
        lyapunov_spectrum(built(name, D, 64, 1.0), noise(30, 1, D))
    assert {dtype for _, _, dtype in blocks} == {F64}


@pytest.mark.parametrize("name", ["lstm", "lem", "cornn"])
def test_the_leading_quarter_of_a_staged_network_needs_no_wide_frame(
    name: str, blocks: Blocks
) -> None:
    network, inputs = built(name, D, 64, 1.0), noise(80, B, D)
    leading = lyapunov_spectrum(network, inputs, k=32)
    assert F32 in {dtype for _, _, dtype in blocks}
    wide = lyapunov_spectrum(network, inputs, k=32, dtype=F64)
    assert np.sqrt(np.mean((leading.exponents - wide.exponents) ** 2)) < 1e-4


def test_derivatives_that_underflow_widen_the_frame(blocks: Blocks) -> None:
    network, inputs = built("rnn-tanh", D, 64, 30.0), noise(60, 1, D)
    chosen = lyapunov_spectrum(network, inputs)
    assert blocks[-1][2] == F64
    exact = lyapunov_spectrum(network, inputs, dtype=F64, interval=1)
    assert np.isfinite(exact.exponents).all()
    np.testing.assert_allclose(chosen.exponents, exact.exponents, atol=1e-8)


def test_cholesky_gives_way_on_a_saturated_network(blocks: Blocks) -> None:
    """The square of a condition number above 1e16 has no digits left."""
    network, inputs = built("rnn-tanh", D, 16, 10.0), noise(80, B, D)
    by_cholesky = lyapunov_spectrum(network, inputs, method="cholesky", interval=1)
    assert {"cholesky", "lu"} <= {method for _, method, _ in blocks}
    by_lu = lyapunov_spectrum(network, inputs, method="lu", interval=1)
    np.testing.assert_allclose(by_cholesky.exponents, by_lu.exponents, atol=1e-8)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", ["rnn-tanh", "gru", "lstm-hidden", "antisymmetric", "lipschitz"])
def test_factors_carry_as_the_frame_does(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J P L from the triangle L is J times the frame P L; on one thread, where factors pay."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    network, inputs = built(name, D, 64, 0.5), noise(40, B, D)
    settings: dict[str, Any] = {"state": state_of(name), "dtype": dtype, "interval": 2}
    by_factors = lyapunov_spectrum(network, inputs, **settings)
    monkeypatch.setattr(carriers, "can_be_carried_as_factors", lambda frame: False)
    by_frames = lyapunov_spectrum(network, inputs, **settings)
    rounding = 1e-8 if dtype == F64 else 1e-2
    np.testing.assert_allclose(by_factors.exponents, by_frames.exponents, atol=rounding)
    assert not np.array_equal(by_factors.exponents, by_frames.exponents)


@pytest.mark.parametrize("name", ["gru", "lstm", "rnn-relu"])
def test_both_libraries_factor_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy's LU where it is installed, PyTorch's elsewhere and on several threads."""
    network, inputs = built(name, D, H, 1.0), noise(60, 50, D)
    with_scipy = lyapunov_spectrum(network, inputs, k=4, interval=1)
    monkeypatch.setattr(lapack, "_scipy", lambda: None)
    with_torch = lyapunov_spectrum(network, inputs, k=4, interval=1)
    few = lyapunov_spectrum(network, inputs[:, :2], k=4, interval=1)
    np.testing.assert_allclose(with_torch.exponents, with_scipy.exponents, atol=1e-10)
    np.testing.assert_allclose(few.exponents, with_torch.exponents[:2], atol=1e-10)


def test_same_call_same_bits() -> None:
    network, inputs = built("lstm", D, H, 1.0), noise(150, B, D)
    first = lyapunov_spectrum(network, inputs, k=4).exponents
    for _ in range(5):
        np.testing.assert_array_equal(lyapunov_spectrum(network, inputs, k=4).exponents, first)


def test_without_float64_on_the_device_the_cpu_computes() -> None:
    class Elsewhere(nn.Module):
        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            yield SimpleNamespace(device=torch.device("mps"))

    inputs: Any = SimpleNamespace(device=torch.device("mps"))
    with pytest.warns(UserWarning, match="mps has no float64.*on the CPU"):
        assert device_of(Elsewhere(), inputs) == torch.device("cpu")
    with pytest.raises(ValueError, match="float64, got mps.*to the CPU"):
        device_of(from_step(lambda x, h: h, 2), inputs)
    assert device_of(nn.GRU(D, H), torch.zeros(1)) == torch.device("cpu")


@pytest.mark.parametrize("size", [64, 128])
def test_a_fingerprint_of_an_lstm_with_shut_forget_gates(size: int) -> None:
    """Few exponents of a large state may run in float32; shut gates need stages and float64."""
    torch.manual_seed(0)
    lstm = nn.LSTM(D, size)
    with torch.no_grad():
        lstm.bias_ih_l0[size : size + 3] = -40.0
    x = torch.randn(60, B, D)
    leading = lyapunov_spectrum(lstm, x, k=size // 4)
    reference = lyapunov_spectrum(lstm, x, k=size // 4, method="qr", interval=1, dtype=F64)
    np.testing.assert_allclose(leading.exponents, reference.exponents, atol=1e-5)


def test_a_float32_frame_that_is_lost_is_carried_in_float64() -> None:
    """Derivatives below what float32 holds, where float32 was asked for: no NaN, no error."""
    rnn = built("rnn-tanh", 2, 2, float(np.exp(3.0)), 0)
    spectrum = lyapunov_spectrum(rnn, noise(40, 2, 2, seed=0), k=1, warmup=5, dtype=F32)
    assert not np.isnan(spectrum.exponents).any()
