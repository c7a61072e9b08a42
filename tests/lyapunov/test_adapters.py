"""Modules of other packages: their rates and Jacobians against the packages' own steps."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn
from torch.func import jacrev

from optuna_aelle.lyapunov import adapters
from optuna_aelle.lyapunov import from_log_rates
from optuna_aelle.lyapunov import lyapunov_spectrum
from optuna_aelle.lyapunov import register_cell
from optuna_aelle.lyapunov import spectral_fingerprint
from optuna_aelle.lyapunov.models import _registered
from optuna_aelle.lyapunov.models import find_recurrent

D, T, B = 4, 12, 2
CLOSE: dict[str, float] = {"rtol": 1e-9, "atol": 1e-9}
# Where a package computes in float32 whatever its weights are.
FLOAT32: dict[str, float] = {"rtol": 2e-4, "atol": 1e-6}


# The versions whose layers are read; the integration of the Trainer takes older ones.
SINCE = {"transformers": "5.24"}


def package(name: str) -> Any:
    since = SINCE.get(name)
    reason = f"{name} {since or ''} is in the extra `models`"
    return pytest.importorskip(name, minversion=since, reason=reason)


def spread(module: Any, scale: float = 0.7) -> Any:
    """float64, with weights large enough for the rates to follow the input; in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "mask" not in name and "A_log" not in name:
                parameter.copy_(scale * torch.randn_like(parameter))
    return module.double().eval()


def sequences(size: int = D, n_steps: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, n_steps, size, generator=generator, dtype=torch.float64)


def exponents(module: nn.Module) -> Any:
    return lyapunov_spectrum(module, sequences(n_steps=40)).exponents


def rates_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """ln|a| of each number of the state, ``(T, B, N)``."""
    model: Any = find_recurrent(module)
    found = model.log_rates(inputs.transpose(0, 1) if model.batch_first else inputs)
    return found.expand(T, B, -1).detach().repeat_interleave(model.n_real, dim=-1)


