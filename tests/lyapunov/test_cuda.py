"""The same numbers on a CUDA device as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import lyapunov_spectrum

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("method", ["lu", "qr"])
@pytest.mark.parametrize("state", ["full", "hidden"])
@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_device_agrees_with_cpu(module: Any, state: Any, method: Any) -> None:
    torch.manual_seed(0)
    network = module(3, 20, num_layers=2)
    inputs = torch.randn(80, 4, 3)
    on_cpu = lyapunov_spectrum(network, inputs, state=state, method=method)
    on_device = lyapunov_spectrum(network.cuda(), inputs, state=state, method=method)
    np.testing.assert_allclose(on_device.exponents, on_cpu.exponents, atol=1e-8)
