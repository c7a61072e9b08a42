"""What cannot be computed is refused with what was expected, what came, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov import systems
from optuna_aelle.lyapunov.inputs import all_finite

INPUTS = torch.zeros(40, 2, 3)


def with_nan(name: str) -> nn.LSTM:
    lstm = nn.LSTM(3, 4, num_layers=2)
    with torch.no_grad():
        dict(lstm.named_parameters())[name][0] = math.nan
    return lstm


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l0"])
def test_non_finite_weights_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"parameter '{name}'.*diverged"):
        lyapunov_spectrum(with_nan(name), INPUTS)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (nn.GRU(3, 4), torch.full((40, 2, 3), math.inf), {}, "finite inputs, got .* in 'inputs'"),
        (nn.GRU(3, 4), torch.zeros(20, 2, 3), {}, "more steps than warmup, got T = 20 with warm"),
        (
            nn.GRU(3, 4),
            torch.zeros(40, 2, 3),
            {"warmup": -1},
            "warmup must .* 0, but got -1",
        ),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"k": 0}, "k must be .*at least 1, but got 0"),
        (nn.LSTM(3, 4), torch.zeros(40, 2, 3), {"k": 9}, r"k must be in \[1, 8\].*got 9"),
        (nn.GRU(3, 4), torch.zeros(40, 0, 3), {}, r"empty batch: shape \(40, 0, 3\)"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 5), {}, r"D = 3, got \(40, 2, 5\)"),
        (nn.GRU(3, 4, batch_first=True), torch.zeros(2, 40, 5), {}, r"\(B, T, D\) with D = 3"),
        (nn.GRU(3, 4), torch.zeros(40), {}, r"expected inputs of shape .* got \(40,\)"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3).long(), {}, "tensor of floats, got torch.int64"),
        (nn.Linear(3, 4), torch.zeros(40, 2, 3), {}, "known, found none"),
        (
            nn.Sequential(nn.GRU(3, 4), nn.LSTM(4, 4)),
            torch.zeros(40, 2, 3),
            {},
            r"running it failed .* holds 2 recurrent parts \(0, 1\)",
        ),
        (nn.GRU(3, 4, bidirectional=True), torch.zeros(40, 2, 3), {}, "Expected a direction"),
        (nn.GRU(3, 4, 2, bidirectional=True), torch.zeros(40, 2, 3), {}, "Expected a direction"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"direction": "backward"}, "direction must be"),
        (nn.LSTM(3, 4, proj_size=2), torch.zeros(40, 2, 3), {"k": 7}, r"k must be in \[1, 6\]"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"method": "svd"}, "method must be .* got 'svd'"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"state": "cell"}, "state must be .* got 'cell'"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"interval": 0}, "interval must be"),
        (nn.GRU(3, 4), torch.zeros(40, 2, 3), {"dtype": torch.int32}, "dtype must be a floating"),
        (
            nn.LSTM(3, 4),
            torch.zeros(40, 2, 3),
            {"initial_state": torch.zeros(1, 2, 4)},
            r"2 tensor\(s\) of shape \(1, 2, 4\)",
        ),
        (
            nn.GRU(3, 4),
            torch.zeros(40, 2, 3),
            {"initial_state": torch.full((2, 4), math.nan)},
            "finite initial_state",
        ),
        (
            from_step(lambda x, h: h[:, :1], 3),
            torch.zeros(40, 2, 0),
            {},
            r"state of shape \(2, 3\), got \(2, 1\)",
        ),
    ],
)
def test_refusals(model: Any, inputs: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(model, inputs, **options)


def test_what_is_no_network_at_all() -> None:
    with pytest.raises(TypeError, match="got function.*from_step"):
        lyapunov_spectrum(lambda x, h: h, INPUTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("compute", [lyapunov_spectrum, spectral_fingerprint])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            np.zeros((40, 2, 3)),
            r"got a numpy array of dtype float64 and shape \(40, 2, 3\). Pass torch.from_numpy",
        ),
        (np.zeros((40, 2), dtype=np.int64), r"numpy array of dtype int64 and shape \(40, 2\)"),
        (np.zeros((40, 2, 3)).tolist(), r"got a list of 40 \(list\). Pass torch.as_tensor"),
        ([INPUTS, INPUTS], r"got a list of 2 \(Tensor\). Pass one tensor, such as torch.stack"),
        ((), r"got a tuple of 0 \(nothing\)"),
        (None, "got an object of type NoneType. Pass torch.as_tensor"),
    ],
    ids=["floats", "integers", "list", "tensors", "empty", "none"],
)
def test_what_is_no_tensor_is_described(
    compute: Callable[..., Any], inputs: Any, message: str
) -> None:
    with pytest.raises(TypeError, match="torch tensor or a PackedSequence, .*" + message):
        compute(nn.GRU(3, 4), inputs)


def test_what_is_no_tensor_is_described_for_many_models_too() -> None:
    networks = [nn.GRU(3, 4), nn.GRU(3, 4)]
    with pytest.raises(TypeError, match="numpy array of dtype float64 and shape"):
        lyapunov_spectra(networks, np.zeros((40, 2, 3)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"models\[0\]: .*numpy array"):
        lyapunov_spectra(networks, [np.zeros((40, 2, 3))] * 2)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"got a list of 2 \(list\)"):
        lyapunov_spectra(networks, np.zeros((40, 2, 3)).tolist())


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(torch.int64, "Embed tokens"), (torch.bool, "inputs.float"), (torch.complex64, "imaginary")],
)
def test_tensors_of_other_dtypes(dtype: torch.dtype, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"tensor of floats, got {dtype}. .*{remedy}"):
        lyapunov_spectrum(nn.GRU(3, 4), INPUTS.to(dtype))


def test_a_complex_initial_state_is_refused() -> None:
    start = torch.zeros(1, 2, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="initial_state as real numbers, got complex"):
        lyapunov_spectrum(nn.GRU(3, 4), INPUTS, initial_state=start)


@pytest.mark.parametrize(
    ("values", "is_finite"),
    [
        (torch.full((9,), 3e38), True),  # whose sum is not
        (torch.tensor([3e38, 3e38, -torch.inf]), False),
        (torch.tensor([1.0, torch.nan]), False),
        (torch.tensor([1.0 + 2.0j]), True),
        (torch.tensor([complex(0.0, torch.inf)]), False),
        (torch.tensor([2, 3]), True),
        (torch.zeros(0), True),
        (torch.ones(3, requires_grad=True), True),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_seen(values: torch.Tensor, is_finite: bool) -> None:
    assert all_finite(values) == is_finite


class OfComplex(nn.Module):
    """A model whose own layers turn complex numbers to real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.rnn(x.abs().log())[0]
        return out