def diagonal(step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    """ln of the absolute diagonal of d step / d state, which must have nothing beside it."""
    n = state[0].numel()
    jacobian = jacrev(step)(state).reshape(B, n, B, n)
    own = torch.stack([jacobian[i, :, i] for i in range(B)])
    values = own.diagonal(dim1=-2, dim2=-1)
    assert jacobian.abs().sum() == values.abs().sum()
    return values.detach().abs().log()


class Whole(nn.Module):
    """Tokens to logits around one block that takes and returns ``(B, T, D)``."""

    def __init__(self, block: nn.Module, size: int = D) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, D), nn.LayerNorm(D)
        self.block, self.head = block, nn.Linear(size, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.block(self.norm(self.embed(tokens)))
        return self.head(found[0] if isinstance(found, tuple) else found)


def check_whole(block: nn.Module, n_exponents: int, size: int = D) -> None:
    """A whole float32 model, as it is right after a step of training."""
    model = Whole(block.float(), size)
    tokens = torch.randint(11, (3, 40), generator=torch.Generator().manual_seed(2))
    loss = nn.functional.cross_entropy(model(tokens).transpose(1, 2), tokens)
    loss.backward()
    trained = any(parameter.grad is not None for parameter in block.parameters())
    assert trained
    fingerprint = spectral_fingerprint(model, tokens)
    assert fingerprint.exponents.shape == (2, n_exponents)
    assert np.isfinite(fingerprint.exponents).all()
    # As the block itself along what it reads.
    read = model.norm(model.embed(tokens[:2])).detach()
    np.testing.assert_allclose(
        fingerprint.exponents, spectral_fingerprint(block, read).exponents, rtol=1e-6, atol=1e-9
    )


def mamba_block() -> Any:
    mamba = package("mambapy.mamba")
    torch.manual_seed(0)
    return mamba.MambaBlock(mamba.MambaConfig(d_model=D, n_layers=1, d_state=3))


@pytest.mark.parametrize("norms", [False, True])
def test_mambapy_rates_are_the_jacobian_of_its_step(norms: bool) -> None:
    mamba = package("mambapy.mamba")
    config = mamba.MambaConfig(d_model=D, n_layers=1, d_state=3, inner_layernorms=norms)
    block, inputs = spread(mamba.MambaBlock(config)), sequences()
    rates = rates_of(block, inputs)
    h, past = torch.zeros(B, 2 * D, 3).double(), torch.zeros(B, 2 * D, 3).double()
    for t in range(T):
        x, before = inputs[:, t], past
        exact = diagonal(lambda h, x=x, past=before: block.step(x, (h, past))[1][0], h)
        torch.testing.assert_close(rates[t], exact, rtol=1e-6, atol=1e-6)
        _, (h, past) = block.step(x, (h, past))
    # They differ from step to step: the test would see a convolution that is off by one.
    assert (rates[1:] - rates[:-1]).abs().amax() > 0.01


def test_mambapy_with_fixed_time_steps_has_known_exponents() -> None:
    block = mamba_block()
    with torch.no_grad():
        block.dt_proj.weight.zero_()
        block.dt_proj.bias.fill_(np.log(np.expm1(0.25)))
    expected = np.repeat([-0.25, -0.5, -0.75], 2 * D)
    found = exponents(block)
    np.testing.assert_allclose(found, [expected] * B, rtol=1e-6)


def test_mambapy_whole_model() -> None:
    check_whole(mamba_block(), 2 * D * 3)


def test_layers_of_a_mambapy_stack_are_found() -> None:
    mamba = package("mambapy.mamba")
    stack = mamba.Mamba(mamba.MambaConfig(d_model=D, n_layers=2, d_state=3))
    model = nn.Sequential(nn.Embedding(11, D), stack, nn.Linear(D, 1))
    fingerprint = spectral_fingerprint(model, torch.randint(11, (2, 30)))
    assert fingerprint.exponents.shape == (2, 2 * 2 * D * 3)


def mingru_layer(name: str, expansion: float = 1.0) -> Any:
    package("minGRU_pytorch")
    torch.manual_seed(0)
    kind = getattr(import_module(f"minGRU_pytorch.{name}"), name)
    return kind(D, expansion_factor=expansion)


@pytest.mark.parametrize("expansion", [1.0, 2.0])
@pytest.mark.parametrize("name", ["minGRU", "minLSTM"])
def test_mingru_rates_are_the_jacobian_of_its_step(name: str, expansion: float) -> None:
    layer = spread(mingru_layer(name, expansion))
    inputs = sequences()
    rates = rates_of(layer, inputs)
    h = torch.full((B, 1, int(D * expansion)), 0.5).double()
    for t in range(T):

        def step(h: Tensor, x: Tensor = inputs[:, t : t + 1]) -> Tensor:
            return layer(x, h, return_next_prev_hidden=True)[1]

        torch.testing.assert_close(rates[t], diagonal(step, h), **CLOSE)
        h = step(h)


@pytest.mark.parametrize("name", ["minGRU", "minLSTM"])
def test_mingru_with_zero_weights_keeps_half(name: str) -> None:
    layer = mingru_layer(name)
    nn.init.zeros_(next(layer.parameters()))
    np.testing.assert_allclose(exponents(layer), np.log(0.5), rtol=1e-12)


@pytest.mark.parametrize("name", ["minGRU", "minLSTM"])
def test_mingru_whole_model(name: str) -> None:
    check_whole(mingru_layer(name), D)


def test_lru_rates_are_those_of_its_free_state() -> None:
    layer = package("LRU_pytorch").LRU(D, 3, 5, rmin=0.5, rmax=0.99)
    found = exponents(layer)
    rates = rates_of(layer, sequences())
    np.testing.assert_allclose(found[0], sorted(rates[0, 0].tolist(), reverse=True), rtol=1e-12)
    # Where nothing is read and each state is shown by its own output, |y| shrinks with |h|.
    with torch.no_grad():
        layer.B.zero_()
        layer.C.copy_(torch.eye(3, 5))
    start, silence = torch.ones(5, dtype=torch.complex64), torch.zeros(T, D)
    real = layer(silence, start.clone()).double()
    with torch.no_grad():
        layer.C.mul_(-1j)
    imaginary = layer(silence, start.clone()).double()
    log_size = torch.complex(real, imaginary).abs().log()
    expected = (log_size[-1] - log_size[0]) / (T - 1)
    torch.testing.assert_close(rates[0, 0, ::2][:3], expected.detach(), **FLOAT32)


def test_lru_whole_model() -> None:
    check_whole(package("LRU_pytorch").LRU(D, D, 5, rmin=0.5), 10)


def s5_layer(**settings: Any) -> Any:
    torch.manual_seed(0)
    return package("s5").S5(D, 6, dt_min=0.01, dt_max=0.2, **settings)


@pytest.mark.parametrize("liquid", [False, True])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_s5_rates_are_the_jacobian_of_its_step(rule: str, liquid: bool) -> None:
    layer = s5_layer(liquid=liquid)
    layer.seq.discretize = getattr(import_module("s5.s5_model"), f"discretize_{rule}")
    inputs = sequences()
    rates = rates_of(layer, inputs)
    for t in range(T):
        for b in range(B):
            x = inputs[b, t].float()
            zero, one = torch.zeros(6, dtype=torch.complex64), torch.ones(6) + 0j
            # It writes to what it makes at each step, so nothing of it may be kept.
            a = layer.seq.forward_rnn(x, one)[1] - layer.seq.forward_rnn(x, zero)[1]
            exact = a.detach().abs().double().log().repeat_interleave(2)
            torch.testing.assert_close(rates[t, b], exact, **FLOAT32)


def test_s5_exponents_are_time_steps_by_real_parts() -> None:
    layer = s5_layer()
    expected = (layer.seq.log_step.exp() * layer.seq.Lambda.real).detach().double()
    found = exponents(layer)[0]
    np.testing.assert_allclose(
        found, np.repeat(-np.sort(-expected.numpy()), 2), rtol=1e-6, atol=1e-12
    )
    two_way = s5_layer(bidir=True)
    with torch.no_grad():
        two_way.seq.Lambda.copy_(layer.seq.Lambda)
        two_way.seq.log_step.copy_(layer.seq.log_step)
    both = exponents(two_way)[0]
    np.testing.assert_allclose(both, np.repeat(found, 2), rtol=1e-12)


@pytest.mark.parametrize("liquid", [False, True])
def test_s5_whole_model(liquid: bool) -> None:
    check_whole(s5_layer(liquid=liquid), 12)


NCPS = ["cfc", "pure", "no_gate", "wired", "mixed", "time first", "ltc", "ltc mixed"]


def ncps_layer(name: str) -> Any:
    package("ncps")
    torch_part, wirings = import_module("ncps.torch"), import_module("ncps.wirings")
    torch.manual_seed(0)
    if name == "ltc":
        return torch_part.LTC(D, wirings.FullyConnected(6))
    if name == "ltc mixed":
        return torch_part.LTC(D, wirings.AutoNCP(8, 2, seed=1), mixed_memory=True)
    if name == "wired":
        return torch_part.CfC(D, wirings.AutoNCP(8, 2, seed=1))
    mode = name if name in ("pure", "no_gate") else "default"
    return torch_part.CfC(
        D,
        6,
        mode=mode,
        mixed_memory=name == "mixed",
        batch_first=name != "time first",
        backbone_units=7,
        backbone_layers=2,
        backbone_dropout=0.5,
    )


@pytest.mark.parametrize("name", NCPS)
def test_ncps_jacobians_are_those_of_one_step_of_the_layer(name: str) -> None:
    """The layer's own forward on one step, from any state, in evaluation mode."""
    layer = ncps_layer(name).double()
    model: Any = find_recurrent(layer)  # while in training mode
    layer.eval()
    sizes = (layer.state_size,) * (2 if layer.use_mixed else 1)
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(B, sum(sizes), generator=generator, dtype=torch.float64)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)

    def own(h: Tensor) -> Tensor:
        state = h.split(sizes, dim=-1)
        step = x[:, None] if layer.batch_first else x[None]
        after = layer(step, state if layer.use_mixed else state[0])[1]
        return torch.cat(after, dim=-1) if layer.use_mixed else after

    assert model.batch_first == layer.batch_first
    torch.testing.assert_close(model.step(x, h), own(h), **CLOSE)
    exact = jacrev(own)(h)
    assert exact.abs().amax() > 0.01
    torch.testing.assert_close(jacrev(lambda h: model.step(x, h))(h), exact, **CLOSE)


