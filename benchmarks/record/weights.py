"""What does an untrained network look like? Its weights, from a configuration and a generator.

Notation: D inputs, H units, n gates, O outputs, T steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.record.spaces import WITHOUT_MATRIX
from benchmarks.record.spaces import Params

N_GATES = {
    "rnn": 1,
    "gru": 3,
    "lstm": 4,
    "antisymmetric": 1,
    "cornn": 1,
    "lem": 4,
    "relu": 1,
    "mingru": 2,
    "minlstm": 3,
    "lipschitz": 1,
}
# Two matrices side by side: that of both parts of the state, or of a linear and a nonlinear flow.
DOUBLE = ("cornn", "lipschitz")


def initial_weights(
    params: Params,
    cell: str,
    n_layers: int,
    n_inputs: int,
    n_outputs: int,
    n_steps: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The weights of one network by name; ``ih0 (n H, D)`` is the first layer's input matrix."""
    size, n_gates = params["hidden_size"], N_GATES[cell]
    width = 2 * size if cell in DOUBLE else size
    gain = params.get("init_gain", 1.0)
    weights = {}
    for layer in range(n_layers):
        fan_in = n_inputs if layer == 0 else size
        normal = torch.randn(n_gates * size, fan_in, generator=generator)
        weights[f"ih{layer}"] = normal / math.sqrt(fan_in)
        if cell in WITHOUT_MATRIX:
            weights[f"ih{layer}"] = gain * weights[f"ih{layer}"]
        else:
            blocks = [
                _recurrent_block(params.get("init_scheme", "normal"), size, generator)
                for _ in range(n_gates * (width // size))
            ]
            matrix = torch.cat(blocks).view(n_gates, -1, size, size)
            matrix = matrix.transpose(1, 2).reshape(n_gates * size, width)
            weights[f"hh{layer}"] = gain * matrix
        weights[f"bias{layer}"] = _bias(params, cell, size, n_steps, generator)
    bound = 1.0 / math.sqrt(size)
    weights["out"] = bound * (2.0 * torch.rand(n_outputs, size, generator=generator) - 1.0)
    weights["out_bias"] = torch.zeros(n_outputs)
    return weights


def _recurrent_block(scheme: str, size: int, generator: torch.Generator) -> Tensor:
    """One (H, H) block at gain 1."""
    if scheme == "identity":
        return torch.eye(size)
    if scheme == "uniform":
        return (2.0 * torch.rand(size, size, generator=generator) - 1.0) / math.sqrt(size)
    if scheme == "glorot":
        return (2.0 * torch.rand(size, size, generator=generator) - 1.0) * math.sqrt(3.0 / size)
    normal = torch.randn(size, size, generator=generator)
    if scheme == "orthogonal":
        q, r = torch.linalg.qr(normal)
        rotation: Tensor = q * torch.sign(torch.diagonal(r))
        return rotation
    return normal / math.sqrt(size)


def _bias(
    params: Params, cell: str, size: int, n_steps: int, generator: torch.Generator
) -> Tensor:
    """Zero; for the gate that keeps the old state, what the configuration asks for.

    Chrono: ln U(1, T − 1) for the forget gate, its negative for the input gate (Tallec and
    Ollivier, arXiv 1804.11188). The second gate is the LSTM's forget gate and the GRU's update
    gate, which in torch keeps the old state where it is open; likewise in their minimal forms.
    """
    bias = torch.zeros(N_GATES[cell], size)
    if params.get("gate_bias") == "chrono":
        times = 1.0 + (n_steps - 2) * torch.rand(size, generator=generator)
        bias[1] = times.log()
        if cell in ("lstm", "minlstm"):
            bias[0] = -bias[1]
    elif "gate_bias_value" in params:
        bias[1] = params["gate_bias_value"]
    return bias.flatten()
