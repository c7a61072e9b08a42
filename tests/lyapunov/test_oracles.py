"""Spectra with known answers, from exact to statistical."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import systems
from optuna_aelle.lyapunov.stack import _FRAME_SEED

METHODS = ["lu", "qr"]


def linear_model(matrix: torch.Tensor) -> Any:
    return from_step(lambda _, h: h @ matrix.T, len(matrix))


def no_inputs(n_steps: int, batch: int = 1) -> torch.Tensor:
    return torch.zeros(n_steps, batch, 0, dtype=torch.float64)


def uniform_(module: nn.Module, p: float, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-p, p, generator=generator)
    return module.double()


@pytest.mark.parametrize("method", METHODS)
def test_orthogonal_matrix_neither_stretches_nor_shrinks(method: Any) -> None:
    matrix = torch.linalg.qr(
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).Q
    spectrum = lyapunov_spectrum(linear_model(matrix), no_inputs(200), method=method)
    np.testing.assert_allclose(spectrum.exponents, 0.0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_time_order_of_a_periodic_product(method: Any) -> None:
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(3, 3)) for _ in range(3)]
    system = systems.periodic_linear(matrices)
    spectrum = lyapunov_spectrum(system.model, system.inputs(900), warmup=300, method=method)
    np.testing.assert_allclose(spectrum.mean, system.exponents, atol=1e-6)

    # The oracle has teeth: transposing step by step, which multiplies in the wrong order, is far.
    transposed = systems.periodic_linear([m.T for m in matrices])
    assert np.abs(transposed.exponents - system.exponents).max() > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_antisymmetric_linear_network(method: Any) -> None:
    eps, gamma, frequencies = 0.1, 0.3, (0.5, 1.5, 3.0)
    generator = torch.zeros(6, 6, dtype=torch.float64)
    for i, mu in enumerate(frequencies):
        generator[2 * i, 2 * i + 1], generator[2 * i + 1, 2 * i] = mu, -mu
    basis = torch.linalg.qr(
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ).Q
    eye = torch.eye(6, dtype=torch.float64)
    matrix = eye + eps * (basis @ generator @ basis.T - gamma * eye)
    spectrum = lyapunov_spectrum(linear_model(matrix), no_inputs(3000), warmup=2000, method=method)
    exact = [0.5 * math.log((1 - eps * gamma) ** 2 + (eps * mu) ** 2) for mu in frequencies]
    np.testing.assert_allclose(spectrum.mean, np.repeat(sorted(exact)[::-1], 2), atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("system", "n_steps", "tolerance"),
    [
        (systems.henon(), 20_000, 0.005),
        (systems.logistic(), 20_000, 0.002),
        pytest.param(systems.lorenz(), 12_000, 5e-4, marks=pytest.mark.slow),
    ],
    ids=["henon", "logistic", "lorenz"],
)
def test_published_spectra(
    system: systems.KnownSystem, n_steps: int, tolerance: float, method: Any
) -> None:
    spectrum = lyapunov_spectrum(
        system.model,
        system.inputs(n_steps, 4),
        warmup=1000,
        initial_state=system.initial_state(4),
        method=method,
    )
    np.testing.assert_allclose(spectrum.mean, system.exponents, atol=tolerance)


@pytest.mark.parametrize("a", [1.2, 1.06, 1.0, 0.3], ids=["chaos", "weak", "periodic", "rest"])
def test_exponents_of_the_henon_map_follow_its_parameters(a: float) -> None:
    system = systems.henon(a=a)
    spectrum = lyapunov_spectrum(
        system.model,
        system.inputs(8_000, 4),
        warmup=1000,
        initial_state=system.initial_state(4),
    )
    np.testing.assert_allclose(spectrum.mean, system.exponents, atol=0.01 if a > 1.0 else 1e-4)
    assert system.exponents.sum() == pytest.approx(math.log(0.3))
    assert not system.exact
    assert f"a = {a}" in system.source


def test_the_henon_map_with_a_reflection() -> None:
    assert systems.henon(b=-0.3).exponents.sum() == pytest.approx(math.log(0.3))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a": 2.0}, r"stays bounded .* a = 2.0 and b = 0.3 it leaves for infinity"),
        ({"b": 0.0}, r"b not 0 .* got a = 1.4 and b = 0.0"),
        ({"a": math.nan}, r"must be finite"),
    ],
)
def test_henon_maps_without_an_attractor(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        systems.henon(**parameters)


def test_henon_sum_rule_is_exact() -> None:
    system = systems.henon()
    spectrum = lyapunov_spectrum(
        system.model, system.inputs(500), initial_state=system.initial_state()
    )
    np.testing.assert_allclose(spectrum.exponents.sum(), math.log(0.3), atol=1e-12)


@pytest.mark.parametrize(
    "network",
    [
        nn.RNN(3, 10),
        nn.RNN(3, 6, num_layers=3),
        nn.LSTM(3, 10),
        nn.LSTM(3, 6, num_layers=2, bias=False),
        nn.LSTMCell(3, 8),
        nn.RNNCell(3, 8),
    ],
    ids=["rnn", "rnn3", "lstm", "lstm2", "lstm-cell", "rnn-cell"],
)
@pytest.mark.parametrize("p", [0.1, 1.0, 3.0])
def test_sum_of_exponents_is_the_mean_log_determinant(network: nn.Module, p: float) -> None:
    uniform_(network, p)
    inputs = torch.randn(150, 4, 3, generator=torch.Generator().manual_seed(3))
    # The intervals that the engine chooses leave half of the digits.
    for interval, tolerance in ((1, 1e-10), ("auto", 1e-8)):
        spectrum = lyapunov_spectrum(network, inputs, interval=interval)  # type: ignore[arg-type]
        assert spectrum.sum_rule_residual is not None
        assert spectrum.sum_rule_residual < tolerance


def test_gru_without_recurrent_weights_forgets_by_its_update_gate() -> None:
    gru = nn.GRU(2, 3).double()
    with torch.no_grad():
        gru.weight_hh_l0.zero_()
        gru.bias_hh_l0.zero_()
        gru.bias_ih_l0[3:6] = torch.tensor([4.0, 0.0, -3.0], dtype=torch.float64)
    inputs = torch.randn(
        200, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    update = torch.sigmoid(inputs @ gru.weight_ih_l0[3:6].T + gru.bias_ih_l0[3:6])
    exact = update[100:].log().mean(dim=(0, 1)).detach().numpy()
    spectrum = lyapunov_spectrum(gru, inputs, warmup=100)
    np.testing.assert_allclose(spectrum.mean, -np.sort(-exact), atol=1e-12)


def test_lstm_without_recurrent_weights_has_dead_hidden_directions() -> None:
    lstm = nn.LSTM(2, 3).double()
    with torch.no_grad():
        lstm.weight_hh_l0.zero_()
        lstm.bias_ih_l0[3:6] = torch.tensor([4.0, 0.0, -3.0], dtype=torch.float64)
        # A shut output gate: else the metric's share of dh = D dc is an O(1/T) boundary term.
        lstm.bias_ih_l0[9:12] = -100.0
    inputs = torch.randn(
        200, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    bias = lstm.bias_ih_l0[3:6] + lstm.bias_hh_l0[3:6]
    forget = torch.sigmoid(inputs @ lstm.weight_ih_l0[3:6].T + bias)
    exact = forget[100:].log().mean(dim=(0, 1)).detach().numpy()
    spectrum = lyapunov_spectrum(lstm, inputs, warmup=100)
    np.testing.assert_allclose(spectrum.mean[:3], -np.sort(-exact), atol=1e-12)
    assert np.isneginf(spectrum.mean[3:]).all()
    assert spectrum.sum_rule_residual == 0.0


@pytest.mark.parametrize("n_dead", [1, 4, 7])
def test_dead_relu_rows_are_counted_exactly(n_dead: int) -> None:
    rnn = uniform_(nn.RNN(2, 8, nonlinearity="relu"), 0.3)
    with torch.no_grad():
        rnn.bias_ih_l0[:] = 5.0
        rnn.bias_ih_l0[:n_dead] = -100.0
    inputs = torch.randn(120, 3, 2, generator=torch.Generator().manual_seed(0))
    spectrum = lyapunov_spectrum(rnn, inputs)
    assert (np.isneginf(spectrum.exponents).sum(axis=1) == n_dead).all()
    assert spectrum.sum_rule_residual == 0.0


def test_saturated_network_against_a_600_digit_product() -> None:
    """At gain 10, LU finds the tail that QR at every step loses."""
    size, n_steps = 16, 30
    rnn = uniform_(nn.RNN(1, size, bias=False), 10.0 / math.sqrt(size) * math.sqrt(3.0))
    weight = rnn.weight_hh_l0.detach()
    inputs = torch.randn(
        n_steps, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    noise = torch.randn(
        size, size, generator=torch.Generator().manual_seed(_FRAME_SEED), dtype=torch.float64
    )
    with mpmath.workdps(600):
        product = mpmath.matrix(torch.linalg.qr(noise).Q.tolist())
        mp_weight = mpmath.matrix(weight.tolist())
        h = torch.zeros(size, dtype=torch.float64)
        for x in inputs[:, 0]:
            y = rnn.weight_ih_l0.detach() @ x + weight @ h
            h = torch.tanh(y)
            slopes = [mpmath.sech(mpmath.mpf(float(v))) ** 2 for v in y]
            product = mpmath.diag(slopes) * (mp_weight * product)
        _, r = mpmath.qr(product)
        exact = np.array([float(mpmath.log(abs(r[i, i]))) for i in range(size)]) / n_steps
    exact = -np.sort(-exact)

    by_lu = lyapunov_spectrum(rnn, inputs, warmup=0, method="lu").mean
    by_qr = lyapunov_spectrum(rnn, inputs, warmup=0, method="qr").mean
    np.testing.assert_allclose(by_lu, exact, atol=1e-9)
    assert np.abs(by_qr - exact).max() > 1e-3


def test_full_lstm_is_the_true_map_and_hidden_is_not() -> None:
    """A slow forget gate is memory: the full map sees it, ∂h/∂h with c frozen cannot."""
    lstm = uniform_(nn.LSTM(2, 6), 0.2)
    with torch.no_grad():
        lstm.bias_ih_l0[6:12] = 5.0
    inputs = torch.randn(200, 2, 2, generator=torch.Generator().manual_seed(0))
    full = lyapunov_spectrum(lstm, inputs).max_exponent
    hidden = lyapunov_spectrum(lstm, inputs, state="hidden").max_exponent
    assert -0.05 < full < 0.0
    assert hidden < -1.0