@pytest.mark.parametrize("name", NCPS)
def test_ncps_whole_model(name: str) -> None:
    layer = ncps_layer(name)
    size = layer.state_size * (2 if layer.use_mixed else 1)
    if layer.batch_first:
        check_whole(layer, size, layer.output_size)
    else:
        inputs = sequences().transpose(0, 1).float()
        assert spectral_fingerprint(nn.Sequential(layer), inputs).exponents.shape == (B, size)


@pytest.mark.parametrize("kind", ["CfCCell", "LTCCell"])
def test_ncps_cells_that_a_model_calls_step_by_step(kind: str) -> None:
    package("ncps")
    torch_part, wirings = import_module("ncps.torch"), import_module("ncps.wirings")
    cell = torch_part.CfCCell(D, 6) if kind == "CfCCell" else None
    cell = cell or torch_part.LTCCell(wirings.FullyConnected(6), D)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, inputs: Tensor) -> Tensor:
            h = inputs.new_zeros(len(inputs), 6)
            for x in inputs.unbind(dim=1):
                _, h = self.cell(x, h, 1.0)
            return h

    by_steps = spectral_fingerprint(Loop(), sequences()).exponents
    along = spectral_fingerprint(cell, sequences().transpose(0, 1).float()).exponents
    np.testing.assert_allclose(by_steps, along, rtol=1e-4, atol=1e-5)


