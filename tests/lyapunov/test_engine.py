"""Each cell's step and Jacobian against PyTorch itself, and the ways to ask for a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov.renormalization import METHODS
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise

D, H = 3, 5


@pytest.mark.parametrize("state", ["full", "hidden"])
@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_lu_and_qr_agree(module: Any, state: Any) -> None:
    network = gaussian_(module(D, 12), 1.0)
    inputs = noise(100, 3, D)
    by_lu, by_qr, by_cholesky = (
        lyapunov_spectrum(network, inputs, state=state, method=method, dtype=torch.float64)
        for method in METHODS
    )
    np.testing.assert_allclose(by_lu.exponents, by_qr.exponents, atol=1e-10)
    np.testing.assert_allclose(by_lu.trace, by_qr.trace, atol=1e-10)
    np.testing.assert_allclose(by_cholesky.exponents, by_qr.exponents, atol=1e-8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    module=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    size=st.integers(1, 9),
    layers=st.integers(1, 2),
    gain=st.floats(0.01, 30.0),
    bias=st.booleans(),
    state=st.sampled_from(["full", "hidden"]),
    seed=st.integers(0, 1000),
)
def test_never_nan_always_descending(
    module: Any, size: int, layers: int, gain: float, bias: bool, state: Any, seed: int
) -> None:
    network = gaussian_(module(2, size, num_layers=layers, bias=bias), gain, seed)
    spectrum = lyapunov_spectrum(network, noise(40, 2, 2, seed=seed), warmup=5, state=state)
    assert spectrum.exponents.shape == (2, spectrum.state_size)
    assert not np.isnan(spectrum.exponents).any()
    assert (spectrum.exponents < np.inf).all()
    finite = np.maximum(spectrum.exponents, -1e9)
    assert (np.diff(finite, axis=1) <= 0.0).all()
    assert not np.isnan(spectrum.stderr).any()
    assert not np.isnan(spectrum.trace).any()


def test_step_function_agrees_with_the_structured_cell() -> None:
    cell = gaussian_(nn.GRUCell(D, H), 1.5)
    inputs = noise(80, 3, D)
    by_step = lyapunov_spectrum(from_step(cell, H, input_size=D), inputs)
    np.testing.assert_allclose(
        by_step.exponents, lyapunov_spectrum(cell, inputs).exponents, atol=1e-10
    )


def test_stack_is_the_union_of_its_layers() -> None:
    """The coupled Jacobian of a stack, computed as one system, has the layers' exponents."""
    rnn = gaussian_(nn.RNN(2, 3, num_layers=2, bias=False), 1.2)

    def step(x: Tensor, h: Tensor) -> Tensor:
        first = torch.tanh(x @ rnn.weight_ih_l0.T + h[:, :3] @ rnn.weight_hh_l0.T)
        second = torch.tanh(first @ rnn.weight_ih_l1.T + h[:, 3:] @ rnn.weight_hh_l1.T)
        return torch.cat([first, second], dim=-1)

    inputs = noise(1500, 1, 2)
    union = lyapunov_spectrum(rnn, inputs, warmup=300)
    coupled = lyapunov_spectrum(from_step(step, 6, input_size=2), inputs, warmup=300)
    np.testing.assert_allclose(union.mean, coupled.mean, atol=3e-3)
    leading = lyapunov_spectrum(rnn, inputs, warmup=300, k=2)
    np.testing.assert_allclose(leading.mean, union.mean[:2], atol=1e-10)


@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_layouts_give_the_same_spectrum(module: Any) -> None:
    network = gaussian_(module(D, H), 1.0)
    twin = module(D, H, batch_first=True).double()
    twin.load_state_dict(network.state_dict())
    inputs = noise(60, 4, D)
    expected = lyapunov_spectrum(network, inputs).exponents

    held = nn.ModuleDict({"core": twin, "readout": nn.Linear(H, 2)})
    np.testing.assert_array_equal(
        lyapunov_spectrum(held, inputs.transpose(0, 1)).exponents, expected
    )
    np.testing.assert_allclose(
        lyapunov_spectrum(network, inputs[:, 2]).exponents, expected[2:3], atol=1e-12
    )
    with torch.inference_mode():
        np.testing.assert_array_equal(lyapunov_spectrum(network, inputs).exponents, expected)


