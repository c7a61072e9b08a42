"""Whole models: what the engine sees of them, and that it is what the whole map has."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import from_log_rates
from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import layers_of
from optuna_aelle.lyapunov import lyapunov_spectra
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import parts
from optuna_aelle.lyapunov import register_layers
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov import spectral_fingerprints
from tests.lyapunov.networks import noise


class Residual(nn.Module):
    """Tokens, two recurrent layers with norms, dropout and a skip around the second, a head."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.first = nn.GRU(4, size, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.second = nn.RNN(size, size, batch_first=True)
        self.gate = nn.Linear(size, size)
        self.head = nn.Linear(size, 20)
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        lower = self.dropout(self.first(self.embed(tokens))[0])
        upper = self.second(self.norm(lower))[0]
        logits: Tensor = self.head(lower + torch.sigmoid(self.gate(lower)) * upper)
        return logits

    def step(self, token: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step of the whole, ``(B, 1)`` embedded tokens."""
        h, g = state
        _, h = self.first(token[:, None], h[None])
        _, g = self.second(self.norm(h[0])[:, None], g[None])
        return h[0], g[0]


def test_norms_skips_and_gates_between_layers_leave_the_union_exact() -> None:
    """The whole step's Jacobian is block-triangular: long runs of both agree."""
    torch.manual_seed(0)
    model = Residual().double()
    tokens = torch.randint(20, (3, 600))
    union = lyapunov_spectrum(model, tokens, warmup=100)
    model.eval()
    whole = from_step(model.step, (6, 6), input_size=4, batch_first=True)
    coupled = lyapunov_spectrum(whole, model.embed(tokens).detach(), warmup=100)
    np.testing.assert_allclose(union.mean, coupled.mean, atol=0.01)
    assert union.state_size == 12
    assert len(union.computations) == 2


def test_layers_of_says_what_is_read() -> None:
    torch.manual_seed(0)
    model, tokens = Residual(), torch.randint(20, (3, 40))
    first, second = layers_of(model, tokens)
    assert (first.name, second.name) == ("first", "second")
    torch.testing.assert_close(first.inputs, model.embed(tokens).detach())
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(second.inputs, model.norm(model.first(first.inputs)[0]))


def test_the_long_run_of_a_whole_model_is_that_of_its_parts() -> None:
    torch.manual_seed(0)
    model, tokens = Residual(), torch.randint(20, (3, 80))
    by_part = [
        lyapunov_spectrum(part.recurrent, part.inputs).exponents
        for part in layers_of(model, tokens)
    ]
    together = lyapunov_spectrum(model, tokens)
    expected = -np.sort(-np.concatenate(by_part, axis=1), axis=1)
    np.testing.assert_allclose(together.exponents, expected, atol=1e-12)
    leading = lyapunov_spectrum(model, tokens, k=3)
    # Fewer vectors start in other directions.
    np.testing.assert_allclose(leading.exponents, expected[:, :3], atol=0.05)
    assert model.training
    with pytest.raises(ValueError, match=r"k must be in \[1, 12\]"):
        lyapunov_spectrum(model, tokens, k=13)


@pytest.mark.parametrize(
    "options",
    [
        {"initial_state": torch.zeros(1, 3, 6)},
        {"lengths": [80, 60, 40]},
        {"window": 10},
        {"target_stderr": 0.1},
    ],
)
def test_what_is_of_one_part_is_refused_for_several(options: dict[str, Any]) -> None:
    tokens = torch.randint(20, (3, 80))
    with pytest.raises(ValueError, match=r"=None for Residual.*2 recurrent parts \(first, second"):
        lyapunov_spectrum(Residual(), tokens, **options)


class Decoder(nn.Module):
    """A cell that reads what it has said last, or not."""

    def __init__(self, *, feeds_back: bool) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 5), nn.Linear(5, 3)
        self.feeds_back = feeds_back

    def forward(self, x: Tensor) -> Tensor:
        h, said = x.new_zeros(x.shape[1], 5), x.new_zeros(x.shape[1:])
        outputs = []
        for of_step in x:
            h = self.cell(of_step + said if self.feeds_back else of_step, h)
            said = self.head(h)
            outputs.append(said)
        return torch.stack(outputs)


