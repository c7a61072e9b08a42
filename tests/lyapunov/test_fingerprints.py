"""Fingerprints: how a probe is read, whole models, many at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from optuna_aelle.lyapunov import from_step
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import models
from optuna_aelle.lyapunov import register_cell
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov import spectral_fingerprints
from optuna_aelle.lyapunov.cells import LEM
from tests.lyapunov.networks import noise

TOKENS = torch.randint(20, (4, 40), generator=torch.Generator().manual_seed(0))


def assert_same(spectrum: Any, expected: Any) -> None:
    np.testing.assert_allclose(spectrum.exponents, expected.exponents, atol=1e-10)
    assert spectrum.state_size == expected.state_size
    assert spectrum.n_steps == expected.n_steps


class Tagger(nn.Module):
    """Tokens in, with all that a forward may leave behind."""

    def __init__(self, batch_first: bool = True, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.embed = nn.Embedding(20, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.rnn = nn.GRU(5, 8, batch_first=batch_first)
        self.head = nn.Linear(8, 20)
        self.register_buffer("n_calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))
        self.hidden: Tensor | None = None
        self.seen = torch.zeros(1)
        self.norm.eval()

    def features(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.norm(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.drop(x) if self.rnn.batch_first else self.drop(x).transpose(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        torch.rand(1)
        self.n_calls += 1
        self.last = tokens.float()
        self.seen += 1
        x: Any = self.features(tokens)
        if self.packed:
            x = pack_padded_sequence(x, torch.tensor([40, 30, 20, 10]), batch_first=True)
        out, self.hidden = self.rnn(input=x)
        self.late = nn.Linear(8, 8)
        return self.head(out.data)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_part_reads_what_the_model_feeds_it(batch_first: bool) -> None:
    model = Tagger(batch_first)
    found = spectral_fingerprint(model, TOKENS)
    with torch.no_grad():
        fed = model.eval().features(TOKENS)
    assert_same(found, spectral_fingerprint(model.rnn, fed))
    assert found.seconds > 0.0


def test_packed_sequences_within_a_model() -> None:
    model = Tagger(packed=True)
    found = spectral_fingerprint(model, TOKENS)
    with torch.no_grad():
        fed = model.eval().features(TOKENS)
    assert_same(found, spectral_fingerprint(model.rnn, fed[:, :30]))


def test_a_model_is_left_as_it_was() -> None:
    model = Tagger()
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    last, names, tokens = model.last, set(vars(model)), TOKENS.clone()
    spectral_fingerprint(model, tokens)
    assert torch.equal(random_state, torch.get_rng_state())
    assert (
        [module.training for module in model.modules()] == modes == [True, True, False, *modes[3:]]
    )
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.last is last
    assert model.hidden is None
    assert float(model.seen) == 0.0
    assert set(vars(model)) == names
    assert "late" not in model._modules
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(tokens, TOKENS)


def test_a_model_is_left_as_it_was_by_an_error_too() -> None:
    model = Tagger()
    with pytest.raises(ValueError, match="running it failed"):
        spectral_fingerprint(model, TOKENS + 1000)
    assert model.training
    assert not model.norm.training
    assert float(model.n_calls) == 0.0
    assert not model.rnn._forward_pre_hooks


class ByCell(nn.Module):
    def __init__(self, cell: nn.Module, norm: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.scale = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        state, outputs = None, []
        for x in self.scale(inputs).unbind(1):
            state = self.cell(x, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("cell", [nn.RNNCell(3, 8), nn.GRUCell(3, 8), nn.LSTMCell(3, 8)])
def test_a_cell_reads_all_its_steps(cell: nn.Module) -> None:
    model, inputs = ByCell(cell), noise(2, 30, 3).float()
    with torch.no_grad():
        fed = model.scale(inputs).transpose(0, 1)
    assert_same(spectral_fingerprint(model, inputs), spectral_fingerprint(cell, fed))


class StepByStep(nn.Module):
    """A layer that is called with one step and its last state each time, after a longer start."""

    def __init__(self, layer: nn.Module, start: int = 1) -> None:
        super().__init__()
        self.layer = layer
        self.start = start

    def forward(self, inputs: Tensor) -> Tensor:
        out, state = self.layer(inputs[:, : self.start])
        for step in range(self.start, inputs.shape[1]):
            out, state = self.layer(inputs[:, step : step + 1], state)
        return out


@pytest.mark.parametrize("layer", [nn.LSTM, LEM])
def test_a_layer_that_is_called_step_by_step(layer: Any) -> None:
    network, inputs = layer(3, 8, batch_first=True), noise(2, 30, 3).float()
    assert_same(
        spectral_fingerprint(StepByStep(network), inputs), spectral_fingerprint(network, inputs)
    )


def test_of_several_calls_the_first_counts() -> None:
    network, inputs = nn.GRU(3, 8, batch_first=True), noise(2, 30, 3).float()
    assert_same(
        spectral_fingerprint(StepByStep(network, start=20), inputs),
        spectral_fingerprint(network, inputs[:, :20]),
    )


class Leaky(nn.Module):
    """A cell of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(3, 6)
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        h = x.new_zeros(len(x), 6) if h is None else h
        return 0.5 * h + torch.tanh(self.read(x) + self.mix(h))


