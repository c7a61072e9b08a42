"""The whole way on every storage: report, prune, sample, save, go on, draw, and be read again."""

from __future__ import annotations

import json
import math
import pickle
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

import optuna_aelle as aelle
from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.storage import study_system_attributes
from tests.storages.stores import LOCAL
from tests.storages.stores import SERVERS
from tests.storages.stores import opened

N_EPOCHS = 5
# What a value of an attribute may hold on MySQL and MariaDB.
LIMIT = 65_535
PROBE = torch.linspace(-1.0, 1.0, 30).reshape(15, 2, 1)


@pytest.fixture(
    params=[*LOCAL, *(pytest.param(kind, marks=pytest.mark.services) for kind in SERVERS)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BaseStorage, str]]:
    """A storage, and the name of a study."""
    name = f"aelle-{uuid.uuid4().hex}"
    with opened(request.param, name, tmp_path) as storage:
        yield storage, name


def build(params: dict[str, Any]) -> torch.nn.GRU:
    """Weights decide of themselves how well a network remembers."""
    torch.manual_seed(params["hidden_size"])
    rnn = torch.nn.GRU(1, params["hidden_size"])
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(params["gain"])
    return rnn


def whole_study(storage: BaseStorage, name: str, folder: Path) -> tuple[optuna.Study, Any]:
    """A search of real, tiny networks, and its objective."""
    checkpoints = aelle.Checkpoints(folder / "checkpoints")
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=aelle.AeLLESampler(
            lambda params: aelle.spectral_fingerprint(build(params), PROBE),
            n_candidates=16,
            seed=0,
        ),
        pruner=aelle.AeLLEPruner(),
    )

    def objective(trial: optuna.Trial) -> float:
        rnn = build(
            {
                "hidden_size": trial.suggest_int("hidden_size", 3, 8),
                "gain": trial.suggest_float("gain", 0.2, 3.0),
            }
        )
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        optimizer = torch.optim.Adam(rnn.parameters(), rate)
        aelle.report_network(trial, rnn, PROBE, step=-1)
        value = math.nan
        for epoch in checkpoints.epochs(trial, N_EPOCHS, model=rnn, optimizer=optimizer):
            loss = (rnn(PROBE)[0].mean(-1) - PROBE[..., 0].roll(1, 0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            aelle.report_network(trial, rnn, PROBE, step=epoch)
            value = loss.item()
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=20, callbacks=[checkpoints.resume_promising])
    return study, objective


@pytest.mark.slow
def test_the_whole_way(place: tuple[BaseStorage, str], tmp_path: Path) -> None:
    storage, name = place
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study, objective = whole_study(storage, name, tmp_path)
        aelle.save_dashboard_plots(study)

    read = optuna.load_study(study_name=name, storage=_opened_anew(storage))
    ended = read.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert [t.number for t in ended][:20] == list(range(20))
    pruned = [t for t in ended if t.state == TrialState.PRUNED]
    assert pruned
    assert any(t.state == TrialState.COMPLETE for t in ended)
    for trial in ended:
        spectra = aelle.decode_spectra(trial)
        assert list(spectra) == [-1, *sorted(trial.intermediate_values)]
        assert all(len(exponents) == 32 for exponents in spectra.values())
        assert decode_checkpoints(trial)
        verdict = decode_verdict(trial)
        assert (verdict is not None) == (trial.state == TrialState.PRUNED)
        if verdict is not None:
            assert verdict.step == trial.last_step
            assert trial.user_attrs[DECISION_KEY] == verdict.sentence()
        for attributes in (trial.user_attrs, trial.system_attrs):
            assert all(len(json.dumps(value).encode()) < LIMIT for value in attributes.values())
    plots = {k for k in study_system_attributes(read) if k.startswith("dashboard:plot_data:")}
    assert len({key.split(":")[2] for key in plots}) >= 4

    # One that was stopped goes on, whatever else would have been started.
    stopped = max(
        (t for t in pruned if t.last_step is not None and t.last_step < N_EPOCHS - 1),
        key=lambda t: t.number,
    )
    enqueue_continuation(study, stopped)
    waiting = study.get_trials(states=(TrialState.WAITING,))
    study.optimize(objective, n_trials=len(waiting))
    going_on = study.trials[waiting[-1].number]
    assert origin_of(going_on) == stopped.number
    assert going_on.params == stopped.params
    assert set(stopped.intermediate_values) < set(going_on.intermediate_values)
    for step, value in stopped.intermediate_values.items():
        assert going_on.intermediate_values[step] == value


def _opened_anew(storage: BaseStorage) -> BaseStorage:
    """As another process would have it; what is in memory is in this one alone."""
    if isinstance(storage, InMemoryStorage):
        return storage
    opened: BaseStorage = pickle.loads(pickle.dumps(storage))
    return opened
