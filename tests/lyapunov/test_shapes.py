"""Sequences of several lengths; stacks, their directions, projections and coupling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from optuna_aelle.lyapunov import lyapunov_spectrum
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import state_of

D, H = 2, 4
# Below, at and above the 64 steps that are taken at once.
LENGTHS = [30, 64, 65, 150]


def padded(lengths: list[int], size: int = D, value: float = float("nan")) -> Tensor:
    inputs = noise(max(lengths), len(lengths), size, seed=3)
    for b, end in enumerate(lengths):
        inputs[end:, b] = value
    return inputs


def alone(network: Any, inputs: Tensor, lengths: list[int], **options: Any) -> np.ndarray:
    """Each sequence by itself, ``(B, k)``."""
    return np.concatenate(
        [
            lyapunov_spectrum(network, inputs[:end, b], **options).exponents
            for b, end in enumerate(lengths)
        ]
    )


@pytest.mark.parametrize("method", ["lu", "qr", "cholesky"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_sequence_has_the_exponents_that_it_has_alone(name: str, method: Any) -> None:
    network, inputs = built(name, D, H, 0.7), padded(LENGTHS)
    options = {"state": state_of(name), "method": method, "interval": 1, "warmup": 7}
    together = lyapunov_spectrum(network, inputs, lengths=LENGTHS, **options)
    tolerance = 1e-8 if method == "cholesky" else 1e-10
    np.testing.assert_allclose(
        together.exponents, alone(network, inputs, LENGTHS, **options), atol=tolerance
    )
    if together.log_abs_det is not None:
        assert together.sum_rule_residual is not None
        assert together.sum_rule_residual < tolerance
    assert together.n_steps == max(LENGTHS) - 7
    np.testing.assert_allclose(together.trace[-1].sum(), together.mean.sum(), atol=1e-9)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences(layers: int, batch_first: bool, enforce_sorted: bool) -> None:
    lstm = gaussian_(nn.LSTM(D, H, num_layers=layers, batch_first=batch_first), 1.0)
    lengths = sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS
    inputs = padded(lengths, value=7.0)
    packed = pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    expected = alone(lstm, inputs, lengths, interval=1)
    spectrum = lyapunov_spectrum(lstm, packed, interval=1)
    np.testing.assert_allclose(spectrum.exponents, expected, atol=1e-10)
    given = inputs.transpose(0, 1) if batch_first else inputs
    by_lengths = lyapunov_spectrum(lstm, given, lengths=torch.tensor(lengths), interval=1)
    np.testing.assert_array_equal(spectrum.exponents, by_lengths.exponents)
    with pytest.raises(ValueError, match="lengths=None with a PackedSequence"):
        lyapunov_spectrum(lstm, packed, lengths=lengths)


def test_what_comes_after_the_end_of_a_sequence_does_not_happen() -> None:
    """A growing direction overflows only on the zeros that stand after the end."""
    rnn = nn.RNN(1, 2, nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.diag(torch.tensor([1e3, 1e2])))
        rnn.weight_ih_l0.fill_(1.0)
    inputs = torch.full((300, 2, 1), -1.0, dtype=torch.float64)
    inputs[:, 0] = 1.0
    spectrum = lyapunov_spectrum(rnn, inputs, lengths=[30, 300])
    np.testing.assert_allclose(spectrum.exponents[0], np.log([1e3, 1e2]), atol=1e-12)
    assert np.isneginf(spectrum.exponents[1]).all()


def test_lengths_are_checked() -> None:
    gru, inputs = nn.GRU(D, H), torch.zeros(40, 2, D)
    with pytest.raises(ValueError, match="finite inputs, got 2 NaN"):
        # The one at step 29 is inside of the sequence.
        lyapunov_spectrum(gru, padded([29, 40]), lengths=[30, 40])
    for lengths in ([40], [40, 41], [0, 40]):
        with pytest.raises(ValueError, match=r"lengths as 2 numbers of steps in \[1, 40\]"):
            lyapunov_spectrum(gru, inputs, lengths=lengths)
    with pytest.raises(ValueError, match="more steps than warmup, got T = 20 with warmup = 20"):
        lyapunov_spectrum(gru, inputs, lengths=[40, 20])


def one_direction(both: nn.GRU, suffix: str) -> Any:
    """One direction of one layer as a network of its own; ``suffix`` such as ``"_l1_reverse"``."""
    weights = both.state_dict()
    own = {key: weights[key.removesuffix("_l0") + suffix] for key in nn.GRU(1, 1).state_dict()}
    network = nn.GRU(own["weight_ih_l0"].shape[1], both.hidden_size).double()
    network.load_state_dict(own)
    return network


@pytest.mark.parametrize("lengths", [[100, 100], [100, 70]])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_directions_of_a_stack(direction: Any, lengths: list[int]) -> None:
    """One direction of a stack is the union of its layers, which read both directions below."""
    both = gaussian_(nn.GRU(D, H, num_layers=2, bidirectional=True), 1.0)
    inputs, start = noise(100, 2, D), noise(4, 2, H, seed=5)
    spectrum = lyapunov_spectrum(
        both, inputs, direction=direction, lengths=lengths, initial_state=start, interval=1
    )
    backward = direction == "backward"
    suffix = "_reverse" if backward else ""
    for b, end in enumerate(lengths):
        seen, expected = inputs[:end, b : b + 1], []
        for layer in range(2):
            networks = [one_direction(both, f"_l{layer}{s}") for s in ("", "_reverse")]
            starts = start[2 * layer : 2 * layer + 2, None, b : b + 1]
            expected.append(
                lyapunov_spectrum(
                    one_direction(both, f"_l{layer}{suffix}"),
                    seen.flip(0) if backward else seen,
                    initial_state=starts[int(backward)],
                    interval=1,
                ).exponents[0]
            )
            outputs = [
                networks[0](seen, starts[0])[0],
                networks[1](seen.flip(0), starts[1])[0].flip(0),
            ]
            seen = torch.cat(outputs, dim=-1).detach()
        whole, _ = both(inputs[:end, b : b + 1], start[:, b : b + 1].contiguous())
        torch.testing.assert_close(seen, whole.detach())
        union = -np.sort(-np.concatenate(expected))
        np.testing.assert_allclose(spectrum.exponents[b], union, atol=1e-10)


@pytest.mark.parametrize("state", ["full", "hidden"])
def test_projected_stack_is_the_union_of_its_layers(state: Any) -> None:
    stack = gaussian_(nn.LSTM(D, 5, num_layers=2, proj_size=3), 1.0)
    inputs, expected = noise(90, 2, D), []
    seen = inputs
    for layer in range(2):
        own = nn.LSTM(seen.shape[-1], 5, proj_size=3).double()
        own.load_state_dict(
            {key: stack.state_dict()[key.replace("_l0", f"_l{layer}")] for key in own.state_dict()}
        )
        expected.append(lyapunov_spectrum(own, seen, state=state, interval=1).exponents)
        seen = own(seen)[0].detach()
    spectrum = lyapunov_spectrum(stack, inputs, state=state, interval=1)
    assert spectrum.state_size == (16 if state == "full" else 6)
    union = -np.sort(-np.concatenate(expected, axis=1), axis=1)
    np.testing.assert_allclose(spectrum.exponents, union, atol=1e-10)


@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
def test_coupled_layers_have_the_exponents_of_the_union(module: Any) -> None:
    """The Jacobian of a stack is block-triangular, so that both are the same in the long run."""
    stack, inputs = gaussian_(module(D, 3, num_layers=2), 1.0), noise(1200, 1, D)
    union, coupled = (
        lyapunov_spectrum(stack, inputs, warmup=200, layers=layers)
        for layers in ("union", "coupled")
    )
    np.testing.assert_allclose(coupled.mean, union.mean, atol=5e-3)
    assert coupled.state_size == union.state_size


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_single_layer_is_coupled_already(name: str) -> None:
    if state_of(name) == "hidden":
        pytest.skip("∂h/∂h is no map of a state")
    network, inputs = built(name, D, H, 1.0), noise(60, 2, D)
    union, coupled = (
        lyapunov_spectrum(network, inputs, layers=layers) for layers in ("union", "coupled")
    )
    np.testing.assert_allclose(coupled.exponents, union.exponents, atol=1e-8)


def test_what_cannot_be_coupled() -> None:
    inputs = torch.zeros(40, 2, D)
    both = nn.GRU(D, H, num_layers=2, bidirectional=True)
    with pytest.raises(ValueError, match="expects a one-directional stack"):
        lyapunov_spectrum(both, inputs, direction="forward", layers="coupled")
    with pytest.raises(ValueError, match="expected state='full', got state='hidden'"):
        lyapunov_spectrum(nn.LSTM(D, H), inputs, state="hidden", layers="coupled")