def test_a_liquid_cell_without_synapses_leaks_at_a_known_rate() -> None:
    """v' = (c v + g e) / (c + g) with c = 6 capacities, six times a step."""
    layer = ncps_layer("ltc").double()
    cell = layer.rnn_cell
    with torch.no_grad():
        for weights in (cell.w, cell.sensory_w):
            weights.fill_(-1e3)
    kept = 6 * nn.functional.softplus(cell.cm.detach())
    leak = nn.functional.softplus(cell.gleak.detach())
    model: Any = find_recurrent(layer)
    x, h = sequences()[:1, 0], torch.randn(1, 6).double()
    found = jacrev(lambda h: model.step(x, h))(h)[0, :, 0]
    expected = torch.diag((kept / (kept + leak)) ** 6)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def xlstm_slstm(**settings: Any) -> Any:
    cell = package("xlstm.blocks.slstm.cell")
    torch.manual_seed(0)
    config = cell.sLSTMCellConfig(
        hidden_size=6, num_heads=2, backend="vanilla", output_shape="BSH", **settings
    )
    return cell.sLSTMCell(config)


@pytest.mark.parametrize("function", ["slstm", "lstm"])
def test_xlstm_slstm_takes_the_steps_of_its_package(function: str) -> None:
    cell = spread(xlstm_slstm(function=function))
    model: Any = find_recurrent(cell)
    x = sequences(24)
    h = torch.randn(B, model.state_size, generator=torch.Generator().manual_seed(3)).double()

    def own(h: Tensor, x: Tensor) -> Tensor:
        """Theirs is (h, c, n, m), of which c and n are to be taken by exp(m)."""
        parts = h.chunk(3 if function == "slstm" else 2, dim=-1)
        given = torch.stack(parts)
        if function == "slstm":
            first, content, log_n = parts
            given = torch.stack([first, content, torch.ones_like(content), log_n])
        after = cell(x[:, None], given)[1]
        if function == "slstm":
            first, c, n, m = after
            return torch.cat([first, c / n, n.log() + m], dim=-1)
        return torch.cat(tuple(after), dim=-1)

    for t in range(T):
        now = x[:, t]
        torch.testing.assert_close(model.step(now, h), own(h, now), **CLOSE)
        exact = jacrev(lambda h, now=now: own(h, now))(h)
        found = jacrev(lambda h, now=now: model.step(now, h))(h)
        torch.testing.assert_close(found, exact, **CLOSE)
        h = own(h, now)


