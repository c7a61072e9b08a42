"""The same numbers on a CUDA device as on the CPU."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov.renormalization import fastest_method
from optuna_aelle.lyapunov.renormalization import log_volume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CELLS = [cells.AntisymmetricRNN, cells.CoRNN, cells.ExponentialRNN, cells.LEM, cells.LipschitzRNN]


@pytest.mark.parametrize("method", ["auto", "lu", "qr", "cholesky"])
@pytest.mark.parametrize("state", ["full", "hidden"])
@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_device_agrees_with_cpu(module: Any, state: Any, method: Any) -> None:
    torch.manual_seed(0)
    network = module(3, 20, num_layers=2)
    inputs = torch.randn(80, 4, 3)
    on_cpu = lyapunov_spectrum(network, inputs, state=state, method="lu")
    on_device = lyapunov_spectrum(network.cuda(), inputs, state=state, method=method)
    np.testing.assert_allclose(on_device.exponents, on_cpu.exponents, atol=1e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_package_cells_agree_with_cpu(cell: Any) -> None:
    torch.manual_seed(0)
    network, inputs = cell(3, 20), torch.randn(80, 4, 3)
    on_cpu = lyapunov_spectrum(network, inputs)
    on_device = lyapunov_spectrum(network.cuda(), inputs)
    np.testing.assert_allclose(on_device.exponents, on_cpu.exponents, atol=1e-8)


@pytest.mark.parametrize("size", [64, 256])
def test_float32_frames_stay_close(size: int) -> None:
    torch.manual_seed(0)
    network, inputs = nn.GRU(3, size), torch.randn(100, 8, 3)
    exact = lyapunov_spectrum(network, inputs, dtype=torch.float64).exponents
    on_device = lyapunov_spectrum(network.cuda(), inputs).exponents
    assert np.sqrt(np.mean((on_device - exact) ** 2)) < 1e-4


def test_blocks_are_recorded_as_graphs() -> None:
    torch.manual_seed(0)
    network, inputs = nn.GRU(3, 32), torch.randn(200, 4, 3)
    exact = lyapunov_spectrum(network, inputs, dtype=torch.float64, interval=2).exponents
    network.cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("lu", "cholesky"):
            found = lyapunov_spectrum(network, inputs, method=method, interval=2).exponents
            assert np.sqrt(np.mean((found - exact) ** 2)) < 1e-3


def test_many_models_at_once() -> None:
    torch.manual_seed(0)
    models, inputs = [nn.LSTM(3, 24) for _ in range(5)], torch.randn(80, 4, 3)
    on_cpu = lyapunov_spectra(models, inputs)
    on_device = lyapunov_spectra([model.cuda() for model in models], inputs)
    for a, b in zip(on_device, on_cpu, strict=True):
        np.testing.assert_allclose(a.exponents, b.exponents, atol=1e-8)
    fingerprint = spectral_fingerprint(models[0], inputs)
    assert np.isfinite(fingerprint.exponents).all()


def test_method_is_chosen_by_measurement_and_volume_by_gram_matrix() -> None:
    frame = torch.randn(8, 32, 32, dtype=torch.float64)
    assert fastest_method(frame.cuda()) in ("lu", "cholesky")
    torch.testing.assert_close(log_volume(frame.cuda()).cpu(), log_volume(frame))
