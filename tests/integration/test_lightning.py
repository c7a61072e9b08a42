"""Lightning: what is reported and when, who is stopped, and where it goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.conftest import skip_unless_required

try:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.callbacks import EarlyStopping
    from lightning.pytorch.callbacks import ModelCheckpoint
except ImportError:
    skip_unless_required("lightning is not installed")

import optuna_aelle as aelle
from optuna_aelle import AeLLEWarning
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.integration.lightning_modules import Module
from tests.integration.lightning_modules import make_trainer
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import PROBE
from tests.integration.searches import dataset
from tests.integration.searches import stopping_study

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*litmodels", "ignore:.*LeafSpec"
)


@pytest.fixture(autouse=True)
def _one_warning_each() -> Any:
    """What Lightning tells of small data is not of interest, what we tell is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def fit(trial: Any, module: Any = None, monitor: Any = "val_loss", **options: Any) -> Any:
    """Train a module under a callback; options of the callback and of the trainer."""
    own = ("checkpoints", "probe", "module_name")
    given = {key: options.pop(key) for key in own if key in options}
    if "module_name" in given:
        given["module"] = given.pop("module_name")
    more = options.pop("callbacks", ())
    callback = aelle.integration.LightningCallback(
        trial, monitor=monitor, **({"probe": PROBE} | given)
    )
    module = Module() if module is None else module
    trainer = make_trainer(callback, *more, **options)
    trainer.fit(module)
    return module, trainer


def test_metric_and_spectra_of_each_epoch_are_reported() -> None:
    study = stopping_study()
    trial = study.ask()
    module, _ = fit(trial)
    values = study.trials[0].intermediate_values
    assert list(values) == list(range(N_EPOCHS))
    assert list(aelle.decode_spectra(trial)) == [-1, *range(N_EPOCHS)]
    spectrum = aelle.spectral_fingerprint(module.model.rnn, PROBE)
    assert aelle.decode_spectra(trial)[N_EPOCHS - 1][0] == pytest.approx(
        spectrum.mean[0], abs=1e-4
    )
    untrained = aelle.spectral_fingerprint(Module().model.rnn, PROBE)
    assert aelle.decode_spectra(trial)[-1][0] == pytest.approx(untrained.mean[0], abs=1e-4)
    module.eval()
    x, y = dataset(seed=1).tensors
    with torch.no_grad():
        last = F.mse_loss(module(x), y).item()
    assert values[N_EPOCHS - 1] == pytest.approx(last, rel=1e-5)
    assert study.pruner.asked == [(0, step) for step in range(-1, N_EPOCHS)]


def test_training_is_as_without_it() -> None:
    plain = Module()
    make_trainer().fit(plain)
    states = torch.get_rng_state(), np.random.get_state()[1]
    observed, _ = fit(stopping_study().ask())
    assert all(map(torch.equal, plain.parameters(), observed.parameters()))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert observed.model.training


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_a_stopped_trial_trains_no_further(step: int) -> None:
    study = stopping_study({0: step})
    modules = []

    def objective(trial: optuna.Trial) -> float:
        modules.append(Module())
        fit(trial, modules[-1])
        return 0.0

    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert modules[0].trained == list(range(step + 1))
    assert list(study.trials[0].intermediate_values) == list(range(step + 1))


def test_what_is_raised_says_when_and_why() -> None:
    study = stopping_study({0: 1})
    trial = study.ask()
    trial.set_user_attr("aelle:decision", "It was hopeless.")
    with pytest.raises(optuna.TrialPruned, match=r"0 was stopped after epoch 1\. It was hopeless"):
        fit(trial)


