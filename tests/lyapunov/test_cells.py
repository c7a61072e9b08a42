"""The package's own networks: their equations, their interface, and that they train."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import cells
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise

D, H, B, T = 2, 6, 3, 7
OWN = [
    name for name, build in ARCHITECTURES.items() if isinstance(build(1, 1), cells.RecurrentLayer)
]
Array = np.ndarray


def sigmoid(y: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-y))


def antisymmetric(p: dict[str, Array], cell: Any, x: Array, h: Array) -> tuple[Array, ...]:
    a = p["weight_hh"] - p["weight_hh"].T - cell.gamma * np.eye(H)
    pre = p["weight_ih"] @ x + p["bias"]
    gate = sigmoid(a @ h + pre[H:]) if cell.gated else 1.0
    return (h + cell.epsilon * gate * np.tanh(a @ h + pre[:H]),)


def cornn(p: dict[str, Array], cell: Any, x: Array, y: Array, z: Array) -> tuple[Array, ...]:
    w, v = p["weight_hh"][:, :H], p["weight_hh"][:, H:]
    force = np.tanh(w @ y + v @ z + p["weight_ih"] @ x + p["bias"])
    z = z + cell.dt * (force - cell.gamma * y - cell.epsilon * z)
    return y + cell.dt * z, z


def lipschitz(p: dict[str, Array], cell: Any, x: Array, h: Array) -> tuple[Array, ...]:
    a, w = (
        (1 - cell.beta) * (m + m.T) + cell.beta * (m - m.T) - cell.gamma * np.eye(H)
        for m in (p["weight_linear"], p["weight_hh"])
    )
    flow = a @ h + np.tanh(w @ h + p["weight_ih"] @ x + p["bias"])
    return (h + cell.epsilon * flow,)


def lem(p: dict[str, Array], cell: Any, x: Array, y: Array, z: Array) -> tuple[Array, ...]:
    v, b = p["weight_ih"].reshape(4, H, D), p["bias"].reshape(4, H)
    w = p["weight_hh"].reshape(3, H, H)
    s = cell.dt * sigmoid(w[0] @ y + v[0] @ x + b[0])
    r = cell.dt * sigmoid(w[1] @ y + v[1] @ x + b[1])
    z = (1 - s) * z + s * np.tanh(w[2] @ y + v[2] @ x + b[2])
    return (1 - r) * y + r * np.tanh(p["weight_zy"] @ z + v[3] @ x + b[3]), z


def slstm(
    p: dict[str, Array], cell: Any, x: Array, h: Array, content: Array, log_n: Array
) -> tuple[Array, ...]:
    """As it stands in the paper, in c and n."""
    recurrent = np.concatenate([gate[0] @ h for gate in p["weight_hh"]])
    i, f, z, o = (p["weight_ih"] @ x + recurrent + p["bias"]).reshape(4, H)
    n = np.exp(log_n)
    c = content * n
    c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
    n = sigmoid(f) * n + np.exp(i)
    return sigmoid(o) * c / n, c / n, np.log(n)


def exponential(p: dict[str, Array], cell: Any, x: Array, h: Array) -> tuple[Array, ...]:
    upper = np.triu(p["weight_hh"], 1)
    values, vectors = np.linalg.eig(upper - upper.T)
    matrix = (vectors * np.exp(values) @ np.linalg.inv(vectors)).real
    y = matrix @ h + p["weight_ih"] @ x + p["bias"]
    if cell.nonlinearity == "tanh":
        return (np.tanh(y),)
    return (np.sign(y) * np.maximum(np.abs(y) + p["modrelu_bias"], 0.0),)


EQUATIONS: dict[type[nn.Module], Callable[..., tuple[Array, ...]]] = {
    cells.AntisymmetricRNN: antisymmetric,
    cells.CoRNN: cornn,
    cells.LipschitzRNN: lipschitz,
    cells.LEM: lem,
    cells.ExponentialRNN: exponential,
    cells.SLSTM: slstm,
}


def as_tuple(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_forward_is_the_equation_of_the_paper(name: str) -> None:
    cell = gaussian_(ARCHITECTURES[name](D, H), 1.0)
    inputs = noise(T, B, D, seed=1)
    start = tuple(noise(1, B, H, seed=2 + part) for part in range(cell.n_parts))
    outputs, final = cell(inputs, start if len(start) > 1 else start[0])
    assert outputs.dtype == torch.float64
    values = {key: value.numpy() for key, value in cell.named_parameters()}
    for b in range(B):
        state = tuple(part[0, b].numpy() for part in start)
        for t in range(T):
            state = EQUATIONS[type(cell)](values, cell, inputs[t, b].numpy(), *state)
            np.testing.assert_allclose(outputs[t, b], state[0], rtol=1e-12, atol=1e-12)
        for mine, part in zip(as_tuple(final), state, strict=True):
            np.testing.assert_allclose(mine[0, b], part, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_layouts_give_the_same_outputs(name: str) -> None:
    cell = ARCHITECTURES[name](D, H).double()
    twin = ARCHITECTURES[name](D, H, batch_first=True).double()
    twin.load_state_dict(cell.state_dict())
    inputs = noise(T, B, D)
    outputs, final = cell(inputs)
    assert outputs.shape == (T, B, H)
    assert all(part.shape == (1, B, H) for part in as_tuple(final))
    first, last = twin(inputs.transpose(0, 1))
    torch.testing.assert_close(first.transpose(0, 1), outputs)
    torch.testing.assert_close(last, final)
    for network in (cell, twin):
        alone, ended = network(inputs[:, 1])
        assert alone.shape == (T, H)
        torch.testing.assert_close(alone, outputs[:, 1])
        for mine, part in zip(as_tuple(ended), as_tuple(final), strict=True):
            torch.testing.assert_close(mine, part[:, 1])


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_returned_state_continues_the_sequence(name: str) -> None:
    cell = gaussian_(ARCHITECTURES[name](D, H), 1.0)
    inputs = noise(T, B, D)
    outputs, final = cell(inputs)
    first, between = cell(inputs[:3])
    second, end = cell(inputs[3:], between)
    torch.testing.assert_close(torch.cat([first, second]), outputs, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(end, final, rtol=1e-14, atol=1e-14)
    _, one = cell(inputs[:3, 0])
    continued, _ = cell(inputs[3:, 0], one)
    torch.testing.assert_close(continued, outputs[3:, 0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", OWN)
def test_it_trains(name: str) -> None:
    """Whether the sum of a short sequence is positive, learned from 64 of them."""
    torch.manual_seed(0)
    cell = ARCHITECTURES[name](1, 16)
    if isinstance(cell, cells.CoRNN):
        # Its usual time step is for hundreds of inputs.
        cell.dt = 0.3
    readout = nn.Linear(16, 1)
    parameters = [*cell.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    inputs = torch.randn(8, 64, 1)
    labels = (inputs.sum(dim=0) > 0.0).float()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(readout(cell(inputs)[0][-1]), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for key, parameter in cell.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0.0, key


@pytest.mark.parametrize("name", OWN)
def test_it_can_be_stored_copied_and_shown(name: str) -> None:
    cell = ARCHITECTURES[name](D, H, batch_first=True)
    inputs = torch.randn(B, T, D)
    expected = cell(inputs)[0]
    twin = ARCHITECTURES[name](D, H, batch_first=True)
    assert not torch.equal(twin(inputs)[0], expected)
    twin.load_state_dict(cell.state_dict())
    assert torch.equal(twin(inputs)[0], expected)
    assert torch.equal(copy.deepcopy(cell)(inputs)[0], expected)
    file = io.BytesIO()
    torch.save(cell, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(inputs)[0], expected)
    assert repr(loaded) == repr(cell)
    assert repr(cell).startswith(f"{type(cell).__name__}({D}, {H}, ")
    assert "batch_first=True" in repr(cell)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (
            cells.AntisymmetricRNN(1, 2, epsilon=0.5, gamma=0.25, gated=True),
            "epsilon=0.5, gamma=0.25, gated=True",
        ),
        (cells.CoRNN(1, 2, dt=0.5, gamma=2.0, epsilon=3.0), "dt=0.5, gamma=2.0, epsilon=3.0"),
        (
            cells.LipschitzRNN(1, 2, epsilon=0.5, beta=0.25, gamma=0.125),
            "epsilon=0.5, beta=0.25, gamma=0.125",
        ),
        (cells.LEM(1, 2, dt=0.25), "dt=0.25"),
        (cells.ExponentialRNN(1, 2, nonlinearity="tanh"), "nonlinearity=tanh"),
    ],
)
def test_repr_shows_the_settings(cell: nn.Module, shown: str) -> None:
    assert shown in repr(cell)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_recurrent_matrix_of_an_orthogonal_network_is_orthogonal(size: int) -> None:
    torch.manual_seed(0)
    cell = cells.ExponentialRNN(1, size)
    with torch.no_grad():
        cell.weight_hh.add_(torch.randn(size, size))
        (matrix,) = cell.recurrent_weights()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), rtol=0.0, atol=1e-5)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells.CoRNN(0, 4), "must be at least 1, but got 0 and 4"),
        (lambda: cells.LEM(2, 0), "must be at least 1, but got 2 and 0"),
        (lambda: cells.ExponentialRNN(1, 4, nonlinearity="relu"), "'tanh', but got 'relu'"),
        (lambda: cells.LEM(2, 4)(torch.zeros(5, 3, 1)), r"D = 2, got \(5, 3, 1\)"),
        (lambda: cells.LEM(2, 4)(torch.zeros(2)), r"D = 2, got \(2,\)"),
        (
            lambda: cells.CoRNN(2, 4)(torch.zeros(5, 3, 2), torch.zeros(1, 3, 4)),
            r"2 tensor\(s\) of shape \(1, 3, 4\), got \[\(1, 3, 4\)\]",
        ),
        (
            lambda: cells.LipschitzRNN(2, 4)(torch.zeros(5, 3, 2), torch.zeros(1, 4, 3)),
            r"1 tensor\(s\) of shape \(1, 3, 4\), got \[\(1, 4, 3\)\]",
        ),
    ],
)
def test_errors_say_what_was_expected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