@pytest.fixture
def known_leaky() -> Iterator[None]:
    known = dict(models._registered)
    register_cell(Leaky, lambda m: from_step(m, 6, input_size=3, batch_first=True))
    yield
    models._registered.clear()
    models._registered.update(known)


@pytest.mark.usefixtures("known_leaky")
def test_a_registered_cell_reads_all_its_steps() -> None:
    cell = Leaky()
    model, inputs = ByCell(cell), noise(2, 30, 3).float()
    with torch.no_grad():
        fed = model.scale(inputs)
    assert_same(spectral_fingerprint(model, inputs), spectral_fingerprint(cell, fed))


class Two(nn.Module):
    """A stack that is written as two modules; as `nn.GRU` has it in one."""

    def __init__(self, whole: nn.GRU) -> None:
        super().__init__()
        layers = [nn.GRU(3, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)]
        self.lower, self.upper = layers
        for i, layer in enumerate(layers):
            layer.load_state_dict(
                {name: getattr(whole, name[:-1] + str(i)) for name in layer.state_dict()}
            )

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.upper(self.lower(inputs)[0])[0]
        return out


@pytest.mark.parametrize("k", [None, 32, 5])
def test_two_parts_are_the_union_of_their_exponents(k: int | None) -> None:
    whole, inputs = nn.GRU(3, 8, num_layers=2, batch_first=True), noise(4, 40, 3).float()
    found = spectral_fingerprint(Two(whole), inputs, k)
    expected = spectral_fingerprint(whole, inputs, k)
    # Between the parts the model computes in float32.
    np.testing.assert_allclose(found.exponents, expected.exponents, atol=1e-5)
    np.testing.assert_allclose(found.trace, expected.trace, atol=1e-5)
    assert found.state_size == 16
    assert found.n_steps == expected.n_steps == found.trace_steps[-1]


def test_the_sum_rule_of_two_parts() -> None:
    parts = nn.ModuleList([nn.RNN(3, 6, batch_first=True), nn.RNN(6, 4, batch_first=True)])
    model = nn.Sequential(parts[0], First(), parts[1])
    found = lyapunov_spectrum(model, noise(4, 40, 3).float())
    assert found.exponents.shape == (4, 10)
    assert found.sum_rule_residual is not None
    assert found.sum_rule_residual < 1e-6
    assert lyapunov_spectrum(model, noise(4, 40, 3).float(), k=3).log_abs_det is None


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Any]) -> Tensor:
        return pair[0]


