"""What a model may be, and where it may start: states of all shapes, and cells of one's own."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import models
from optuna_aelle.lyapunov import register_cell
from tests.lyapunov.networks import ARCHITECTURES
from tests.lyapunov.networks import built
from tests.lyapunov.networks import gaussian_
from tests.lyapunov.networks import noise
from tests.lyapunov.networks import own_jacobians
from tests.lyapunov.networks import own_states
from tests.lyapunov.networks import part_sizes
from tests.lyapunov.networks import state_of

D, H, B = 2, 4, 3


def as_module_state(parts: list[Tensor]) -> Any:
    return tuple(parts) if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("layer_axis", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initial_state_is_that_of_the_module(name: str, layer_axis: bool) -> None:
    """The sum of exponents is the mean ln|det J| of the path that starts there."""
    network, kind = built(name, D, H, 1.0), state_of(name)
    inputs, start = noise(5, B, D), noise(B, sum(part_sizes(network)), seed=7)
    parts = [
        part[None] if layer_axis else part
        for part in torch.split(start, part_sizes(network), dim=-1)
    ]
    spectrum = lyapunov_spectrum(
        network,
        inputs,
        warmup=0,
        state=kind,
        initial_state=as_module_state(parts),
        interval=1,
    )
    states = own_states(network, inputs, start)[:-1]
    exact = torch.linalg.slogdet(own_jacobians(network, inputs, states, kind)).logabsdet
    np.testing.assert_allclose(
        spectrum.exponents.sum(axis=1), exact.mean(dim=0).numpy(), atol=1e-10
    )


@pytest.mark.parametrize("module", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("layers", ["union", "coupled"])
def test_initial_state_of_a_stack(module: Any, layers: Any) -> None:
    """A path resumed at its step 30 has the ln|det J| of the rest of the whole path."""
    stack = gaussian_(module(D, H, num_layers=2), 1.0)
    inputs = noise(40, B, D)
    _, middle = stack(inputs[:30])
    options = {"interval": 1, "layers": layers}
    resumed = lyapunov_spectrum(stack, inputs[30:], warmup=0, initial_state=middle, **options)
    straight = lyapunov_spectrum(stack, inputs, warmup=30, **options)
    np.testing.assert_allclose(
        resumed.exponents.sum(axis=1), straight.exponents.sum(axis=1), atol=1e-10
    )
    from_zero = lyapunov_spectrum(stack, inputs[30:], warmup=0, **options)
    assert np.abs(from_zero.exponents - resumed.exponents).sum(axis=1).max() > 1e-3


def test_initial_state_of_both_directions_has_the_order_of_pytorch() -> None:
    """h0 (layers * 2, B, H): forward and backward of each layer in turn."""
    both = gaussian_(nn.GRU(D, H, num_layers=2, bidirectional=True), 1.0)
    inputs, start = noise(6, B, D), noise(4, B, H, seed=7)
    below, _ = both(inputs, start)
    first = gaussian_(nn.GRU(D, H, bidirectional=True), 1.0)
    first.load_state_dict({k: v for k, v in both.state_dict().items() if "_l0" in k})
    middle = first(inputs, start[:2])[0].detach()
    second = nn.GRU(2 * H, H).double()
    second.load_state_dict(
        {key: both.state_dict()[key.replace("_l0", "_l1_reverse")] for key in second.state_dict()}
    )
    torch.testing.assert_close(
        second(middle.flip(0), start[3:])[0].flip(0), below[..., H:], rtol=1e-12, atol=1e-12
    )
    expected = np.concatenate(
        [
            lyapunov_spectrum(
                first, inputs, warmup=0, direction="backward", initial_state=start[:2]
            ).exponents,
            lyapunov_spectrum(second, middle.flip(0), warmup=0, initial_state=start[3:]).exponents,
        ],
        axis=1,
    )
    spectrum = lyapunov_spectrum(both, inputs, warmup=0, direction="backward", initial_state=start)
    np.testing.assert_allclose(spectrum.exponents, -np.sort(-expected, axis=1), atol=1e-8)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_structured_state_of_a_step_function(kind: str) -> None:
    cell = gaussian_(nn.LSTMCell(D, H), 1.0)
    inputs, h, c = noise(80, B, D), noise(B, H, seed=5), noise(B, H, seed=6)
    sizes: Any
    start: Any
    if kind == "tuple":
        step, sizes, start = cell, (H, H), (h, c)
    else:
        # Trees are flattened in the order in which a dict was made: c first here.
        def step(x: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            h, c = cell(x, (state["h"], state["c"]))
            return {"c": c, "h": h}

        sizes, start = {"c": H, "h": H}, {"c": c, "h": h}
    by_step = lyapunov_spectrum(
        from_step(step, sizes, input_size=D), inputs, initial_state=start, warmup=30
    )
    exact = lyapunov_spectrum(cell, inputs, initial_state=(h, c), warmup=30)
    assert by_step.state_size == 2 * H
    np.testing.assert_allclose(by_step.exponents, exact.exponents, atol=1e-2)
    np.testing.assert_allclose(
        by_step.exponents.sum(axis=1), exact.exponents.sum(axis=1), atol=1e-8
    )


def test_parts_of_a_state_are_known_by_their_names() -> None:
    """A dict in another order is the same state."""
    model = from_step(lambda x, s: {"h": 0.5 * s["c"], "c": torch.tanh(s["h"])}, {"h": H, "c": H})
    h, c, inputs = noise(B, H, seed=5), noise(B, H, seed=6), noise(9, B, 0)
    straight, turned = (
        lyapunov_spectrum(model, inputs, warmup=0, initial_state=start)
        for start in ({"h": h, "c": c}, {"c": c, "h": h})
    )
    np.testing.assert_array_equal(turned.exponents, straight.exponents)


@pytest.mark.parametrize("size", [60, 70])
def test_large_step_functions_agree_with_the_structured_cell(size: int) -> None:
    """Above 64 units the Jacobian is pushed through the step function instead of formed."""
    cell, inputs = gaussian_(nn.RNNCell(D, size), 1.0), noise(40, B, D)
    model = from_step(cell, size, input_size=D)
    for method in ("lu", "qr"):
        by_step, exact = (
            lyapunov_spectrum(given, inputs, k=10, method=method, dtype=torch.float64)
            for given in (model, cell)
        )
        np.testing.assert_allclose(by_step.exponents, exact.exponents, atol=1e-8)


def test_step_functions_return_what_they_are_given() -> None:
    wrong = from_step(lambda x, state: (state[1], state[0]), (2, 3))
    with pytest.raises(ValueError, match=r"and sizes \(2, 3\) \(batch 2\), got") as caught:
        lyapunov_spectrum(wrong, torch.zeros(40, 2, 0))
    # Sizes and not all the numbers.
    assert "tensor" not in str(caught.value)
    lost = from_step(lambda x, state: state[0], (2, 3))
    with pytest.raises(ValueError, match=r"structure and sizes \(2, 3\)"):
        lyapunov_spectrum(lost, torch.zeros(40, 2, 0))
    for sizes in ((), (2, 0), {"h": 1.5}):
        with pytest.raises(ValueError, match="state_size must be at least 1, or a structure"):
            from_step(lambda x, state: state, sizes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_sequence_needs_no_batch_axis(name: str) -> None:
    inputs = noise(50, B, D)
    for more in ({}, {"batch_first": True}):
        network = gaussian_(ARCHITECTURES[name](D, H, **more), 1.0)
        batch = inputs.transpose(0, 1) if more else inputs
        together, alone = (
            lyapunov_spectrum(network, given, state=state_of(name), interval=1)
            for given in (batch, inputs[:, 1])
        )
        assert alone.exponents.shape[0] == 1
        np.testing.assert_allclose(alone.exponents, together.exponents[1:2], atol=1e-10)


class Pair(nn.Module):
    """A leaky network of the user's own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.read = nn.Linear(D, size)
        self.mix = nn.Linear(size, size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        result: Tensor = 0.5 * h + torch.tanh(self.read(x) + self.mix(h))
        return result


class Tuned(Pair):
    """A subclass, which is known with its parent."""


@pytest.fixture
def registered() -> Iterator[Callable[[], None]]:
    known = dict(models._registered)
    yield lambda: register_cell(Pair, lambda m: from_step(m.step, m.size, input_size=D))
    models._registered.clear()
    models._registered.update(known)


def test_registered_cells_are_found_inside_models(registered: Callable[[], None]) -> None:
    torch.manual_seed(0)
    for cell in (Pair(H), Tuned(H)):
        model, inputs = nn.ModuleDict({"core": cell, "head": nn.Linear(H, 1)}), noise(50, 2, D)
        if Pair not in models._registered:
            with pytest.raises(ValueError, match="found none.*register_cell"):
                lyapunov_spectrum(model, inputs)
            registered()
        found = lyapunov_spectrum(model, inputs.float())
        wide = cell.double()
        expected = lyapunov_spectrum(
            from_step(wide.step, H, input_size=D), inputs.float().double()
        )
        np.testing.assert_allclose(found.exponents, expected.exponents, atol=1e-12)
        cell.float()
        assert cell.read.weight.dtype == torch.float32


def test_registering_twice_is_refused(registered: Callable[[], None]) -> None:
    registered()
    for known in (Pair, nn.LSTM, cells.LEM):
        with pytest.raises(ValueError, match=f"not known yet, got {known.__name__}"):
            register_cell(known, lambda m: from_step(m.step, m.size))
    register_cell(Pair, lambda m: from_step(lambda x, h: 0.5 * h, m.size), replace=True)
    spectrum = lyapunov_spectrum(Pair(H), torch.zeros(40, 1, 0))
    np.testing.assert_allclose(spectrum.exponents, np.log(0.5), atol=1e-12)
    with pytest.raises(TypeError, match="a class of torch.nn.Module, got 3"):
        register_cell(3, lambda m: from_step(m.step, m.size))  # type: ignore[arg-type]
