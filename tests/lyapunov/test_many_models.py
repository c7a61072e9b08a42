"""Many networks at once have the spectra that they have one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from optuna_aelle.lyapunov import LyapunovSpectrum
from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import state_of

D, H, B, T = 2, 4, 3, 80


def mixed_models() -> list[Any]:
    """Types and sizes in turns, so that equal ones never stand side by side."""
    weight = noise(H, H, seed=50)
    networks: list[Any] = []
    for seed in range(3):
        makers: list[Any] = [
            nn.GRU(D, H),
            nn.GRU(D, H + 1),
            nn.GRU(D, H, bias=False),
            nn.GRU(D, H, batch_first=True),
            nn.LSTM(D, H, num_layers=2),
            nn.RNN(D, H),
            nn.RNN(D, H, nonlinearity="relu"),
            nn.RNNCell(D, H),
            cells.LEM(D, H),
            cells.LEM(D, H, dt=0.5),
            cells.ExponentialRNN(D, H),
            nn.ModuleDict({"core": nn.LSTM(D, H), "head": nn.Linear(H, 1)}),
        ]
        networks += [gaussian_(network, 0.6 + 0.4 * seed, seed) for network in makers]
        step = from_step(lambda x, h, s=seed: torch.tanh(h @ weight / (s + 1)), H, input_size=D)
        networks.append(step)
    return networks


def inputs_of(model: Any, inputs: Tensor) -> Tensor:
    return inputs.transpose(0, 1) if getattr(model, "batch_first", False) else inputs


def assert_same(spectrum: LyapunovSpectrum, expected: LyapunovSpectrum) -> None:
    np.testing.assert_allclose(spectrum.exponents, expected.exponents, atol=1e-10)
    np.testing.assert_allclose(spectrum.trace, expected.trace, atol=1e-10)
    np.testing.assert_array_equal(spectrum.trace_steps, expected.trace_steps)
    assert spectrum.state_size == expected.state_size
    assert spectrum.n_steps == expected.n_steps
    assert (spectrum.log_abs_det is None) == (expected.log_abs_det is None)
    if spectrum.log_abs_det is not None and expected.log_abs_det is not None:
        np.testing.assert_allclose(spectrum.log_abs_det, expected.log_abs_det, atol=1e-10)


@pytest.mark.parametrize("own", [True, False], ids=["own-inputs", "one-batch"])
def test_mixed_models_in_their_order(own: bool) -> None:
    models = mixed_models()
    each = [
        inputs_of(model, noise(T, B, D, seed=i if own else 0)) for i, model in enumerate(models)
    ]
    spectra = lyapunov_spectra(models, each, interval=1)
    assert len(spectra) == len(models)
    for model, inputs, spectrum in zip(models, each, spectra, strict=True):
        assert_same(spectrum, lyapunov_spectrum(model, inputs, interval=1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_models_on_shared_inputs(name: str) -> None:
    """The same inputs, a state to start from, and sequences of several lengths, for all."""
    models = [built(name, D, H, 1.0, seed) for seed in range(4)]
    inputs, lengths = noise(T, B, D), [T, 40, 70]
    options: dict[str, Any] = {"state": state_of(name), "lengths": lengths, "interval": 1}
    spectra = lyapunov_spectra(models, inputs, **options)
    for model, spectrum in zip(models, spectra, strict=True):
        assert_same(spectrum, lyapunov_spectrum(model, inputs, **options))
    assert not np.allclose(spectra[0].exponents, spectra[1].exponents, atol=1e-3)


def test_adaptive_intervals_may_differ_but_not_the_numbers() -> None:
    """The wildest network of a group decides how often all of it is renormalised."""
    models = [gaussian_(nn.GRU(D, 8), gain) for gain in (0.3, 1.0, 5.0)]
    inputs = noise(200, B, D)
    for model, spectrum in zip(models, lyapunov_spectra(models, inputs), strict=True):
        expected = lyapunov_spectrum(model, inputs)
        np.testing.assert_allclose(spectrum.exponents, expected.exponents, atol=1e-7)


def test_states_directions_and_windows_are_those_of_each() -> None:
    models = [
        gaussian_(nn.LSTM(D, H, num_layers=2, bidirectional=True), 1.0, seed) for seed in range(3)
    ]
    inputs, start = noise(T, B, D), (noise(4, B, H, seed=1), noise(4, B, H, seed=2))
    options: dict[str, Any] = {
        "direction": "backward",
        "initial_state": start,
        "window": 20,
        "interval": 1,
        "k": 5,
    }
    spectra = lyapunov_spectra(models, inputs, **options)
    for model, spectrum in zip(models, spectra, strict=True):
        expected = lyapunov_spectrum(model, inputs, **options)
        assert_same(spectrum, expected)
        assert spectrum.window_exponents is not None
        assert expected.window_exponents is not None
        np.testing.assert_allclose(
            spectrum.window_exponents, expected.window_exponents, atol=1e-10
        )


def test_more_weights_than_fit_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [built("gru", D, H, 1.0, seed) for seed in range(5)]
    inputs = noise(T, B, D)
    at_once = lyapunov_spectra(models, inputs, interval=1)
    n_weights = sum(parameter.numel() for parameter in models[0].parameters())
    monkeypatch.setattr("optuna_aelle.lyapunov.groups._MAX_PARAMETERS", {"cpu": 2 * n_weights + 1})
    for spectrum, expected in zip(
        lyapunov_spectra(models, inputs, interval=1), at_once, strict=True
    ):
        assert_same(spectrum, expected)


def test_packed_inputs_of_each() -> None:
    models = [built("gru", D, H, 1.0, seed) for seed in range(2)]
    packed = [
        pack_padded_sequence(noise(T, B, D, seed=seed), torch.tensor([T, 60, 30]))
        for seed in range(2)
    ]
    for given in (packed, packed[0]):
        spectra = lyapunov_spectra(models, given, interval=1)
        for i, (model, spectrum) in enumerate(zip(models, spectra, strict=True)):
            own = packed[i] if isinstance(given, list) else packed[0]
            assert_same(spectrum, lyapunov_spectrum(model, own, interval=1))


def test_no_models_no_spectra() -> None:
    assert lyapunov_spectra([], torch.zeros(40, 1, D)) == []
    assert lyapunov_spectra([], []) == []


def test_what_is_wrong_with_one_model_is_said() -> None:
    good, diverged, inputs = nn.GRU(D, H), nn.GRU(D, H), torch.zeros(40, 1, D)
    with torch.no_grad():
        diverged.weight_hh_l0[0, 0] = math.nan
    with pytest.raises(ValueError, match="parameter 'weight_hh_l0'.*diverged"):
        lyapunov_spectra([good, diverged], inputs)
    with pytest.raises(ValueError, match="Expected Linear to hold a recurrent module"):
        lyapunov_spectra([good, nn.Linear(D, H)], inputs)
    with pytest.raises(TypeError, match="got str"):
        lyapunov_spectra([good, "gru"], inputs)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a list of 1, one each, got a list of 2"):
        lyapunov_spectra([good], [inputs, inputs])
    with pytest.raises(ValueError, match=r"D = 3, got \(40, 1, 2\)"):
        lyapunov_spectra([good, nn.GRU(3, H)], inputs)


def test_the_error_of_a_single_network_is_as_it_is() -> None:
    with pytest.raises(ValueError, match="^Shape mismatch") as caught:
        lyapunov_spectra([nn.GRU(3, H)], torch.zeros(40, 1, D))
    assert caught.value.__cause__ is None


def test_an_error_names_the_network_that_it_is_about() -> None:
    networks = [gaussian_(nn.RNN(D, H, nonlinearity="relu"), gain) for gain in (0.5, 1e6, 0.5)]
    with pytest.raises(FloatingPointError, match=r"models\[1\]: .*overflowed"):
        lyapunov_spectra(networks, noise(T, B, D))