def test_a_direction_is_for_the_bidirectional_parts() -> None:
    two_ways = nn.GRU(3, 4, batch_first=True, bidirectional=True)
    model = nn.Sequential(two_ways, First(), nn.GRU(8, 5, batch_first=True))
    inputs = noise(2, 30, 3).float()
    with pytest.raises(ValueError, match="Expected a direction"):
        spectral_fingerprint(model, inputs)
    found = spectral_fingerprint(model, inputs, direction="backward")
    own = spectral_fingerprint(two_ways, inputs, direction="backward")
    assert found.state_size == 9
    for exponent in own.mean:
        assert np.abs(found.mean - exponent).min() < 0.05


def test_a_model_that_cannot_be_run_may_be_given_its_part_s_own_inputs() -> None:
    gru, inputs = nn.GRU(3, 8, batch_first=True), noise(2, 30, 3)
    holder = nn.ModuleDict({"rnn": gru, "head": nn.Linear(8, 1)})
    assert_same(spectral_fingerprint(holder, inputs), spectral_fingerprint(gru, inputs))
    tagger = Tagger()
    fed = noise(2, 30, 5)
    with pytest.warns(UserWarning, match="running it failed.*taken for those of its.* 'rnn'"):
        found = spectral_fingerprint(tagger, fed)
    assert_same(found, spectral_fingerprint(tagger.rnn, fed))


def test_running_comes_first() -> None:
    """Inputs that fit the part too are still the model's."""
    model = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 8, batch_first=True))
    inputs = noise(2, 30, 3).float()
    with torch.no_grad():
        fed = model[0](inputs)
    found = spectral_fingerprint(model, inputs.double())
    assert_same(found, spectral_fingerprint(model[1], fed))
    assert_same(
        lyapunov_spectrum(model, inputs, warmup=7), lyapunov_spectrum(model[1], fed, warmup=7)
    )


