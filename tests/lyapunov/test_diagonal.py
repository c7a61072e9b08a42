"""Recurrences whose Jacobian is diagonal: their layers, and exponents in closed form."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import from_log_rates
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov.inputs import device_of
from optuna_aelle.lyapunov.models import find_recurrent
from tests.lyapunov.networks import noise

D, H, B = 3, 6, 2
LAYERS: dict[str, Any] = {
    "mingru": cells.MinGRU,
    "minlstm": cells.MinLSTM,
    "lru": cells.LRU,
    "lru-wide": lambda d, h, **more: cells.LRU(d, h, state_size=9, **more),
    "s4d": lambda d, h, **more: cells.S4D(d, h, state_size=4, **more),
    "s5": cells.S5,
    "s6": lambda d, h, **more: cells.S6(d, h, state_size=4, **more),
    "mlstm": lambda d, h, **more: cells.MLSTM(d, h, n_heads=2, **more),
    "rwkv4": cells.RWKV4,
    "rwkv6": lambda d, h, **more: cells.RWKV6(d, h, n_heads=2, **more),
}


def built(name: str, seed: int = 0, **more: Any) -> Any:
    """With the layer's own initialisation, moved off its special values."""
    torch.manual_seed(seed)
    layer = LAYERS[name](D, H, **more).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def flat(state: Tensor) -> Tensor:
    """Real and imaginary parts side by side."""
    return torch.view_as_real(state).flatten(-2) if state.is_complex() else state


def own_jacobian(layer: Any, x: Tensor, state: Tensor) -> Tensor:
    """∂(next state)/∂(state) through the layer's own forward, ``(N, N)`` for ``x (D,)``."""

    def step(values: Tensor) -> Tensor:
        complex_ = layer.complex_state
        given = torch.view_as_complex(values.view(-1, 2)) if complex_ else values
        return flat(layer(x[None, None], given[None, None])[1][0, 0])

    jacobian: Tensor = torch.func.jacrev(step)(flat(state)).detach()
    return jacobian


@pytest.mark.parametrize("name", LAYERS)
def test_rates_are_the_jacobian_of_the_layer_s_own_step(name: str) -> None:
    layer, inputs = built(name), noise(30, B, D)
    _, state = layer(inputs[:5, :1])
    for t in range(5, 9):
        jacobian = own_jacobian(layer, inputs[t, 0], state[0, 0])
        if layer.complex_state:
            # A rotation in each plane: its two singular values are |λ|.
            size = torch.linalg.svdvals(jacobian).sort().values
        else:
            torch.testing.assert_close(jacobian, torch.diag(jacobian.diagonal()))
            size = jacobian.diagonal().abs().sort().values
        rates = layer.log_rates(inputs[t : t + 1, :1])[0, 0]
        expected = rates.exp().repeat_interleave(layer.n_real).sort().values
        torch.testing.assert_close(size, expected, rtol=1e-10, atol=1e-12)
        _, state = layer(inputs[t : t + 1, :1], state)