def test_feedback_that_a_part_alone_does_not_show_is_told() -> None:
    torch.manual_seed(0)
    model, x = Decoder(feeds_back=True), torch.randn(40, 2, 3)
    assert [part.feeds_back for part in layers_of(model, x)] == [True]
    for of_one in (spectral_fingerprint, lyapunov_spectrum):
        with pytest.warns(UserWarning, match="'cell' of Decoder reads depends on its own"):
            of_one(model, x)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        expected, found = model(x), model(x)
    torch.testing.assert_close(found, expected)


def test_steps_without_feedback_are_not_suspected() -> None:
    model, x = Decoder(feeds_back=False), torch.randn(40, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectral_fingerprint(model, x)
    for module in (nn.GRU(3, 5), nn.LSTM(3, 5)):
        (part,) = layers_of(nn.ModuleDict({"rnn": module}), x)
        assert not part.feeds_back


class Stateful(nn.Module):
    """Keeps its state in a buffer, in place, and looks at its outputs as arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.register_buffer("h", torch.zeros(2, 5))
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        for of_step in x:
            with torch.enable_grad():
                of_step = 2.0 * of_step
            self.h.copy_(self.cell(of_step, self.h))
            self.seen = self.h.numpy().copy()
        return self.h


def test_looking_for_feedback_disturbs_nothing() -> None:
    """It needs gradients, which a model may not be made for."""
    torch.manual_seed(0)
    model, x = Stateful(), torch.randn(40, 2, 3)
    (part,) = layers_of(model, x)
    torch.testing.assert_close(part.inputs, 2.0 * x)
    assert not part.feeds_back
    assert model.h.grad_fn is None
    assert not model.h.requires_grad
    torch.testing.assert_close(model.h, torch.zeros(2, 5))
    copy.deepcopy(model)
    spectral_fingerprint(model, x)
    with torch.no_grad():
        spectral_fingerprint(model, x)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_what_fails_behind_the_recurrent_parts_is_no_concern_of_theirs() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.rnn, self.head = nn.Linear(3, 3), nn.GRU(3, 5), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.head(self.rnn(self.before(x))[0])
            return outputs

    model, x = Broken(), torch.randn(40, 2, 3)
    (part,) = layers_of(model, x)
    torch.testing.assert_close(part.inputs, model.before(x).detach())


class Leaky(nn.Module):
    """Steps its recurrence by arithmetic of its own, so that nothing shows when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weight = nn.Linear(2, 8), nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.9)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * h + torch.tanh(x + self.weight(h))

    def layers(self, x: Tensor) -> dict[str, Any]:
        read = self.dropout(self.embed(x))
        return {
            "memory": (from_step(self.step, 8, input_size=8), read),
            "decay": (from_log_rates(lambda y: -y.abs(), 8, input_size=8), read),
            "rnn": (nn.RNN(8, 3), read),
        }