class Silent(nn.Module):
    """Holds a layer that its forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            Tagger(),
            torch.zeros(2, 30, 4),
            r"Tagger can be run on, got a tensor of torch.float32 and shape \(2, 30, 4\): running "
            r"it failed \(\w+Error: .*\), and its recurrent part 'rnn' cannot read them itself: "
            r"it takes floats with D = 5",
        ),
        (
            nn.ModuleDict({"a": nn.GRU(3, 4), "b": nn.GRU(3, 4)}),
            torch.zeros(30, 2, 3),
            r"running it failed .* holds 2 recurrent parts \(a, b\)",
        ),
        (Silent(), torch.zeros(30, 2, 5), "called none of its recurrent parts.*D = 3"),
        (nn.Sequential(nn.LazyLinear(3), nn.GRU(3, 4)), torch.zeros(30, 2, 5), "lazy parameters"),
        (nn.Linear(3, 4), torch.zeros(30, 2, 3), "known, found none"),
    ],
)
def test_what_no_part_can_read(model: nn.Module, inputs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_fingerprint(model, inputs)


def test_diverged_weights_before_the_recurrent_part_are_named() -> None:
    model = Tagger()
    with torch.no_grad():
        model.embed.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="parameter 'embed.weight'.*diverged"):
        spectral_fingerprint(model, TOKENS)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            nn.GRU(1, 4),
            torch.zeros(4, 64, 1),
            r"at least 8 steps, got shape \(4, 64, 1\), read as \(T, B, D\): 4 steps of 64 "
            r"sequences. If it is 64 steps of 4 sequences, transpose it or .* batch_first=True",
        ),
        (
            nn.GRU(1, 4, batch_first=True),
            torch.zeros(64, 4, 1),
            r"read as \(B, T, D\): 4 steps of 64 sequences.*batch_first=False",
        ),
        (nn.GRU(1, 4), torch.zeros(1, 64, 1), r"1 step of 64 sequences. If it is 64 steps of 1 s"),
        (nn.GRU(1, 4), torch.zeros(7, 1), r"got 7 steps of 1 sequence. Pass longer inputs"),
        (
            nn.GRU(1, 4),
            pack_padded_sequence(torch.zeros(7, 2, 1), torch.tensor([7, 7])),
            "got 7 steps of 2 sequences. Pass longer",
        ),
        (
            ByCell(nn.GRUCell(3, 4)),
            torch.zeros(2, 5, 3),
            "got 5 steps of 2 sequences: so often was the module called",
        ),
    ],
)
def test_too_few_steps(model: nn.Module, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_fingerprint(model, inputs)


@pytest.mark.parametrize(
    ("shape", "batch_first", "doubtful"),
    [
        ((12, 64, 1), False, True),
        ((64, 12, 1), True, True),
        ((12, 12, 1), False, False),
        ((12, 4, 1), False, False),
        ((20, 64, 1), False, False),
    ],
)
def test_a_probe_that_may_be_meant_otherwise_warns_once(
    shape: tuple[int, ...], batch_first: bool, doubtful: bool
) -> None:
    networks = [nn.GRU(1, 4, batch_first=batch_first) for _ in range(3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spectral_fingerprints(networks, torch.zeros(shape))
        spectral_fingerprint(networks[0], torch.zeros(shape))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (2 if doubtful else 0)
    for warning in caught:
        assert warning.category is UserWarning
        assert "12 steps of 64 sequences. If it is 64 steps of 12" in str(warning.message)
        assert warning.filename == __file__


def test_of_packed_sequences_the_longest_count() -> None:
    gru, inputs = nn.GRU(1, 4), noise(30, 6, 1)
    lengths = torch.tensor([3, 30, 25, 4, 20, 30])
    packed = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
    found = spectral_fingerprint(gru, packed)
    assert_same(found, spectral_fingerprint(gru, inputs[:, [1, 5]]))


def test_packed_sequences_have_one_reading_and_the_long_ones_suffice() -> None:
    gru, inputs = nn.GRU(1, 4), noise(30, 40, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        many = pack_padded_sequence(inputs[:12], torch.full((40,), 12))
        assert spectral_fingerprint(gru, many).n_steps == 9
    one = pack_padded_sequence(inputs[:, :2], torch.tensor([30, 4]))
    assert_same(spectral_fingerprint(gru, one), spectral_fingerprint(gru, inputs[:, :1]))


def test_many_fingerprints_are_those_of_each() -> None:
    networks: list[Any] = [
        nn.GRU(1, 8, batch_first=True),
        nn.LSTM(1, 5, batch_first=True),
        nn.GRU(1, 8, batch_first=True),
        nn.Sequential(nn.Linear(1, 2), nn.GRU(2, 8, batch_first=True)),
        from_step(lambda x, h: torch.tanh(h + x), 3, input_size=1, batch_first=True),
    ]
    shared = noise(4, 64, 1).float()
    for inputs in (shared, [noise(4, 30 + 10 * i, 1).float() for i in range(5)]):
        found = spectral_fingerprints(networks, inputs, 4)
        for i, (network, spectrum) in enumerate(zip(networks, found, strict=True)):
            own = inputs[i] if isinstance(inputs, list) else inputs
            expected = spectral_fingerprint(network, own, 4)
            np.testing.assert_allclose(spectrum.exponents, expected.exponents, atol=1e-6)
            assert spectrum.n_steps == expected.n_steps
    assert spectral_fingerprints([], shared) == []


def test_equal_networks_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna_aelle.lyapunov import groups

    sizes: list[int] = []
    run_stack = groups.run_stack

    def counting(*args: Any) -> Any:
        sizes.append(args[3])
        return run_stack(*args)

    monkeypatch.setattr(groups, "run_stack", counting)
    networks = [nn.Sequential(nn.Linear(1, 2), nn.GRU(2, size)) for size in (8, 9, 8, 8)]
    spectral_fingerprints(networks, torch.zeros(64, 4, 1))
    assert sizes == [3, 1]


def test_what_is_wrong_with_one_fingerprint_is_said() -> None:
    good, inputs = nn.GRU(1, 4), torch.zeros(64, 4, 1)
    diverged = nn.GRU(1, 4)
    with torch.no_grad():
        diverged.weight_hh_l0.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"models\[1\]: .*diverged"):
        spectral_fingerprints([good, diverged], inputs)
    with pytest.raises(ValueError, match=r"models\[1\]: .*at least 8 steps"):
        spectral_fingerprints([good, good], [inputs, inputs[:5]])
    with pytest.raises(TypeError, match=r"models\[1\]: .*numpy array"):
        spectral_fingerprints([good, good], [inputs, inputs.numpy()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"models\[1\]: Expected a direction"):
        spectral_fingerprints([good, nn.GRU(1, 4, bidirectional=True)], inputs)
    wild = nn.RNN(1, 4, nonlinearity="relu")
    with torch.no_grad():
        wild.weight_hh_l0.fill_(1e30)
    model = nn.ModuleDict({"rnn": wild})
    with pytest.raises(FloatingPointError, match=r"models\[1\].rnn: .*overflowed"):
        spectral_fingerprints([good, model], torch.ones(64, 4, 1))


def test_compiled_and_parallel_models_are_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Tagger()
    expected = spectral_fingerprint(model, TOKENS)
    assert_same(spectral_fingerprint(nn.DataParallel(model), TOKENS), expected)

    class Optimized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = model

        def forward(self, tokens: Tensor) -> Tensor:
            raise AssertionError("compiled")

    assert_same(spectral_fingerprint(Optimized(), TOKENS), expected)
    stances: list[str] = []
    stance = SimpleNamespace(__enter__=None)

    class Stance:
        def __init__(self, name: str) -> None:
            stances.append(name)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setitem(__import__("sys").modules, "torch._dynamo", stance)
    monkeypatch.setattr(torch.compiler, "set_stance", Stance, raising=False)
    assert_same(spectral_fingerprint(model, TOKENS), expected)
    assert stances == ["force_eager"]


def test_seconds_count_from_the_inputs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading inputs, running a whole model and building the map take time too."""
    clock = iter(range(1000))
    calls: dict[str, Callable[..., Any]] = {}
    for module, name in (("groups", "build_stack"), ("engine", "read_inputs")):
        where = __import__(f"optuna_aelle.lyapunov.{module}", fromlist=[name])
        calls[name] = getattr(where, name)

        def slow(*args: Any, _name: str = name, **more: Any) -> Any:
            for _ in range(100):
                next(clock)
            return calls[_name](*args, **more)

        monkeypatch.setattr(where, name, slow)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    assert lyapunov_spectrum(nn.GRU(1, 4), torch.zeros(30, 1, 1)).seconds >= 200.0


def test_threads_that_fingerprint_side_by_side_leave_the_process_as_it_was() -> None:
    """One goes in after the other, and comes out after it, too."""
    import torch._dynamo

    inside, out = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]
    drawn: list[float] = []

    class Slow(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            self.rnn = nn.GRU(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            inside[self.number].set()
            out[self.number].wait(30.0)
            return self.rnn(x)

    def fingerprint(number: int) -> None:
        spectral_fingerprint(Slow(number), torch.zeros(2, 30, 2))

    threads = [threading.Thread(target=fingerprint, args=(number,)) for number in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        assert inside[number].wait(30.0)
    drawn.append(float(torch.rand(())))
    for number, thread in enumerate(threads):
        out[number].set()
        thread.join()
    # What others drew meanwhile is not drawn again.
    drawn.append(float(torch.rand(())))
    assert drawn[0] != drawn[1]
    assert torch._dynamo.eval_frame._stance.stance == "default"