class EveryKind(Module):
    """Logs in every place where Lightning lets it."""

    def training_step(self, batch: Any, index: int) -> Any:
        loss = super().training_step(batch, index)
        self.log("step_loss", loss, on_step=True, on_epoch=True)
        self.log("each", loss, on_step=True, on_epoch=False)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("late", float(self.current_epoch))

    def on_validation_epoch_end(self) -> None:
        self.log("val_late", torch.tensor(10.0 + self.current_epoch))


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("train_loss", None),
        ("step_loss", None),
        ("step_loss_epoch", None),
        ("each", None),
        ("late", [0.0, 1.0, 2.0, 3.0]),
        ("val_late", [10.0, 11.0, 12.0, 13.0]),
    ],
)
def test_a_metric_may_be_logged_anywhere(monitor: str, expected: list[float] | None) -> None:
    study = stopping_study()
    fit(study.ask(), EveryKind(), monitor)
    values = study.trials[0].intermediate_values
    assert list(values) == list(range(N_EPOCHS))
    assert len(set(values.values())) == N_EPOCHS
    assert expected is None or list(values.values()) == expected


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3]), (2, [1, 3])])
def test_several_objectives_are_reported_together(every: int, steps: list[int]) -> None:
    """Those of training and of validation, in epochs that have both."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    fit(study.ask(), EveryKind(), ["train_loss", "val_late"], check_val_every_n_epoch=every)
    told = aelle.decode_values(study.trials[0])
    assert list(told) == steps
    assert [late for _, late in told.values()] == [10.0 + step for step in steps]
    assert len({loss for loss, _ in told.values()}) == len(steps)


def test_validations_between_epochs() -> None:
    study = stopping_study()
    fit(study.ask(), check_val_every_n_epoch=2)
    fit(study.ask(), EveryKind(), "late", check_val_every_n_epoch=2)
    fit(study.ask(), EveryKind(), "val_late", val_check_interval=0.5)
    fit(study.ask(), monitor="train_loss", limit_val_batches=0, num_sanity_val_steps=0)
    steps = [list(trial.intermediate_values) for trial in study.trials]
    assert steps == [[1, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert list(aelle.decode_spectra(study.trials[0])) == [-1, 1, 3]


@pytest.mark.parametrize(
    ("options", "n_epochs"),
    [
        ({}, 1),
        ({"check_val_every_n_epoch": 2}, 2),
        ({"check_val_every_n_epoch": 9}, N_EPOCHS),
        ({"limit_val_batches": 0}, 1),
    ],
)
def test_a_metric_that_is_missing_is_told_after_the_first_chance(
    options: dict[str, Any], n_epochs: int
) -> None:
    module = Module()
    with pytest.raises(ValueError, match=r"a metric 'loss'.*Available: .*'train_loss'"):
        fit(stopping_study().ask(), module, "loss", **options)
    assert module.trained == list(range(n_epochs))


class TwoOptimizers(Module):
    """Manual optimization, as of adversaries."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.model.rnn.parameters(), lr=0.02)
        second = torch.optim.SGD(self.model.head.parameters(), lr=0.1, momentum=0.9)
        return [first, second], [torch.optim.lr_scheduler.StepLR(second, 1, gamma=0.7)]


class Plateau(Module):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


class Remembering(Module):
    """Has a state that its parameters do not hold."""

    n_epochs = 0

    def on_train_epoch_end(self) -> None:
        self.n_epochs += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["n_epochs"] = self.n_epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.n_epochs = checkpoint["n_epochs"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Module, {}),
        (Module, {"accumulate_grad_batches": 3}),
        (Module, {"max_steps": 13}),
        (Module, {"precision": "bf16-mixed"}),
        (Module, {"check_val_every_n_epoch": 2}),
        (TwoOptimizers, {}),
        (Plateau, {}),
        (Remembering, {}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    kind: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """To the bit: weights, learning rates and counters, without dropout, which draws anew."""

    def make() -> Any:
        module = kind()
        module.model.dropout.p = 0.0
        return module

    whole = make()
    _, trainer = fit(stopping_study().ask(), whole, **options)
    checkpoints = aelle.Checkpoints(tmp_path)
    study = stopping_study({0: 1})
    modules, trainers = [], []

    def objective(trial: optuna.Trial) -> float:
        module, trainer = make(), None
        modules.append(module)
        _, trainer = fit(trial, module, checkpoints=checkpoints, **options)
        trainers.append(trainer)
        return trainer.callback_metrics["val_loss"].item()

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert modules[0].trained == [0, 1]
    assert modules[1].trained == whole.trained[2:]
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, modules[1].state_dict()[name]), name
    assert trainers[0].global_step == trainer.global_step
    assert trainers[0].current_epoch == trainer.current_epoch
    rates = [o.param_groups[0]["lr"] for o in trainer.optimizers]
    assert [o.param_groups[0]["lr"] for o in trainers[0].optimizers] == rates
    assert getattr(modules[1], "n_epochs", 0) == getattr(whole, "n_epochs", 0)
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert second.intermediate_values.items() >= first.intermediate_values.items()
    # The untrained network is that of the trial that was stopped.
    assert aelle.decode_spectra(second)[-1].tolist() == aelle.decode_spectra(first)[-1].tolist()
    restored = make()
    last = max(second.intermediate_values)
    assert checkpoints.restore(second, module=_Weights(restored)) == last
    # Where the last epoch ends amid its steps, there is no validation to report.
    same = torch.equal(restored.model.head.weight, whole.model.head.weight)
    assert same == (last == max(whole.trained))