@pytest.mark.parametrize("name", LAYERS)
def test_exponents_are_averages_of_the_rates(name: str) -> None:
    layer, inputs = built(name), noise(70, B, D)
    spectrum = lyapunov_spectrum(layer, inputs)
    rates = layer.log_rates(inputs).expand(70, B, -1)[20:].mean(dim=0)
    expected = rates.repeat_interleave(layer.n_real, dim=1).sort(descending=True).values
    np.testing.assert_allclose(spectrum.exponents, expected.detach(), atol=1e-12)
    assert spectrum.state_size == layer.n_rates * layer.n_real == expected.shape[1]
    assert spectrum.computations[0].method == "sum"
    assert spectrum.exponents.dtype == np.float64


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_all_steps_at_once_are_the_steps_one_after_the_other(name: str) -> None:
    layer, inputs = built(name), noise(13, B, D)
    outputs, final = layer(inputs)
    assert outputs.shape == (13, B, H)
    state, one_by_one = None, []
    for x in inputs:
        out, state = layer(x[None], state)
        one_by_one.append(out)
    torch.testing.assert_close(torch.cat(one_by_one), outputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, final, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_layouts_give_the_same_outputs(name: str) -> None:
    layer, twin = built(name), built(name, batch_first=True)
    inputs = noise(9, B, D)
    outputs, final = layer(inputs)
    first, last = twin(inputs.transpose(0, 1))
    torch.testing.assert_close(first.transpose(0, 1), outputs)
    torch.testing.assert_close(last, final)
    alone, ended = layer(inputs[:, 1])
    torch.testing.assert_close(alone, outputs[:, 1])
    torch.testing.assert_close(ended, final[:, 1])
    assert "batch_first=True" in repr(twin)
    with pytest.raises(ValueError, match=r"with D = 3, got \(9, 2, 4\)"):
        layer(noise(9, B, D + 1))
    with pytest.raises(ValueError, match="expected a state of shape"):
        layer(inputs, final[..., :-1])


@pytest.mark.parametrize("name", LAYERS)
def test_layers_train(name: str) -> None:
    layer = built(name).float()
    head = nn.Linear(H, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    inputs = noise(12, 16, D).float()
    target = inputs[-2, :, :1]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(head(layer(inputs)[0][-1]), target)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.7 * losses[0]
    # Nothing is left without a gradient.
    assert all(parameter.grad is not None for parameter in layer.parameters())


@given(
    st.integers(1, 40),
    st.floats(0.0, 2.0),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_the_scan_is_the_loop(n_steps: int, scale: float, constant: bool) -> None:
    generator = torch.Generator().manual_seed(n_steps)
    a = scale * torch.randn(n_steps, 2, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(n_steps, 2, 3, generator=generator, dtype=torch.float64)
    if constant:
        a = a[:1, :1]
    h = start = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    expected = []
    for t in range(n_steps):
        h = a.expand_as(b)[t] * h + b[t]
        expected.append(h)
    found = cells.linear_scan(a, b, start)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_linear_state_space_has_the_exponents_of_its_eigenvalues() -> None:
    lru = cells.LRU(D, H, r_min=0.4, r_max=0.9)
    exact = -np.exp(lru.log_decay.detach().double().numpy())
    spectrum = lyapunov_spectrum(lru, torch.randn(50, B, D))
    np.testing.assert_allclose(spectrum.exponents[0], -np.sort(-np.repeat(exact, 2)), atol=1e-6)
    assert (spectrum.exponents <= math.log(0.9) + 1e-6).all()
    assert (spectrum.exponents >= math.log(0.4) - 1e-6).all()
    s4d = cells.S4D(D, H, dt_min=0.05, dt_max=0.05)
    # Re A = −1/2 at the start, Δ = 0.05.
    fingerprint = spectral_fingerprint(s4d, torch.randn(50, B, D))
    np.testing.assert_allclose(fingerprint.exponents, -0.025, atol=1e-6)


def test_gates_that_do_not_read_have_their_bias_for_an_exponent() -> None:
    layer = cells.MinGRU(D, H)
    with torch.no_grad():
        layer.weight_ih.zero_()
        layer.bias[:H] = torch.linspace(-300.0, 300.0, H)
    exact = F.logsigmoid(-torch.linspace(-300.0, 300.0, H).double()).numpy()
    spectrum = lyapunov_spectrum(layer, torch.randn(40, B, D))
    np.testing.assert_allclose(spectrum.exponents[0], exact, rtol=1e-12)


def test_leading_exponents_lengths_windows_and_errors() -> None:
    layer, inputs = built("s6"), noise(300, 4, D)
    whole = lyapunov_spectrum(layer, inputs)
    leading = lyapunov_spectrum(layer, inputs, k=5)
    np.testing.assert_allclose(leading.exponents, whole.exponents[:, :5], atol=1e-12)
    assert leading.trace.shape[1] == 5
    lengths = [300, 90, 150, 40]
    unequal = lyapunov_spectrum(layer, inputs, lengths=lengths)
    for i, length in enumerate(lengths):
        alone = lyapunov_spectrum(layer, inputs[:length, i : i + 1])
        np.testing.assert_allclose(unequal.exponents[i], alone.exponents[0], atol=1e-12)
    windows = lyapunov_spectrum(layer, inputs, window=70).window_exponents
    assert windows is not None
    assert windows.shape == (4, 4, 24)
    np.testing.assert_allclose(windows.mean(axis=(0, 1)).max(), whole.mean.max(), atol=0.1)
    stopped = lyapunov_spectrum(layer, inputs, target_stderr=0.5)
    assert stopped.n_steps < 280
    with pytest.raises(ValueError, match=r"k must be in \[1, 24\]"):
        lyapunov_spectrum(layer, inputs, k=25)


def test_rates_of_one_s_own() -> None:
    calls = []

    def rates(x: Tensor) -> Tensor:
        calls.append(len(x))
        return -x.abs()

    inputs = noise(600, B, D)
    for by_steps in (False, True):
        calls.clear()
        model = from_log_rates(rates, D, n_real=2, input_size=D, by_steps=by_steps)
        spectrum = lyapunov_spectrum(model, inputs)
        expected = -inputs[20:].abs().mean(dim=0).sort().values.repeat_interleave(2, dim=1)
        np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-12)
        # At once where a step's rates may read other steps.
        assert (calls == [600]) is not by_steps


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        (lambda x: x[..., :2], ValueError, r"ln\|J\| of shape \(T, B, 3\).*got \(60, 2, 2\)"),
        (lambda x: 1.0, ValueError, "got float"),
        (lambda x: x * math.nan, FloatingPointError, "log rates or −inf, got NaN"),
        (lambda x: x * 0.0 + math.inf, FloatingPointError, "got NaN or infinite"),
    ],
)
def test_rates_that_are_none(rates: Any, error: type[Exception], message: str) -> None:
    model = from_log_rates(rates, 3, input_size=D)
    with pytest.raises(error, match=message):
        lyapunov_spectrum(model, noise(60, B, D))
    with pytest.raises(ValueError, match="n_rates must be a whole number"):
        from_log_rates(rates, 0, input_size=D)


def test_rates_of_zero_are_dead_directions() -> None:
    dead = torch.tensor([[[0.0, -math.inf, -1.0]]])
    spectrum = lyapunov_spectrum(from_log_rates(lambda x: dead, 3, input_size=D), noise(60, B, D))
    np.testing.assert_array_equal(spectrum.exponents, [[0.0, -1.0, -math.inf]] * B)


def test_models_of_stacked_layers_are_read_layer_by_layer() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = cells.S6(D, H, state_size=4), cells.MinGRU(H, H)
            self.rnn = nn.GRU(H, 5)

        def forward(self, x: Tensor) -> Tensor:
            lower = self.first(x)[0]
            upper = F.gelu(self.second(lower)[0]) + lower
            outputs: Tensor = self.rnn(upper)[0]
            return outputs

    spectrum = spectral_fingerprint(Stacked(), torch.randn(60, B, D))
    assert spectrum.state_size == 24 + H + 5
    assert [how.method for how in spectrum.computations] == ["sum", "sum", "lu"]


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, but got 0 and 4"):
        cells.MinGRU(0, 4)
    for layer in (cells.MLSTM, cells.RWKV6, cells.SLSTM):
        with pytest.raises(ValueError, match="n_heads must be a divisor of hidden_size 6"):
            layer(D, H, n_heads=4)


class Shifted(cells.DiagonalLayer):
    """A layer of a user's own, whose rates read the step before, too."""

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        shifted = torch.cat([torch.zeros_like(inputs[:1]), inputs[:-1]])
        return torch.exp(-(inputs + shifted).abs()), inputs


def test_a_layer_of_one_s_own_is_known_and_read_at_once() -> None:
    layer, inputs = Shifted(D, D), noise(600, 40, D)
    spectrum = lyapunov_spectrum(layer, inputs)
    rates = layer.log_rates(inputs)[20:].mean(dim=0).sort(descending=True).values
    np.testing.assert_allclose(spectrum.exponents, rates, atol=1e-12)


def test_another_forward_is_another_layer() -> None:
    class Mine(cells.MinGRU):
        def forward(self, inputs: Tensor, state: Tensor | None = None) -> Any:
            return super().forward(2.0 * inputs, state)

    with pytest.raises(ValueError, match="Mine brings another one along"):
        lyapunov_spectrum(Mine(D, H), noise(60, B, D))


def test_the_device_is_that_of_the_module() -> None:
    assert device_of(find_recurrent(cells.S6(D, H)), torch.zeros(3)) == torch.device("cpu")
    elsewhere = dataclasses.replace(
        from_log_rates(lambda x: x, 3, input_size=D), device=torch.device("meta")
    )
    assert device_of(elsewhere, torch.zeros(3)) == torch.device("meta")