def test_models_of_complex_inputs_are_told_what_they_feed() -> None:
    assert lyapunov_spectrum(OfComplex(), INPUTS.to(torch.complex64) + 1.0).state_size == 4
    with pytest.raises(ValueError, match="feed finite numbers to 'rnn'"):
        lyapunov_spectrum(OfComplex(), INPUTS.to(torch.complex64))


def test_overflowing_state_is_named() -> None:
    rnn = nn.RNN(1, 4, nonlinearity="relu", bias=False)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(1e30)
        rnn.weight_ih_l0.fill_(1.0)
    with pytest.raises(FloatingPointError, match="overflowed"):
        lyapunov_spectrum(rnn, torch.ones(60, 1, 1))


@pytest.mark.parametrize("sizes", [{"state_size": 0}, {"state_size": 2, "input_size": -1}])
def test_step_models_have_sizes(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        from_step(lambda x, h: h, **sizes)


def test_fingerprint_refuses_as_the_full_spectrum_does() -> None:
    with pytest.raises(ValueError, match="parameter 'weight_hh_l0'"):
        spectral_fingerprint(with_nan("weight_hh_l0"), INPUTS.nan_to_num())


def test_periodic_system_wants_square_matrices() -> None:
    with pytest.raises(ValueError, match="square matrices"):
        systems.periodic_linear([[[1.0, 2.0]]])