def test_initial_state_is_that_of_the_module() -> None:
    network = gaussian_(nn.LSTM(D, H, num_layers=2), 1.0)
    inputs = noise(90, 2, D)
    _, (h, c) = network(inputs[:30])
    resumed = lyapunov_spectrum(network, inputs[30:], warmup=40, initial_state=(h, c))
    straight = lyapunov_spectrum(network, inputs, warmup=70)
    np.testing.assert_allclose(resumed.mean, straight.mean, atol=0.05)
    zero = lyapunov_spectrum(network, inputs[30:], warmup=40)
    assert np.abs(resumed.trace - zero.trace).max() > 0.0


def test_directions_of_a_bidirectional_layer_are_two_systems() -> None:
    both = gaussian_(nn.GRU(D, H, bidirectional=True), 1.0)
    one = nn.GRU(D, H).double()
    inputs = noise(60, 2, D)
    for direction, suffix, seen in (
        ("forward", "", inputs),
        ("backward", "_reverse", inputs.flip(0)),
    ):
        one.load_state_dict({k: both.state_dict()[k + suffix] for k in one.state_dict()})
        np.testing.assert_array_equal(
            lyapunov_spectrum(both, inputs, direction=direction).exponents,  # type: ignore[arg-type]
            lyapunov_spectrum(one, seen).exponents,
        )


def test_narrow_frame_and_rarer_renormalisation_stay_close() -> None:
    network = gaussian_(nn.GRU(D, 24), 1.0)
    inputs = noise(100, 3, D)
    exact = lyapunov_spectrum(network, inputs).exponents
    narrow = lyapunov_spectrum(network, inputs, dtype=torch.float32).exponents
    rare = lyapunov_spectrum(network, inputs, interval=4).exponents
    np.testing.assert_allclose(narrow, exact, atol=1e-4)
    np.testing.assert_allclose(rare, exact, atol=1e-8)


def test_same_call_same_answer_and_nothing_else_is_touched() -> None:
    network = gaussian_(nn.LSTM(D, H), 1.0)
    inputs = noise(50, 2, D)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = lyapunov_spectrum(network, inputs, k=4)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(
        first.exponents, lyapunov_spectrum(network, inputs, k=4).exponents
    )
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])
    assert network.training


def test_fingerprint_of_large_and_small_networks() -> None:
    inputs = torch.randn(200, 32, 1, generator=torch.Generator().manual_seed(0))
    large = spectral_fingerprint(nn.LSTM(1, 40), inputs)
    assert large.exponents.shape == (1, 80)
    assert large.n_steps == 24
    assert spectral_fingerprint(nn.LSTM(1, 40), inputs, 5).exponents.shape == (1, 5)
    assert spectral_fingerprint(nn.GRU(1, 140), inputs).n_steps == 12
    assert large.seconds > 0.0
    small = spectral_fingerprint(nn.GRU(1, 7, batch_first=True), inputs[:12, :4].transpose(0, 1))
    assert small.exponents.shape == (2, 7)
    assert small.n_steps == 9


def test_record_derives_its_quantities() -> None:
    network = gaussian_(nn.RNN(1, 30), 3.0)
    spectrum = lyapunov_spectrum(network, noise(400, 4, 1) * 0.1)
    mean = spectrum.mean
    assert spectrum.max_exponent == mean[0] > 0.0
    assert spectrum.metric_entropy == pytest.approx(mean[mean > 0].sum())
    j = int(spectrum.kaplan_yorke_dimension)
    assert mean[:j].sum() >= 0.0 > mean[: j + 1].sum()
    np.testing.assert_allclose(spectrum.to_bits() * np.log(2.0), spectrum.exponents)
    assert (spectrum.stderr > 0.0).all()
    np.testing.assert_allclose(np.sort(spectrum.trace[-1]), np.sort(spectrum.mean), atol=0.05)
    assert spectrum.trace_steps[-1] == spectrum.n_steps == 380
    assert np.isinf(lyapunov_spectrum(network, noise(60, 1, 1)).stderr).all()
