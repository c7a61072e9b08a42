"""Whole spectra of every architecture: sum rules, limits with known answers, and no surprises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectrum
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import own_jacobians
from tests.lyapunov.networks import own_states
from tests.lyapunov.networks import rotation
from tests.lyapunov.networks import state_of

D, H, B = 2, 4, 2


def zeroed(network: Any) -> Any:
    """All parameters zero, float64."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network.double()


def rotating(frequencies: tuple[float, ...]) -> Tensor:
    """A skew matrix with the eigenvalues ± i μ, in random planes."""
    planes = [torch.tensor([[0.0, mu], [-mu, 0.0]], dtype=torch.float64) for mu in frequencies]
    basis = rotation(2 * len(frequencies), seed=2)
    return basis @ torch.block_diag(*planes) @ basis.T


def descending(values: Any) -> np.ndarray:
    return -np.sort(-np.asarray(values, dtype=np.float64).ravel())


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sum_of_exponents_is_the_mean_log_determinant(name: str, gain: float) -> None:
    """ln|det| of a product is the sum of ln|det| of its factors, whatever the frames do."""
    network, kind, warmup = built(name, D, H, gain), state_of(name), 10
    inputs = noise(60, B, D, seed=1)
    spectrum = lyapunov_spectrum(
        network, inputs, warmup=warmup, state=kind, dtype=torch.float64, interval=1
    )
    states = own_states(network, inputs)[warmup:-1]
    jacobians = own_jacobians(network, inputs[warmup:], states, kind)
    exact = torch.linalg.slogdet(jacobians).logabsdet.mean(dim=0).numpy()
    assert spectrum.exponents.shape == (B, jacobians.shape[-1])
    np.testing.assert_allclose(spectrum.exponents.sum(axis=1), exact, atol=1e-10)
    if spectrum.log_abs_det is not None:
        np.testing.assert_allclose(spectrum.log_abs_det, exact, atol=1e-10)
        assert spectrum.sum_rule_residual is not None
        assert spectrum.sum_rule_residual < 1e-10


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_methods_agree(name: str) -> None:
    network, inputs = built(name, D, H, 1.0), noise(60, B, D, seed=1)
    by = {
        method: lyapunov_spectrum(
            network,
            inputs,
            state=state_of(name),
            method=method,
            dtype=torch.float64,
            interval=1,
        )
        for method in ("lu", "qr", "cholesky")
    }
    np.testing.assert_allclose(by["lu"].exponents, by["qr"].exponents, atol=1e-10)
    np.testing.assert_allclose(by["lu"].trace, by["qr"].trace, atol=1e-10)
    np.testing.assert_allclose(by["cholesky"].exponents, by["qr"].exponents, atol=1e-8)


@pytest.mark.parametrize("gated", [False, True])
def test_antisymmetric_network_at_rest(gated: bool) -> None:
    """At h = 0, J = I + ε s A with A = W − Wᵀ − γ I normal, tanh' = 1, and s = σ(0) if gated.

    The eigenvalues of A are −γ ± i μ, so that λ = ½ ln((1 − ε s γ)² + (ε s μ)²), each twice.
    """
    mus, epsilon, gamma = (0.5, 1.5, 3.0), 0.5, 0.2
    network = zeroed(cells.AntisymmetricRNN(D, 6, epsilon=epsilon, gamma=gamma, gated=gated))
    with torch.no_grad():
        network.weight_hh.copy_(0.5 * rotating(mus))
    inputs = torch.zeros(700, 1, D, dtype=torch.float64)
    spectrum = lyapunov_spectrum(network, inputs, warmup=600)
    step = epsilon * (0.5 if gated else 1.0)
    exact = [0.5 * np.log((1.0 - step * gamma) ** 2 + (step * mu) ** 2) for mu in mus]
    np.testing.assert_allclose(spectrum.mean, np.repeat(descending(exact), 2), atol=1e-11)


