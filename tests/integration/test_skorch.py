"""skorch: what is reported and when, who is stopped, and where it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from tests.conftest import skip_unless_required

try:
    from skorch import NeuralNetRegressor
    from skorch.callbacks import EpochScoring
    from skorch.callbacks import LRScheduler
    from skorch.helper import predefined_split
except ImportError:
    skip_unless_required("skorch is not installed")

import optuna_aelle as aelle
from optuna_aelle.trials.continuation import enqueue_continuation
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import PROBE
from tests.integration.searches import Reader
from tests.integration.searches import dataset
from tests.integration.searches import stopping_study
from tests.integration.searches import sums

pytestmark = pytest.mark.filterwarnings("ignore:.*last_lr")


def fit(*callbacks: Any, p: float = 0.0, **options: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "max_epochs": N_EPOCHS,
        "lr": 0.02,
        "optimizer": torch.optim.Adam,
        "batch_size": 8,
        "verbose": 0,
        "train_split": predefined_split(dataset(16, 1)),
    }
    net = NeuralNetRegressor(Reader, callbacks=list(callbacks), **(settings | options))
    net.initialize()
    net.module_.dropout.p = p
    net.partial_fit(*sums(32))
    return net


def make_callback(trial: Any, **options: Any) -> Any:
    return aelle.integration.SkorchCallback(trial, **({"probe": PROBE} | options))


def test_metric_and_spectra_of_each_epoch_are_reported() -> None:
    study = stopping_study()
    trial = study.ask()
    net = fit(make_callback(trial))
    assert list(study.trials[0].intermediate_values.values()) == net.history[:, "valid_loss"]
    found = aelle.decode_spectra(trial)
    assert list(found) == [-1, *range(N_EPOCHS)]
    last = aelle.spectral_fingerprint(net.module_, PROBE).mean[0]
    assert found[N_EPOCHS - 1][0] == pytest.approx(last, abs=1e-4)
    assert study.pruner.asked == [(0, step) for step in range(-1, N_EPOCHS)]


def test_several_objectives_are_reported_together() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    names = ["valid_loss", "train_loss"]
    net = fit(make_callback(study.ask(), monitor=names))
    told = [*aelle.decode_values(study.trials[0]).values()]
    assert told == [tuple(row) for row in net.history[:, names]]
    assert len(told) == N_EPOCHS


def test_training_is_as_without_it() -> None:
    plain = fit(p=0.2)
    state = torch.get_rng_state()
    observed = fit(make_callback(stopping_study().ask()), p=0.2)
    assert all(map(torch.equal, plain.module_.parameters(), observed.module_.parameters()))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_a_stopped_trial_trains_no_further(step: int) -> None:
    study = stopping_study({0: step})
    study.optimize(lambda trial: fit(make_callback(trial)) and 0.0, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == list(range(step + 1))


def schedule() -> Any:
    return LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.7)


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = fit(schedule())
    checkpoints = aelle.Checkpoints(tmp_path)
    study = stopping_study({0: 1})
    nets: list[Any] = []

    def objective(trial: optuna.Trial) -> float:
        nets.append(fit(schedule(), make_callback(trial, checkpoints=checkpoints)))
        return float(nets[-1].history[-1, "valid_loss"])

    study.optimize(objective, n_trials=1)
    enqueue_continuation(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert list(second.intermediate_values.values()) == whole.history[:, "valid_loss"]
    assert len(nets[0].history) == N_EPOCHS - 2
    assert nets[0].max_epochs == N_EPOCHS
    assert all(map(torch.equal, whole.module_.parameters(), nets[0].module_.parameters()))


def test_scores_of_other_callbacks_may_be_monitored() -> None:
    study = optuna.create_study(direction="maximize")
    scoring = EpochScoring("r2", lower_is_better=False, name="r2")
    net = fit(("r2", scoring), make_callback(study.ask(), monitor="r2"))
    assert list(study.trials[0].intermediate_values.values()) == net.history[:, "r2"]


def test_without_a_probe_the_first_batch_is_one() -> None:
    study = stopping_study()
    trial = study.ask()
    fit(make_callback(trial, probe=None))
    untrained = aelle.decode_spectra(trial)[-1]
    again = study.ask()
    fit(make_callback(again, probe=sums(32)[0][:8]))
    assert aelle.decode_spectra(again)[-1] == pytest.approx(untrained, abs=1e-6)


def test_what_is_missing_is_told() -> None:
    callback = make_callback(stopping_study().ask())
    with pytest.raises(ValueError, match=r"'valid_loss'.*Available: .*'train_loss'"):
        fit(callback, train_split=None)
    with pytest.raises(TypeError, match="expected|Expected the trial"):
        fit(make_callback(7))
