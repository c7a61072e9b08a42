"""What all callbacks share: several objectives are reported and asked about together."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial
from torch import nn

import optuna_aelle as aelle
from optuna_aelle.integration._reporting import TrialReporter
from tests.integration.searches import Stops

NAMES = ("loss", "accuracy")


def train(
    trial: optuna.trial.BaseTrial, good: float, checkpoints: aelle.Checkpoints | None = None
) -> tuple[float, float]:
    """Both objectives get better from epoch to epoch, and are better the better a network is."""
    model = nn.GRU(1, 4, batch_first=True)
    reporter = TrialReporter(trial, NAMES, None, checkpoints)
    first = reporter.begin(4, model=model)
    reporter.untrained(model)
    for epoch in range(first, 4):
        loss, accuracy = 1.0 / (1.0 + epoch) - good, 0.1 * epoch + good
        reporter.epoch(model, {"accuracy": accuracy, "loss": loss, "other": 7.0}, epoch)
    return loss, accuracy


def make_study() -> optuna.Study:
    # That pruner would stop each trial at once: it must not be asked.
    return optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=RandomSampler(seed=0),
        pruner=Stops(dict.fromkeys(range(99), -1)),
    )


@pytest.mark.parametrize("saves", [False, True])
def test_a_trial_that_is_behind_in_all_is_stopped(tmp_path: Path, saves: bool) -> None:
    study = make_study()
    checkpoints = aelle.Checkpoints(tmp_path) if saves else None
    study.optimize(lambda trial: train(trial, 10.0 + trial.number, checkpoints), n_trials=5)
    assert {t.state.name for t in study.trials} == {"COMPLETE"}
    assert [*aelle.decode_values(study.trials[2]).values()][-1] == tuple(study.trials[2].values)
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match=r"after epoch 0\. .*front"):
        train(trial, -10.0, checkpoints)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert aelle.decode_values(study.trials[-1]) == {0: (11.0, -10.0)}


def test_a_fixed_trial_is_trained_to_its_end() -> None:
    assert train(FixedTrial({}), 0.0) == (0.25, pytest.approx(0.3))


def test_each_objective_has_its_metric() -> None:
    with pytest.raises(ValueError, match="as the study has objectives, 2, but got 'loss'"):
        TrialReporter(make_study().ask(), "loss", None)
    for nothing in ([], 3, {"loss", "accuracy"}):
        with pytest.raises(TypeError, match="several in a list or tuple"):
            TrialReporter(FixedTrial({}), nothing, None)  # type: ignore[arg-type]