class Dropping(Leaky):
    """Whose step has dropout."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.dropout(super().step(x, h))

    def recurrent_layers(self, x: Tensor) -> dict[str, Any]:
        return {"memory": (from_step(self.step, 8, input_size=8), self.embed(x))}


def test_declared_steps_are_taken_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model, x = Dropping(), torch.randn(60, 2, 2)
    trained = spectral_fingerprint(model, x)
    assert model.training
    assert model.dropout.training
    np.testing.assert_array_equal(
        trained.exponents, spectral_fingerprint(model.eval(), x).exponents
    )


class Declaring(Leaky):
    def recurrent_layers(self, x: Tensor) -> dict[str, Any]:
        return self.layers(x)


@pytest.fixture
def registered() -> Iterator[type[Leaky]]:
    register_layers(Leaky, Leaky.layers)
    yield Leaky
    del parts._registered_layers[Leaky]


def test_a_foreign_model_is_taught_and_an_own_one_says_it(registered: type[Leaky]) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 2, 2)
    for model in (registered(), Declaring()):
        model.train()
        found = layers_of(model, x)
        assert [part.name for part in found] == ["memory", "decay", "rnn"]
        spectrum = spectral_fingerprint(model, x)
        assert spectrum.exponents.shape == (2, 19)
        # Dropout is off: the same again.
        torch.manual_seed(1)
        again = spectral_fingerprint(model, x)
        methods = [how.method for how in again.computations]
        assert methods == ["lu", "sum", "lu"]
        assert model.training
        memory = lyapunov_spectrum(found[0].recurrent, found[0].inputs)
        assert np.isfinite(memory.exponents).all()


def test_layers_that_say_nothing_are_refused(registered: type[Leaky]) -> None:
    register_layers(registered, lambda model, x: {})
    with pytest.raises(ValueError, match=r"layers of Leaky as \{name: \(recurrent, inputs\)\}"):
        layers_of(registered(), torch.randn(60, 2, 2))
    register_layers(registered, lambda model, x: {"a": (nn.Linear(2, 3), x)})
    with pytest.raises(ValueError, match="a: Expected Linear to hold a recurrent module"):
        layers_of(registered(), torch.randn(60, 2, 2))
    register_layers(registered, lambda model, x: {"a": (nn.GRU(2, 3), [1.0])})
    with pytest.raises(TypeError, match="a: Expected inputs as a torch tensor"):
        layers_of(registered(), torch.randn(60, 2, 2))
    with pytest.raises(TypeError, match="Expected a class"):
        register_layers(Leaky(), Leaky.layers)  # type: ignore[arg-type]


def test_an_unknown_recurrence_is_refused_with_the_way_that_always_works() -> None:
    with pytest.raises(ValueError, match=r"found none.*register_cell.*from_step"):
        spectral_fingerprint(Leaky(), torch.randn(60, 2, 2))


def test_one_network_that_overflows_spares_the_others() -> None:
    torch.manual_seed(0)
    wild = nn.RNN(2, 4, nonlinearity="relu")
    with torch.no_grad():
        wild.weight_hh_l0.fill_(1e12)
    diverged = nn.GRU(2, 4)
    with torch.no_grad():
        diverged.weight_hh_l0[0, 0] = torch.nan
    tame = nn.RNN(2, 4, nonlinearity="relu")
    models = [tame, wild, diverged, cells.MinGRU(2, 4), nn.Linear(2, 4)]
    x = torch.randn(100, 3, 2)
    for of_many in (lyapunov_spectra, spectral_fingerprints):
        found = of_many(models, x, errors="return")
        kinds = ["LyapunovSpectrum", "FloatingPointError", "ValueError", "LyapunovSpectrum"]
        assert [type(result).__name__ for result in found] == [*kinds, "ValueError"]
        assert str(found[1]).startswith("models[1]: Expected a state that stays finite")
        assert str(found[2]).startswith("models[2]: Expected finite weights")
        alone = of_many([tame], x)[0]
        np.testing.assert_allclose(found[0].exponents, alone.exponents, atol=1e-12)
        with pytest.raises(ValueError, match=r"models\[2\]: Expected finite weights"):
            of_many(models, x)
        broken = from_step(lambda x, h: h @ torch.ones(3, 3), 4, input_size=2)
        found = of_many([tame, broken], x, errors="return")
        assert [type(result).__name__ for result in found] == ["LyapunovSpectrum", "RuntimeError"]
        with pytest.raises(ValueError, match="errors must be 'raise' or 'return'"):
            of_many(models, x, errors="ignore")  # type: ignore[operator]


def test_computations_say_what_was_chosen() -> None:
    x = noise(60, 2, 3)
    chosen = lyapunov_spectrum(nn.GRU(3, 8), x).computations
    assert [(how.method, how.dtype, how.interval) for how in chosen] == [("lu", "float64", 1.0)]
    asked = lyapunov_spectrum(
        nn.GRU(3, 8, num_layers=2), x, method="qr", interval=2, dtype=torch.float32
    ).computations
    assert len(asked) == 2
    assert {(how.method, how.dtype, how.interval, how.compiled) for how in asked} == {
        ("qr", "float32", 2.0, False)
    }
    repeated = lyapunov_spectrum(nn.GRU(3, 8), 30.0 * x, method="cholesky").computations[0]
    assert repeated.n_repeated >= 0
    assert repeated.interval >= 1.0
