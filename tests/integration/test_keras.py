"""Keras 3 on torch: its layers are the same maps as ours, and its trainings report and go on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from tests.conftest import skip_unless_required

try:
    import keras
except ImportError:
    skip_unless_required("keras is not installed")

import optuna_aelle as aelle
from optuna_aelle import AeLLEWarning
from optuna_aelle.integration import keras_network
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import PROBE
from tests.integration.searches import stopping_study
from tests.integration.searches import sums

layers = keras.layers


def randomised(model: Any) -> Any:
    """With biases, too, so that each has to be in its place; those keep a ReLU alive."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        values = rng.normal(scale=0.4, size=weight.shape).astype(np.float32)
        weight.assign(values + ("bias" in weight.path))
    return model


def exponents_of_steps(layer: Any, x: torch.Tensor, n_steps: int) -> np.ndarray:
    """From the product of numerical Jacobians of Keras' own step, by QR.

    Central differences of the state after one step, wide enough for float32, in which Keras
    multiplies, along one sequence ``x (T, D)``.
    """
    cell = layer.cell
    start = layer.get_initial_state(batch_size=1)
    sizes = [part.shape[-1] for part in keras.tree.flatten(start)]

    def step(inputs: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        states = keras.tree.pack_sequence_as(start, list(torch.split(h, sizes, dim=-1)))
        read = inputs.double().expand(len(h), -1)
        return torch.cat(keras.tree.flatten(cell.call(read, states)[1]), dim=-1).detach()

    n = sum(sizes)
    h = torch.zeros(1, n, dtype=torch.float64)
    frame, total = np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))[0], np.zeros(n)
    eye, e = torch.eye(n, dtype=torch.float64), 3e-3
    warmup = len(x) - n_steps
    for t, inputs in enumerate(x):
        jacobian = ((step(inputs, h + e * eye) - step(inputs, h - e * eye)) / (2 * e)).T.numpy()
        frame, r = np.linalg.qr(jacobian @ frame)
        if t >= warmup:
            total += np.log(np.abs(np.diag(r)))
        h = step(inputs, h)
    return np.sort(total / n_steps)[::-1]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: layers.SimpleRNN(4), torch.nn.RNN),
        (lambda: layers.SimpleRNN(4, use_bias=False), torch.nn.RNN),
        (lambda: layers.SimpleRNN(4, activation="relu"), torch.nn.RNN),
        (lambda: layers.LSTM(4), torch.nn.LSTM),
        (lambda: layers.LSTM(4, use_bias=False), torch.nn.LSTM),
        (lambda: layers.GRU(4), torch.nn.GRU),
        (lambda: layers.GRU(4, use_bias=False), torch.nn.GRU),
        (lambda: layers.RNN(layers.GRUCell(4), return_sequences=True), torch.nn.GRU),
        (lambda: layers.GRU(4, reset_after=False), None),
        (lambda: layers.LSTM(3, recurrent_activation="hard_sigmoid"), None),
        (lambda: layers.SimpleRNN(4, activation="elu"), None),
        (lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]), None),
    ],
)
def test_exponents_are_those_of_keras_own_steps(make: Any, kind: Any) -> None:
    layer = make()
    model = keras.Sequential([keras.Input((60, 3)), layer])
    randomised(model)
    x = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(1))
    ((network, read),) = keras_network(model).recurrent_layers(x).values()
    assert kind is None or type(network) is kind
    assert torch.equal(read.cpu(), x)
    spectrum = aelle.lyapunov_spectrum(keras_network(model), x.double(), warmup=20)
    expected = exponents_of_steps(layer, x[0], 40)
    # The sum belongs to the map alone, each exponent by itself to where tangent vectors began.
    assert spectrum.mean.sum() == pytest.approx(expected.sum(), abs=5e-3)
    assert spectrum.mean == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("make", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_a_mapped_layer_returns_what_keras_returns(make: Any) -> None:
    model = randomised(keras.Sequential([keras.Input((9, 3)), make(5, return_sequences=True)]))
    x = torch.randn(2, 9, 3)
    ((network, _),) = keras_network(model).recurrent_layers(x).values()
    with torch.no_grad():
        assert torch.allclose(network(x)[0], model(x), atol=1e-6)


def test_every_layer_reads_what_the_model_feeds_it() -> None:
    tokens = keras.Input((30,), dtype="int32")
    embedded = layers.Embedding(20, 4)(tokens)
    lower = layers.LSTM(5, return_sequences=True, name="lower")(embedded)
    both = layers.Bidirectional(layers.GRU(3), name="both")(layers.LayerNormalization()(lower))
    model = keras.Model(tokens, layers.Dense(2)(both))
    found = keras_network(model).recurrent_layers(torch.randint(20, (2, 30)))
    shapes = [tuple(read.shape) for _, read in found.values()]
    assert shapes == [(2, 30, 4), (2, 30, 5), (2, 30, 5)]
    forward, backward = [read for name, (_, read) in found.items() if "both" in name]
    assert torch.equal(forward, backward.flip(1))
    spectrum = aelle.spectral_fingerprint(keras_network(model), torch.randint(20, (2, 30)))
    assert spectrum.state_size == 2 * 5 + 2 * 3
    assert "call" not in vars(model.layers[2])


def test_what_is_no_recurrent_network_is_told() -> None:
    with pytest.raises(ValueError, match="has none"):
        aelle.lyapunov_spectrum(
            keras_network(keras.Sequential([keras.Input((3,)), layers.Dense(1)])),
            torch.zeros(2, 30, 3),
        )


def make_model(p: float = 0.0) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((20, 1)), layers.GRU(6), layers.Dropout(p), layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse", metrics=["mae"])
    return model


def fit(*callbacks: Any, p: float = 0.0, **options: Any) -> Any:
    x, y = (t.numpy() for t in sums(32))
    model = make_model(p)
    settings = {"epochs": N_EPOCHS, "batch_size": 8, "shuffle": False, "verbose": 0}
    settings["validation_data"] = tuple(t.numpy() for t in sums(16, 1))
    model.history_ = model.fit(x, y, callbacks=list(callbacks), **(settings | options)).history
    return model


def make_callback(trial: Any, **options: Any) -> Any:
    return aelle.integration.KerasCallback(trial, **({"probe": PROBE.numpy()} | options))


def test_metric_and_spectra_of_each_epoch_are_reported() -> None:
    study = stopping_study()
    trial = study.ask()
    model = fit(make_callback(trial))
    values = study.trials[0].intermediate_values
    assert list(values.values()) == model.history_["val_loss"]
    found = aelle.decode_spectra(trial)
    assert list(found) == [-1, *range(N_EPOCHS)]
    last = aelle.spectral_fingerprint(keras_network(model), PROBE).mean[0]
    assert found[N_EPOCHS - 1][0] == pytest.approx(last, abs=1e-4)
    assert study.pruner.asked == [(0, step) for step in range(-1, N_EPOCHS)]


def test_several_objectives_are_reported_together() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    names = ["val_loss", "mae"]
    history = fit(make_callback(study.ask(), monitor=names)).history_
    told = [*aelle.decode_values(study.trials[0]).values()]
    assert told == list(zip(*(history[name] for name in names), strict=True))
    assert len(told) == N_EPOCHS


def test_training_is_as_without_it() -> None:
    plain = fit(p=0.2)
    state = torch.get_rng_state()
    observed = fit(make_callback(stopping_study().ask()), p=0.2)
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(plain.variables, observed.variables, strict=True):
        assert torch.equal(one.value, other.value)


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_a_stopped_trial_trains_no_further(step: int) -> None:
    study = stopping_study({0: step})
    study.optimize(lambda trial: fit(make_callback(trial)) and 0.0, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == list(range(step + 1))


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """To the bit, without dropout, which draws from the process's random numbers."""
    whole = fit()
    checkpoints = aelle.Checkpoints(tmp_path)
    study = stopping_study({0: 1})
    models: list[Any] = []

    def objective(trial: optuna.Trial) -> float:
        models.append(fit(make_callback(trial, checkpoints=checkpoints)))
        return float(models[-1].history_["val_loss"][-1])

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert list(second.intermediate_values.values()) == whole.history_["val_loss"]
    for one, other in zip(whole.variables, models[0].variables, strict=True):
        assert torch.equal(one.value, other.value)
    # Another fit of the same model is whole.
    x, y = (t.numpy() for t in sums(8))
    assert models[0].fit(x, y, epochs=3, verbose=0).epoch == [0, 1, 2]


def test_what_is_missing_is_told() -> None:
    study = stopping_study()
    with pytest.raises(ValueError, match=r"'accuracy'.*Available: 'loss', 'mae', 'val_loss'"):
        fit(make_callback(study.ask(), monitor="accuracy"))
    with pytest.raises(ValueError, match="at least 1"):
        make_callback(study.ask(), validation_freq=0)
    fit(make_callback(study.ask(), validation_freq=2), validation_freq=2)
    assert list(study.trials[-1].intermediate_values) == [1, 3]


def test_without_a_probe_it_goes_on_and_says_so_once() -> None:
    study = stopping_study()
    with pytest.warns(AeLLEWarning, match="goes without spectra"):
        fit(make_callback(study.ask(), probe=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        fit(make_callback(study.ask(), probe=None))
    assert len(study.trials[1].intermediate_values) == N_EPOCHS
