"""What is averaged, and for how long: stopping at a standard error, and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import lyapunov_spectrum
from tests.lyapunov.networks import built
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise

D, H, B = 2, 6, 2


@pytest.mark.parametrize("name", ["rnn-tanh", "lstm"])
def test_it_stops_once_the_mean_is_known(name: str) -> None:
    network, inputs = built(name, D, H, 1.0), noise(600, 4, D)
    whole = lyapunov_spectrum(network, inputs)
    target = 3.0 * float(whole.stderr.max())
    stopped = lyapunov_spectrum(network, inputs, target_stderr=target)
    assert (stopped.stderr <= target).all()
    assert stopped.n_steps < whole.n_steps
    assert stopped.trace_steps[-1] == stopped.n_steps
    np.testing.assert_allclose(stopped.trace[-1].sum(), stopped.mean.sum(), atol=1e-10)
    shorter = lyapunov_spectrum(network, inputs[: stopped.n_steps + 20])
    np.testing.assert_allclose(stopped.exponents, shorter.exponents, atol=1e-7)
    if stopped.log_abs_det is not None:
        assert stopped.sum_rule_residual is not None
        assert stopped.sum_rule_residual < 1e-8
    beyond = lyapunov_spectrum(network, inputs, target_stderr=1e-9)
    assert beyond.n_steps == whole.n_steps
    np.testing.assert_allclose(beyond.exponents, whole.exponents, atol=1e-7)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("module", [nn.RNN, nn.LSTM])
def test_windows_add_up_to_the_whole(module: Any, layers: int, k: int | None) -> None:
    """Sums of growth telescope: the mean over the windows is exact, not approximate."""
    network, inputs = gaussian_(module(D, H, num_layers=layers), 1.0), noise(140, B, D)
    spectrum = lyapunov_spectrum(network, inputs, window=24, k=k, interval=1)
    windows = spectrum.window_exponents
    assert windows is not None
    assert windows.shape == (5, *spectrum.exponents.shape)
    mean = -np.sort(-windows.mean(axis=0), axis=1)
    np.testing.assert_allclose(mean, spectrum.exponents, atol=1e-10)
    # A part of a window at the end belongs to the average, but is no window.
    longer = lyapunov_spectrum(network, noise(150, B, D), window=24, k=k, interval=1)
    assert longer.window_exponents is not None
    assert longer.window_exponents.shape == windows.shape
    assert longer.n_steps == longer.trace_steps[-1] == 130


def test_windows_of_dying_directions_are_dead() -> None:
    rnn = built("rnn-relu", 1, 3, 0.1)
    with torch.no_grad():
        rnn.bias_hh_l0.fill_(1.0)
        rnn.weight_ih_l0.copy_(torch.tensor([[-9.0], [0.0], [0.0]]))
    inputs = torch.zeros(60, 1, 1, dtype=torch.float64)
    inputs[30:] = 1.0
    windows = lyapunov_spectrum(rnn, inputs, warmup=0, window=20).window_exponents
    assert windows is not None
    np.testing.assert_array_equal(np.isneginf(windows).sum(axis=2)[:, 0], [0, 1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svd"}, "method must be one of .*got 'svd'"),
        ({"dtype": torch.float16}, "dtype must be .*got torch.float16"),
        ({"interval": 0}, "interval must be .*at least 1 or 'auto', but got 0"),
        ({"layers": "all"}, "layers must be one of 'union', 'coupled', but got 'all'"),
        ({"target_stderr": 0.0}, "target_stderr must be positive, but got 0.0"),
        ({"target_stderr": float("nan")}, "target_stderr must be positive"),
        ({"window": 0}, "window must be .*at least 1, but got 0"),
        ({"window": 21}, "window must be at most the 20 steps after the warm-up, but got 21"),
        ({"window": 5, "lengths": [40, 30]}, "of equal length, got lengths from 30 to 40"),
        ({"target_stderr": 0.1, "lengths": [40, 30]}, "of equal length"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(nn.GRU(D, H), torch.zeros(40, 2, D), **options)


def test_one_sequence_has_no_standard_error_to_aim_at() -> None:
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        lyapunov_spectrum(nn.GRU(D, H), torch.zeros(40, 1, D), target_stderr=0.1)