def xlstm_mlstm() -> Any:
    layer = package("xlstm.blocks.mlstm.layer")
    torch.manual_seed(0)
    config = layer.mLSTMLayerConfig(embedding_dim=D, context_length=64, num_heads=2)
    return layer.mLSTMLayer(config)


def test_xlstm_mlstm_rates_are_those_of_its_step() -> None:
    layer, inputs = spread(xlstm_mlstm(), 0.5), sequences()
    rates = rates_of(layer, inputs).unflatten(-1, (2, -1))
    state: dict[str, Any] = {"mlstm_state": None, "conv_state": None}
    with torch.no_grad():
        for t in range(T):
            x, before = inputs[:, t : t + 1], copy.deepcopy(state)
            _, state = layer.step(x, **state)
            if t == 0:
                continue
            c, n, m = before["mlstm_state"]
            before["mlstm_state"] = (c + 1.0, n + 1.0, m)
            moved, now = layer.step(x, **before)[1]["mlstm_state"], state["mlstm_state"]
            for with_it, without in zip(moved[:2], now[:2], strict=True):
                # What is stored is the memory over exp(m).
                kept = ((with_it - without).log() + now[2] - m).flatten(2)
                exact = rates[t, :, :, :1].expand_as(kept)
                torch.testing.assert_close(kept, exact, rtol=1e-8, atol=1e-8)
    assert rates.std(dim=0).amax() > 0.1


def test_xlstm_whole_model() -> None:
    xlstm = package("xlstm")
    check_whole(xlstm_mlstm(), 2 * 32 * 33)
    mlstm = xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=2))
    slstm = xlstm.sLSTMBlockConfig(slstm=xlstm.sLSTMLayerConfig(num_heads=2, backend="vanilla"))
    stack = xlstm.xLSTMBlockStack(
        xlstm.xLSTMBlockStackConfig(
            mlstm_block=mlstm,
            slstm_block=slstm,
            context_length=64,
            num_blocks=2,
            embedding_dim=D,
            slstm_at=[1],
        )
    )
    model = nn.Sequential(nn.Embedding(11, D), stack, nn.Linear(D, 1))
    fingerprint = spectral_fingerprint(model, torch.randint(11, (2, 30)))
    assert fingerprint.exponents.shape == (2, 2 * 32 * 33 + 3 * D)


def mixers(kind: str) -> Any:
    """A transformers model of one or two layers, its recurrent layer and its settings."""
    transformers = package("transformers")
    sizes: dict[str, Any] = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2}
    torch.manual_seed(0)
    if kind == "jamba":
        config = transformers.JambaConfig(
            **sizes,
            intermediate_size=8,
            num_attention_heads=2,
            num_key_value_heads=2,
            mamba_d_state=3,
            use_mamba_kernels=False,
            num_experts=1,
            attn_layer_period=2,
            attn_layer_offset=1,
        )
        model = transformers.JambaModel(config)
        return model, model.layers[0].mamba
    if kind == "mamba2":
        config = transformers.Mamba2Config(
            **sizes, num_heads=4, head_dim=4, state_size=3, n_groups=1, chunk_size=4
        )
        model = transformers.Mamba2Model(config)
        return model, model.layers[0].mixer
    name = {"mamba": "Mamba", "falcon": "FalconMamba"}[kind]
    config = getattr(transformers, f"{name}Config")(**sizes, state_size=3)
    model = getattr(transformers, f"{name}Model")(config)
    return model, model.layers[0].mixer


@pytest.mark.parametrize("kind", ["mamba", "falcon", "jamba", "mamba2"])
def test_transformers_mamba_rates_are_those_of_its_step(kind: str) -> None:
    model, mixer = mixers(kind)
    mixer, inputs = spread(mixer, 0.4), sequences(8)
    rates = rates_of(mixer, inputs)
    cache = import_module("transformers").DynamicCache(config=model.config)
    with torch.no_grad():
        for t in range(T):
            x = inputs[:, t : t + 1]
            if t > 3:
                moved = copy.deepcopy(cache)
                moved.get_recurrent_state(0).add_(1.0)
                mixer(x, moved)
            mixer(x, cache)
            if t > 3:
                kept = moved.get_recurrent_state(0) - cache.get_recurrent_state(0)
                exact = kept.double().log().flatten(1)
                torch.testing.assert_close(rates[t], exact, rtol=2e-3, atol=1e-4)
    assert rates.std(dim=0).amax() > 0.05