class _Weights:
    def __init__(self, module: Any) -> None:
        self.module = module

    def state_dict(self) -> Any:
        return {"state_dict": self.module.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        self.module.load_state_dict(state["state_dict"])


class Data(LightningDataModule):
    """Shuffles by a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.orders: list[int] = []

    def train_dataloader(self) -> Any:
        return DataLoader(dataset(), batch_size=8, shuffle=True, generator=self.generator)

    def val_dataloader(self) -> Any:
        return DataLoader(dataset(seed=1), batch_size=16)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


def test_other_callbacks_and_data_go_on_too(tmp_path: Path) -> None:
    checkpoints = aelle.Checkpoints(tmp_path / "ours")
    study = stopping_study({0: 1})
    seen: list[Any] = []

    class Notes(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == 0:
                seen.append(batch[0][0, 0].item())

    def objective(trial: optuna.Trial | None) -> Any:
        early = EarlyStopping("val_loss", patience=50)
        best = ModelCheckpoint(tmp_path / "theirs", monitor="val_loss")
        callbacks = [early, best, Notes()]
        if trial is not None:
            callbacks.append(
                aelle.integration.LightningCallback(
                    trial, "val_loss", PROBE, checkpoints=checkpoints
                )
            )
        module = Module()
        module.model.dropout.p = 0.0
        make_trainer(*callbacks, enable_checkpointing=True, max_epochs=N_EPOCHS).fit(
            module, datamodule=Data()
        )
        return early, best

    whole_early, whole_best = objective(None)
    order, seen[:] = list(seen), []
    study.optimize(lambda trial: objective(trial) and 0.0, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    kept: list[Any] = []
    study.optimize(lambda trial: kept.extend(objective(trial)) or 0.0, n_trials=1)
    assert kept[0].best_score == whole_early.best_score
    assert kept[0].wait_count == whole_early.wait_count
    assert kept[1].best_model_score == whole_best.best_model_score
    assert seen == order


def test_checkpoints_need_an_end_and_a_whole_network(tmp_path: Path) -> None:
    checkpoints = aelle.Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"max_epochs=-1\. Pass Trainer\(max_epochs"):
        fit(stopping_study().ask(), checkpoints=checkpoints, max_epochs=-1, max_steps=3)


class WithoutForward(Module):
    forward = None  # type: ignore[assignment]

    def training_step(self, batch: Any, index: int) -> Any:
        loss = F.mse_loss(self.model(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", F.mse_loss(self.model(batch[0]), batch[1]))


def test_a_submodule_may_take_the_probe() -> None:
    study = stopping_study()
    trial = study.ask()
    fit(trial, WithoutForward(), module_name="model")
    assert list(aelle.decode_spectra(trial)) == [-1, *range(N_EPOCHS)]
    with pytest.raises(AttributeError, match="no attribute"):
        fit(study.ask(), module_name="modle")


@pytest.mark.parametrize("options", [{}, {"num_sanity_val_steps": 0}, {"limit_val_batches": 0}])
def test_without_a_probe_the_first_batch_is_one(options: dict[str, Any]) -> None:
    study = stopping_study()
    trial = study.ask()
    fit(trial, monitor="train_loss", probe=None, **options)
    found = aelle.decode_spectra(trial)
    assert list(found) == [-1, *range(N_EPOCHS)]
    seed = 1 if options == {} else 0
    untrained = aelle.spectral_fingerprint(Module().model, dataset(seed=seed).tensors[0][:8])
    assert found[-1] == pytest.approx(aelle.decode_spectra(_with(untrained))[-1], abs=1e-4)


def _with(spectrum: Any) -> optuna.trial.FixedTrial:
    trial = optuna.trial.FixedTrial({})
    aelle.report_spectrum(trial, spectrum, -1)
    return trial


class Texts(Module):
    """Batches without any tensor."""

    def train_dataloader(self) -> Any:
        return DataLoader(["a", "b"], batch_size=1)

    def val_dataloader(self) -> Any:
        return []

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.model(dataset().tensors[0]).square().mean()
        self.log("loss", loss)
        return loss


def test_without_anything_to_run_on_it_goes_on_and_says_so_once() -> None:
    study = stopping_study()
    with pytest.warns(AeLLEWarning, match="goes without spectra") as record:
        fit(study.ask(), Texts(), "loss", probe=None)
    assert sum(w.category is AeLLEWarning for w in record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        fit(study.ask(), Texts(), "loss", probe=None)
    assert len(study.trials[1].intermediate_values) == N_EPOCHS
    # It is asked before training all the same.
    assert study.pruner.asked[0] == (0, -1)


def test_a_network_without_recurrence_trains_on() -> None:
    class Flat(Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 1))

    study = stopping_study()
    with pytest.warns(AeLLEWarning, match="has no spectrum"):
        fit(study.ask(), Flat())
    assert len(study.trials[0].intermediate_values) == N_EPOCHS


def test_stopped_by_others_it_has_reported_what_was_trained() -> None:
    study = stopping_study()
    fit(
        study.ask(),
        monitor="train_loss",
        callbacks=[EarlyStopping("val_loss", patience=1, min_delta=100.0)],
    )
    fit(study.ask(), monitor="train_loss", max_epochs=-1, max_steps=6)
    assert [list(t.intermediate_values) for t in study.trials] == [[0, 1], [0, 1]]


def test_bad_arguments_are_told() -> None:
    make = aelle.integration.LightningCallback
    trial = stopping_study().ask()
    with pytest.raises(TypeError, match=r"an optuna\.Trial or a FixedTrial"):
        make(7, "val_loss")
    with pytest.raises(TypeError, match="name of a metric"):
        make(trial, ["val_loss", 1])
    with pytest.raises(ValueError, match="as many metrics .* as the study has objectives, 1,"):
        make(trial, ["val_loss", "train_loss"])
    with pytest.raises(TypeError, match=r"optuna_aelle\.Checkpoints or None"):
        make(trial, "val_loss", checkpoints="folder")
    with pytest.raises(ValueError, match="the trial of the first process"):
        make_trainer(make(None, "val_loss")).fit(Module())


def test_a_fixed_trial_is_trained_to_its_end() -> None:
    module, _ = fit(optuna.trial.FixedTrial({"x": 1.0}))
    assert module.trained == list(range(N_EPOCHS))


def test_validating_elsewhere_reports_nothing() -> None:
    study = stopping_study()
    callback = aelle.integration.LightningCallback(study.ask(), "val_loss", PROBE)
    trainer = make_trainer(callback)
    trainer.validate(Module(), verbose=False)
    assert study.trials[0].intermediate_values == {}


def test_the_first_pruned_trial_takes_few_lines() -> None:
    """What a user of Lightning adds to a module of theirs."""

    # [first search]
    def objective(trial: optuna.Trial) -> float:
        module = Module(seed=trial.suggest_int("seed", 0, 99))
        callback = aelle.integration.LightningCallback(trial, monitor="val_loss", probe=PROBE)
        trainer = make_trainer(callback)
        trainer.fit(module)
        return trainer.callback_metrics["val_loss"].item()

    study = optuna.create_study(sampler=RandomSampler(seed=0), pruner=aelle.AeLLEPruner())
    study.optimize(objective, n_trials=8)
    # [end]
    lines = Path(__file__).read_text().split("# [first search]\n")[1].split("# [end]")[0]
    assert len([line for line in lines.splitlines() if line.strip()]) < 10
    assert TrialState.PRUNED in [trial.state for trial in study.trials]
