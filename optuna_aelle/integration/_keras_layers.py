"""The recurrent layers of Keras models, as PyTorch's own where they are the same map.

Notation: H units, D inputs. Keras keeps its matrices as (D, 3 H) and (H, 3 H), transposed to
PyTorch's, and the gates of a GRU in the order update, reset, candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import nn

from optuna_aelle.integration._keras_backend import check_backend
from optuna_aelle.integration._keras_backend import keras
from optuna_aelle.lyapunov import StepModel
from optuna_aelle.lyapunov import from_step


class KerasNetwork(nn.Module):
    """A Keras model on torch, as the engine takes it; made by `keras_network`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        # Not as a submodule: Keras keeps track of its own.
        self._held = (model,)

    def recurrent_layers(self, inputs: Tensor) -> dict[str, tuple[Any, Tensor]]:
        """Its recurrent layers, each with what it reads as the model runs on ``inputs``."""
        (model,) = self._held
        layers = [x for x in model._flatten_layers() if isinstance(x, keras.layers.RNN)]
        if not layers:
            raise ValueError(
                f"Expected recurrent layers, keras.layers.RNN, LSTM or such, but '{model.name}' "
                "has none."
            )
        read: dict[str, Tensor] = {}
        with torch.no_grad(), _noted(layers, read):
            model(inputs, training=False)
        return {
            layer.path: (_network(layer, read[layer.path]), read[layer.path])
            for layer in layers
            if layer.path in read
        }


def keras_network(model: Any) -> KerasNetwork:
    """Make a Keras 3 model on torch one that `lyapunov_spectrum` and `report_network` take.

    Its recurrent layers are `keras.layers.RNN` with cells of any kind: LSTM, GRU, SimpleRNN,
    stacks of them and cells of your own. Both layers of a ``Bidirectional`` count. Masks are not
    seen.

    Args:
        model: Built, or called once.

    Example:
        >>> model = keras.Sequential([keras.layers.LSTM(8), keras.layers.Dense(1)])
        >>> _ = model(torch.zeros(2, 30, 3))
        >>> from optuna_aelle import spectral_fingerprint
        >>> spectral_fingerprint(keras_network(model), torch.randn(2, 40, 3)).exponents.shape
        (2, 16)
    """
    check_backend()
    return KerasNetwork(model)


@contextmanager
def _noted(layers: list[Any], read: dict[str, Tensor]) -> Iterator[None]:
    """Note what each layer is called with first; in its order of time."""

    def noting(layer: Any) -> Any:
        call = layer.call

        def note(sequences: Tensor, *args: Any, **kwargs: Any) -> Any:
            if layer.path not in read:
                read[layer.path] = sequences.flip(1) if layer.go_backwards else sequences
            return call(sequences, *args, **kwargs)

        return note

    for layer in layers:
        # Past Keras, which would keep track of it.
        vars(layer)["call"] = noting(layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _network(layer: Any, read: Tensor) -> nn.Module | StepModel:
    if read.dim() != 3:
        raise ValueError(
            f"Expected '{layer.name}' to read sequences of vectors, (batch, time, D), but it "
            f"reads {tuple(read.shape)}."
        )
    cell, input_size = layer.cell, read.shape[-1]
    build = _TORCH.get((type(cell), *_activations(cell)))
    if build is None or not getattr(cell, "reset_after", True):
        return _stepped(layer, input_size)
    kernel, recurrent = (w.value.detach().T for w in (cell.kernel, cell.recurrent_kernel))
    # Its weights are set below: on this device it draws none.
    network: nn.RNNBase = build(
        input_size, cell.units, batch_first=True, device="meta", dtype=kernel.dtype
    ).to_empty(device=kernel.device)
    if isinstance(network, nn.RNN) and cell.activation is keras.activations.relu:
        network.nonlinearity, network.mode = "relu", "RNN_RELU"
    bias = torch.zeros(2, len(kernel), device=kernel.device, dtype=kernel.dtype)
    if cell.use_bias:
        own = cell.bias.value.detach()
        bias[: 2 if own.dim() == 2 else 1] = own
    weights = [kernel, recurrent, *bias]
    if isinstance(network, nn.GRU):
        weights = [_reset_first(weight) for weight in weights]
    with torch.no_grad():
        for own, weight in zip(network.parameters(), weights, strict=True):
            own.copy_(weight)
    return network


def _activations(cell: Any) -> tuple[Any, ...]:
    names = ("activation", "recurrent_activation")
    return tuple(getattr(cell, name) for name in names if hasattr(cell, name))


# What PyTorch has, too: the cell with its activations.
_TORCH: dict[tuple[Any, ...], Any] = {
    (keras.layers.SimpleRNNCell, keras.activations.tanh): nn.RNN,
    (keras.layers.SimpleRNNCell, keras.activations.relu): nn.RNN,
    (keras.layers.GRUCell, keras.activations.tanh, keras.activations.sigmoid): nn.GRU,
    (keras.layers.LSTMCell, keras.activations.tanh, keras.activations.sigmoid): nn.LSTM,
}


def _reset_first(weight: Tensor) -> Tensor:
    update, reset, candidate = weight.chunk(3)
    return torch.cat([reset, update, candidate])


def _stepped(layer: Any, input_size: int) -> StepModel:
    """A cell of any other kind, by its own step."""
    cell = layer.cell
    start = layer.get_initial_state(batch_size=1)
    sizes = tuple(int(part.shape[-1]) for part in keras.tree.flatten(start))

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = keras.tree.pack_sequence_as(start, list(state))
        _, after = cell.call(x, states)
        return tuple(keras.tree.flatten(after))

    return from_step(step, sizes, input_size=input_size, batch_first=True)