@pytest.mark.parametrize(
    ("kind", "n"), [("mamba", 96), ("falcon", 96), ("jamba", 48), ("mamba2", 96)]
)
def test_transformers_mamba_whole_model(kind: str, n: int) -> None:
    model, _ = mixers(kind)
    fingerprint = spectral_fingerprint(model, torch.randint(11, (2, 30)))
    assert fingerprint.exponents.shape == (2, n)
    assert (fingerprint.exponents < 0).all()


def test_transformers_rwkv() -> None:
    transformers = package("transformers")
    config = transformers.RwkvConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, context_length=64
    )
    model = transformers.RwkvModel(config)
    attention = model.blocks[0].attention
    rates = rates_of(attention.double(), sequences(8))
    rwkv = import_module("transformers.models.rwkv.modeling_rwkv")
    zero = torch.zeros(B, 1, 8).double()
    state = [torch.ones(B, 8).double(), torch.ones(B, 8).double(), torch.zeros(B, 8).double()]
    # A key that weighs nothing, so that the old state alone is left.
    _, (a, b, m) = rwkv.rwkv_linear_attention_cpu(
        attention.time_decay, attention.time_first, zero - 1e4, zero, state, return_state=True
    )
    for part, of_part in ((a, rates[0, :, ::2]), (b, rates[0, :, 1::2])):
        torch.testing.assert_close((part.log() + m).detach(), of_part, **CLOSE)
    fingerprint = spectral_fingerprint(model.float(), torch.randint(11, (2, 30)))
    assert fingerprint.exponents.shape == (2, 2 * 2 * 8)


def rg_lru_model() -> Any:
    transformers = package("transformers")
    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        lru_width=8,
        intermediate_size=24,
        attention_window_size=16,
        block_types=["recurrent", "attention"],
    )
    return transformers.RecurrentGemmaModel(config)


def test_transformers_rg_lru_rates_are_those_of_its_step() -> None:
    layer = rg_lru_model().layers[0].temporal_block.rg_lru
    layer, inputs = spread(layer), sequences(8)
    rates, position = rates_of(layer, inputs), torch.ones(B, 1)
    with torch.no_grad():
        for t in range(T):
            after = []
            for value in (0.0, 1.0):
                layer.recurrent_states = torch.full((B, 8), value)
                layer(inputs[:, t : t + 1], position)
                after.append(layer.recurrent_states.double())
            exact = (after[1] - after[0]).log()
            torch.testing.assert_close(rates[t], exact, rtol=2e-3, atol=1e-4)
    assert rates.std(dim=0).amax() > 0.05


def test_transformers_rg_lru_after_training_keeps_a_state_with_a_graph() -> None:
    model = rg_lru_model()
    tokens = torch.randint(11, (2, 30))
    model(tokens).last_hidden_state.sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model.layers[0].temporal_block.rg_lru)
    fingerprint = spectral_fingerprint(model, tokens)
    assert fingerprint.exponents.shape == (2, 8)
    assert np.isfinite(fingerprint.exponents).all()


def large_mlstm(weight_mode: str) -> Any:
    large = package("xlstm.xlstm_large.model")
    torch.manual_seed(0)
    config = large.mLSTMLayerConfig(
        embedding_dim=16,
        num_heads=2,
        weight_mode=weight_mode,
        mlstm_backend=large.mLSTMBackendConfig(mode="inference", return_last_states=True),
    )
    return large.mLSTMLayer(config).eval()


