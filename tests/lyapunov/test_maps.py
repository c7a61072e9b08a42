"""Each layer's step, Jacobian and determinant against those of the module's own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov.maps import lstm as lstm_maps
from optuna_aelle.lyapunov.maps.base import DenseJacobian
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import StagedTangent
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.models import build_layers
from optuna_aelle.lyapunov.renormalization import log_volume
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import own_jacobians
from tests.lyapunov.networks import own_states
from tests.lyapunov.networks import part_sizes
from tests.lyapunov.networks import rotation
from tests.lyapunov.networks import state_of

D, H, B, T = 3, 5, 3, 2


def layer_of(networks: list[Any], state: Any = "full") -> RecurrentMap:
    (layer,) = build_layers(
        networks,
        state=state,
        reverse=False,
        device=torch.device("cpu"),
        input_dtype=torch.float64,
    )
    return layer


def trajectory_of(layer: RecurrentMap, inputs: Tensor, start: Tensor, network: Any) -> Trajectory:
    """Along ``inputs (T, M, B, D)`` from a flat state ``(B, N)`` that all models share."""
    parts = torch.split(start, part_sizes(network), dim=-1)
    return layer.unroll(
        layer.drive(inputs), layer.initial_state(inputs.shape[1], len(start), parts)
    )


def pushed(layer: RecurrentMap, trajectory: Trajectory, t: int) -> Tensor:
    """J of step t, ``(S, n, n)``, as the images of the unit vectors."""
    coefficients = tuple(c.flatten(1, 2)[t] for c in layer.linearize(trajectory))
    n_systems, n = len(coefficients[0]), layer.state_size
    frame = torch.eye(n, dtype=torch.float64).repeat(n_systems, 1, 1)
    frame = layer.to_working(tuple(part[t] for part in trajectory.before), frame)
    frame = layer.tangent(coefficients, frame)
    return layer.from_working(tuple(part[t] for part in trajectory.after), frame).mT


@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_step_and_jacobian_are_those_of_autograd(name: str, gain: float) -> None:
    """Also for two different models side by side, each along its own inputs."""
    pair = [built(name, D, H, gain, seed) for seed in (0, 1)]
    kind = state_of(name)
    inputs = noise(T, 2, B, D, seed=1)
    n_state = sum(part_sizes(pair[0]))
    start = noise(B, n_state, seed=2)

    both = layer_of(pair, kind)
    together = trajectory_of(both, inputs, start, pair[0])
    determinants = both.log_abs_det(together)
    jacobians = [pushed(both, together, t).unflatten(0, (2, B)) for t in range(T)]
    for m, network in enumerate(pair):
        states = own_states(network, inputs[:, m], start)
        exact = own_jacobians(network, inputs[:, m], states[:-1], kind)
        alone = layer_of([network], kind)
        trajectory = trajectory_of(alone, inputs[:, m : m + 1], start, network)
        after = torch.cat(together.after[: len(part_sizes(network))], dim=-1)
        torch.testing.assert_close(after[:, m], states[1:], rtol=1e-13, atol=1e-13)
        for t in range(T):
            mine = jacobians[t][m]
            torch.testing.assert_close(mine, exact[t], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(pushed(alone, trajectory, t), mine, rtol=1e-13, atol=1e-13)
        if determinants is not None:
            # Autograd's 1 − tanh² has fewer digits the more a unit is saturated.
            digits = 1e-5 if gain > 1.0 else 1e-10
            torch.testing.assert_close(
                determinants[:, m], torch.linalg.slogdet(exact).logabsdet, rtol=digits, atol=digits
            )


@pytest.mark.parametrize("name", ["rnn-tanh", "rnn-relu", "lstm", "exponential-modrelu"])
def test_closed_determinants_exist(name: str) -> None:
    network = built(name, D, H, 1.0)
    layer = layer_of([network])
    start = noise(B, sum(part_sizes(network)), seed=2)
    trajectory = trajectory_of(layer, noise(T, 1, B, D), start, network)
    assert layer.log_abs_det(trajectory) is not None


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_narrow_weights_are_those_of_tangent(name: str) -> None:
    """A float32 frame is carried by the same Jacobian, to the digits of float32."""
    network, kind = built(name, D, H, 1.0), state_of(name)
    layer = layer_of([network], kind)
    start = noise(B, sum(part_sizes(network)), seed=2)
    trajectory = trajectory_of(layer, noise(T, 1, B, D, seed=1), start, network)
    coefficients = tuple(c.flatten(1, 2)[1] for c in layer.linearize(trajectory))
    frame = noise(B, 2, layer.state_size)
    wide = layer.tangent(coefficients, frame).clone()
    layer.use_frame_dtype(torch.float32)
    narrow = layer.tangent(tuple(c.float() for c in coefficients), frame.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_what_a_map_can_do_is_what_it_is(name: str) -> None:
    """One that says that it can form its Jacobian does, and it is the one of `tangent`."""
    network, kind = built(name, D, H, 1.0), state_of(name)
    layer = layer_of([network], kind)
    staged = isinstance(network, nn.LSTM) and kind == "full"
    projected = isinstance(network, nn.LSTM) and network.proj_size > 0
    assert isinstance(layer, StagedTangent) is staged
    one_part = layer.state_size == part_sizes(network)[0]
    assert isinstance(layer, DenseJacobian) is (one_part and not projected)
    if not isinstance(layer, DenseJacobian):
        return
    start = noise(B, sum(part_sizes(network)), seed=2)
    trajectory = trajectory_of(layer, noise(T, 1, B, D, seed=1), start, network)
    coefficients = tuple(c.flatten(1, 2)[0] for c in layer.linearize(trajectory))
    eye = torch.eye(layer.state_size, dtype=torch.float64).repeat(B, 1, 1)
    images = layer.tangent(coefficients, eye).clone()
    torch.testing.assert_close(layer.jacobian_t(coefficients), images)


def shut_lstm(bias: float, n_shut: int = H, seed: int = 0) -> Any:
    lstm = built("lstm", D, H, 1.0, seed)
    with torch.no_grad():
        lstm.bias_ih_l0[H : H + n_shut] = bias
    return lstm


@pytest.mark.parametrize("k", [2 * H, 3])
@torch.no_grad()
def test_stages_carry_the_same_flag_as_one_product(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Z = J F = F' R: nested spans of F' are those of Z, and ln|diag R| is what F' lacks."""
    monkeypatch.setattr(lstm_maps, "_LOG_SHUT", 0.0)
    pair = [built("lstm", D, H, 1.0, seed) for seed in (0, 1)]
    layer = layer_of(pair)
    trajectory = trajectory_of(layer, noise(T, 2, B, D, seed=1), noise(B, 2 * H, seed=2), pair[0])
    staged = layer.delicate(trajectory)
    assert staged is not None
    frame = rotation(2 * H)[:k].repeat(2 * B, 1, 1)
    product = layer.tangent(
        tuple(c.flatten(1, 2)[1] for c in layer.linearize(trajectory)), frame.clone()
    )
    carried, growth = layer.delicate_tangent(
        tuple(c.flatten(1, 2)[1] for c in staged), frame.clone()
    )
    torch.testing.assert_close(
        growth + log_volume(carried), log_volume(product), rtol=1e-11, atol=1e-11
    )
    spans = torch.linalg.qr(product.mT).Q.mT @ torch.linalg.qr(carried.mT).Q
    eye = torch.eye(k, dtype=torch.float64).expand(2 * B, -1, -1)
    torch.testing.assert_close(spans.abs(), eye, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_shut", [2, H])
@pytest.mark.parametrize("bias", [-30.0, -2000.0])
@torch.no_grad()
def test_stages_keep_the_volume_where_forget_gates_are_shut(bias: float, n_shut: int) -> None:
    """Σ growth = ln|det J| + ln vol F − ln vol F'.

    In the rows (u' = ∂h' with c' held, dc'), J is [[K, 0], [A, diag f]], hence
    ln|det J| = ln|det K| + Σ ln f. K comes from autograd; ln f stays finite where f underflows.
    """
    lstm = shut_lstm(bias, n_shut)
    layer = layer_of([lstm])
    inputs, start = noise(1, 1, B, D, seed=1), noise(B, 2 * H, seed=2)
    trajectory = trajectory_of(layer, inputs, start, lstm)
    staged = layer.delicate(trajectory)
    assert staged is not None
    frame = rotation(2 * H).repeat(B, 1, 1)
    carried, growth = layer.delicate_tangent(
        tuple(c.flatten(1, 2)[0] for c in staged), frame.clone()
    )

    def output(h: Tensor, x: Tensor, c: Tensor) -> Tensor:
        weights = (lstm.weight_ih_l0[3 * H :] @ x, lstm.weight_hh_l0[3 * H :] @ h)
        bias = lstm.bias_ih_l0[3 * H :] + lstm.bias_hh_l0[3 * H :]
        return torch.sigmoid(weights[0] + weights[1] + bias) * torch.tanh(c)

    h, c_after = start[:, :H], own_states(lstm, inputs[:, 0], start)[1, :, H:]
    of_output = torch.func.vmap(torch.func.jacrev(output))(h, inputs[0, 0], c_after)
    forget = F.linear(inputs[0, 0], lstm.weight_ih_l0[H : 2 * H], lstm.bias_ih_l0[H : 2 * H])
    forget = forget + F.linear(h, lstm.weight_hh_l0[H : 2 * H], lstm.bias_hh_l0[H : 2 * H])
    log_det = torch.linalg.slogdet(of_output).logabsdet + F.logsigmoid(forget).sum(dim=-1)
    lost = torch.linalg.slogdet(frame).logabsdet - torch.linalg.slogdet(carried).logabsdet
    torch.testing.assert_close(growth.sum(dim=-1), log_det + lost, rtol=1e-10, atol=1e-10)
    determinant = layer.log_abs_det(trajectory)
    assert determinant is not None
    torch.testing.assert_close(determinant[0, 0], log_det, rtol=1e-11, atol=1e-11)


def test_stages_are_for_shut_gates_alone() -> None:
    open_, shut = built("lstm", D, H, 1.0), shut_lstm(-30.0, 1)
    for network, expected in ((open_, False), (shut, True)):
        layer = layer_of([network])
        trajectory = trajectory_of(
            layer, noise(T, 1, B, D), torch.zeros(B, 2 * H).double(), network
        )
        assert (layer.delicate(trajectory) is not None) is expected