@pytest.mark.parametrize(
    ("gamma", "epsilon", "n_steps", "tolerance"),
    [(2.7, 4.7, 300, 1e-12), (9.0, 0.3, 3000, 1e-3)],
    ids=["overdamped", "oscillating"],
)
def test_uncoupled_oscillators(
    gamma: float, epsilon: float, n_steps: int, tolerance: float
) -> None:
    """With W = V = 0, J is one 2 × 2 block an oscillator: (y, z) -> (y + Δt z', z'),
    z' = z − Δt (γ y + ε z). Its exponents are ln|eigenvalue|; a complex pair shares its modulus,
    up to O(1/T) since its rotation is elliptic."""
    dt, size = 0.2, 3
    network = built("cornn", D, size, 1.0)
    network.dt, network.gamma, network.epsilon = dt, gamma, epsilon
    with torch.no_grad():
        network.weight_hh.zero_()
    spectrum = lyapunov_spectrum(network, noise(n_steps, 2, D), warmup=n_steps // 2)
    to_z = np.array([-dt * gamma, 1.0 - dt * epsilon])
    block = np.stack([np.array([1.0, 0.0]) + dt * to_z, to_z])
    exact = np.log(np.abs(np.linalg.eigvals(block)))
    np.testing.assert_allclose(
        spectrum.exponents, np.tile(np.repeat(descending(exact), size), (2, 1)), atol=tolerance
    )
    # The product of a block's eigenvalues is its determinant, 1 − Δt ε, in any case.
    np.testing.assert_allclose(
        spectrum.exponents.sum(axis=1), size * np.log(1.0 - dt * epsilon), atol=1e-11
    )


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_lipschitz_network_without_recurrent_weights(beta: float) -> None:
    """With W = 0, J = I + ε A, whatever the inputs: A = M + Mᵀ if β = 0, M − Mᵀ if β = 1.

    Both are normal, so that the exponents are ln|1 + ε a| over the eigenvalues a of A.
    """
    epsilon, mus = 0.5, (0.5, 1.5, 3.0)
    network = built("lipschitz", D, 6, 1.0)
    network.epsilon, network.beta, network.gamma = epsilon, beta, 0.0
    basis = rotation(6, seed=3)
    real = torch.tensor([-1.5, -1.0, -0.5, 0.0, 1.0, 2.0], dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh.zero_()
        network.weight_linear.copy_(
            0.5 * (basis @ torch.diag(real) @ basis.T if beta == 0.0 else rotating(mus))
        )
    spectrum = lyapunov_spectrum(network, noise(350, 1, D), warmup=300)
    eigenvalues = real.numpy() if beta == 0.0 else np.repeat(1j * np.array(mus), 2)
    exact = np.log(np.abs(1.0 + epsilon * eigenvalues))
    np.testing.assert_allclose(spectrum.mean, descending(exact), atol=1e-11)


@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_lem_without_recurrent_weights(dt: float) -> None:
    """z' = (1 − s) z + ..., y' = (1 − r) y + ...: J is diagonal, so that the exponents are the
    means of ln(1 − s) and ln(1 − r) with s, r = Δt σ(V x + b)."""
    size, warmup = 2, 200
    network = built("lem", D, size, 1.0)
    network.dt = dt
    with torch.no_grad():
        network.weight_hh.zero_()
        network.weight_zy.zero_()
        network.weight_ih.mul_(0.3)
        network.bias[: 2 * size] = torch.tensor([3.0, 0.0, 1.5, -2.0])
    inputs = noise(300, 1, D)
    gates = dt * torch.sigmoid(inputs @ network.weight_ih.T + network.bias)[..., : 2 * size]
    exact = torch.log1p(-gates[warmup:]).mean(dim=(0, 1)).detach().numpy()
    spectrum = lyapunov_spectrum(network, inputs, warmup=warmup)
    np.testing.assert_allclose(spectrum.mean, descending(exact), atol=1e-11)


def test_orthogonal_network_neither_stretches_nor_shrinks() -> None:
    """With its bias 0, modReLU is the identity and J = exp(A) is orthogonal."""
    network = built("exponential-modrelu", D, 7, 1.0)
    with torch.no_grad():
        network.modrelu_bias.zero_()
    spectrum = lyapunov_spectrum(network, noise(150, 3, D))
    np.testing.assert_allclose(spectrum.exponents, 0.0, atol=1e-12)
    assert spectrum.sum_rule_residual == pytest.approx(0.0, abs=1e-13)


def test_modrelu_below_its_threshold_is_dead() -> None:
    """|y| + b < 0 for all y that occur: every direction dies."""
    network = built("exponential-modrelu", D, 3, 0.1)
    with torch.no_grad():
        network.modrelu_bias.fill_(-50.0)
    spectrum = lyapunov_spectrum(network, noise(60, 1, D))
    assert np.isneginf(spectrum.exponents).all()
    assert spectrum.sum_rule_residual == 0.0


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(ARCHITECTURES)),
    size=st.integers(1, 9),
    log_gain=st.floats(np.log(0.01), np.log(30.0)),
    share=st.floats(0.0, 1.0),
    method=st.sampled_from(["auto", "lu", "qr", "cholesky"]),
    interval=st.sampled_from(["auto", 1, 3]),
    dtype=st.sampled_from(["auto", torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_never_nan_always_descending(
    name: str,
    size: int,
    log_gain: float,
    share: float,
    method: Any,
    interval: Any,
    dtype: Any,
    seed: int,
) -> None:
    network = built(name, 2, size, float(np.exp(log_gain)), seed)
    kind = state_of(name)
    inputs = noise(40, 2, 2, seed=seed)
    n = lyapunov_spectrum(network, inputs[:3], warmup=0, state=kind).state_size
    k = 1 + round(share * (n - 1))
    spectrum = lyapunov_spectrum(
        network,
        inputs,
        k=k,
        warmup=5,
        state=kind,
        method=method,
        interval=interval,
        dtype=dtype,
    )
    assert spectrum.exponents.shape == (2, k)
    assert not np.isnan(spectrum.exponents).any()
    assert (spectrum.exponents < np.inf).all()
    assert (np.diff(np.maximum(spectrum.exponents, -1e9), axis=1) <= 0.0).all()
    assert not np.isnan(spectrum.stderr).any()
    assert not np.isnan(spectrum.trace).any()
    assert spectrum.log_abs_det is None or not np.isnan(spectrum.log_abs_det).any()