def transformers_xlstm() -> Any:
    transformers = package("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 16, "num_heads": 2, "num_blocks": 2}
    return transformers.xLSTMModel(transformers.xLSTMConfig(**sizes, use_cache=False)).eval()


@pytest.mark.parametrize("kind", ["transformers", "single", "fused"])
def test_large_xlstm_rates_are_the_forget_gates_that_its_backend_reads(kind: str) -> None:
    if kind == "transformers":
        layer = transformers_xlstm().blocks[0].mlstm_layer
    else:
        layer = large_mlstm(kind)
    for name, parameter in layer.named_parameters():
        if "gate_preact" in name:
            nn.init.normal_(parameter, std=5.0)
    inputs = sequences(16)
    rates = rates_of(layer, inputs).unflatten(-1, (2, -1))
    # C is (16 / 2) / 2 by 16 / 2, and n one number for each of its rows.
    assert rates.shape[-1] == 4 * (8 + 1)
    read: list[Tensor] = []
    backend = layer.mlstm_backend

    def note(**given: Any) -> Any:
        read.append(given["f"] if "f" in given else given["fgate"])
        return forward(**given)

    forward, backend.forward = backend.forward, note
    with torch.no_grad():
        layer(inputs.float())
    exact = nn.functional.logsigmoid(read[0]).permute(2, 0, 1).double()
    torch.testing.assert_close(rates[..., 0], exact, **FLOAT32)


def test_large_xlstm_backend_multiplies_its_memory_by_the_forget_gate() -> None:
    layer, x = large_mlstm("single"), sequences(16)[:, :1].float()
    rates = rates_of(layer, sequences(16)).unflatten(-1, (2, -1))[0, :, :, :1]
    after = []
    for value in (0.0, 1.0):
        c, n = torch.full((B, 2, 4, 8), value), torch.full((B, 2, 4), value)
        with torch.no_grad():
            after.append(layer(x, (c, n, torch.zeros(B, 2, 1)))[1])
    for part in (0, 1):
        kept = (after[1][part] - after[0][part]).log().flatten(2)
        kept = kept + after[0][2].reshape(B, 2, 1)
        torch.testing.assert_close(kept.double(), rates.expand(kept.shape), rtol=1e-3, atol=1e-4)


def test_transformers_xlstm_whole_model() -> None:
    fingerprint = spectral_fingerprint(transformers_xlstm(), torch.randint(11, (2, 30)))
    assert fingerprint.exponents.shape == (2, 2 * 2 * 36)


def test_a_subclass_counts_and_a_registered_class_goes_first() -> None:
    mingru = package("minGRU_pytorch")

    class Mine(mingru.minGRU):  # type: ignore[name-defined,misc]
        pass

    inputs = sequences(n_steps=40).float()
    torch.manual_seed(0)
    mine = Mine(D)
    found = lyapunov_spectrum(mine, inputs).exponents
    base = mingru.minGRU(D)
    base.load_state_dict(mine.state_dict())
    np.testing.assert_array_equal(found, lyapunov_spectrum(base, inputs).exponents)
    still = torch.zeros(1, 1, 1)
    register_cell(Mine, lambda module: from_log_rates(lambda x: still, 1, input_size=D))
    try:
        assert lyapunov_spectrum(mine, inputs.transpose(0, 1)).exponents.tolist() == [[0.0]] * B
    finally:
        del _registered[Mine]


def test_no_adapter_imports_the_package_that_it_reads() -> None:
    for path in Path(adapters.__file__).parent.glob("*.py"):
        lines = path.read_text().splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        known = ("__future__", "collections.abc", "copy", "importlib", "optuna_aelle", "torch")
        assert all(line.split()[1].startswith((*known, "typing")) for line in imports), path


def test_every_entry_names_a_function() -> None:
    for module, name in adapters.ADAPTERS:
        made = type(name, (nn.Module,), {"__module__": module})
        assert callable(adapters.adapter_for(made))
        assert adapters.adapter_for(type(name, (), {"__module__": "mine"})) is None


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        ("lru", "LRU_pytorch"),
        ("mambapy", "mambapy"),
        ("mingru", "minGRU_pytorch"),
        ("ncps", "ncps"),
        ("s5", "s5"),
        ("transformers", "transformers"),
        ("xlstm", "xlstm"),
    ],
)
def test_examples_where_the_package_is_there(file: str, needs: str) -> None:
    """They are skipped as examples, because most users have none of these packages."""
    package(needs)
    loaded = import_module(f"optuna_aelle.lyapunov.adapters.{file}")
    for found in doctest.DocTestFinder(exclude_empty=True).find(loaded):
        for example in found.examples:
            example.options.pop(doctest.SKIP, None)
        assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
