"""Several objectives: who is behind whom, who is stopped and why, what is tried next."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import spearmanr
from torch import nn

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import Checkpoints
from optuna_aelle import decode_values
from optuna_aelle import should_prune
from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.decisions import excerpts
from optuna_aelle.decisions import multi_objective
from optuna_aelle.decisions import promise
from optuna_aelle.decisions import reservoir as reservoir_module
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.decisions.front import FrontForecast
from optuna_aelle.decisions.front import decode_front_forecasts
from optuna_aelle.decisions.front import encode_front_forecast
from optuna_aelle.decisions.front import pareto_front
from optuna_aelle.decisions.pareto import front_ranks
from optuna_aelle.decisions.pareto import is_clearly_behind
from optuna_aelle.decisions.pareto import non_dominated
from optuna_aelle.decisions.promise import hypervolume_improvement
from optuna_aelle.decisions.promise import promise_beside
from optuna_aelle.decisions.reservoir import reservoir_of
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import NON_DOMINATED_HALVING
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.prediction.objectives import all_objectives
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.objectives import of_objective
from optuna_aelle.trials.storage import write_system_attributes

N_EPOCHS = 20
Values = Callable[[float, float], tuple[float, ...]]


def loss_of(trial: FrozenTrial | optuna.Trial, epoch: int) -> float:
    """Falls to what the parameters say; the larger the network, the better it can be."""
    size, rate = trial.params["size"], trial.params["rate"]
    end = 0.5 / math.sqrt(size / 8) + abs(math.log10(rate) + 2.0) / 3.0
    noise = np.random.default_rng([trial.number, epoch]).standard_normal()
    return end + math.exp(-epoch / 4.0) + 0.003 * noise


def train(
    trial: optuna.Trial,
    *,
    values: Values = lambda loss, size: (loss, size),
    spacing: int = 1,
    prunes: bool = True,
    **options: Any,
) -> tuple[float, ...]:
    trial.suggest_int("size", 8, 128, log=True)
    trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    told: tuple[float, ...] = ()
    for epoch in range(1, N_EPOCHS + 1):
        told = values(loss_of(trial, epoch), float(trial.params["size"]))
        if prunes and should_prune(trial.study, trial, told, epoch * spacing, **options):
            raise optuna.TrialPruned
    return told


def run(
    n_trials: int = 50,
    directions: tuple[str, ...] = ("minimize", "minimize"),
    sampler: optuna.samplers.BaseSampler | None = None,
    storage: BaseStorage | None = None,
    **options: Any,
) -> optuna.Study:
    study = optuna.create_study(
        directions=list(directions), sampler=sampler or RandomSampler(seed=0), storage=storage
    )
    study.optimize(lambda trial: train(trial, **options), n_trials=n_trials)
    return study


def epochs_of(study: optuna.Study) -> list[int]:
    return [len(decode_values(trial)) for trial in study.trials]


def volume_of(study: optuna.Study) -> float:
    """Dominated by what has finished, of losses up to 0.8 and sizes up to 2⁷, as exponents."""
    volume, least = 0.0, 7.0
    for loss, size in sorted(trial.values for trial in study.best_trials):
        if math.log2(size) < least:
            volume += max(0.8 - loss, 0.0) * (least - math.log2(size))
            least = math.log2(size)
    return volume


@pytest.fixture(scope="module")
def pruned() -> optuna.Study:
    return run(60)


# --- Pareto fronts


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_fronts_are_those_of_their_definition(k: int) -> None:
    # Few values, so that there are ties and equal points.
    points = np.random.default_rng(k).integers(0, 5, (60, k)).astype(float)
    left, rank = set(range(len(points))), 0
    ranks = front_ranks(points)
    while left:
        front = {
            i
            for i in left
            if not any(
                (points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in left
            )
        }
        assert {i for i in left if ranks[i] == rank} == front
        left, rank = left - front, rank + 1
    assert non_dominated(points).tolist() == (ranks == 0).tolist()


def test_one_is_clearly_behind_only_beyond_the_noise() -> None:
    point, tolerances = np.array([0.5, 0.5]), np.array([0.1, 0.0])
    assert is_clearly_behind(point, np.array([[0.7, 0.5]]), tolerances)
    assert not is_clearly_behind(point, np.array([[0.55, 0.9]]), tolerances)
    # Better at something is not behind, by how little so ever.
    assert not is_clearly_behind(point, np.array([[0.9, 0.49], [0.4, 0.9]]), tolerances)
    lost = np.array([-np.inf, -np.inf])
    assert is_clearly_behind(lost, point[None], tolerances)
    assert not is_clearly_behind(lost, lost[None], tolerances)


def test_the_front_is_the_one_that_optuna_finds(pruned: optuna.Study) -> None:
    found = pareto_front(pruned, all_objectives(pruned))
    assert {t.number for t in found} == {t.number for t in pruned.best_trials}


# --- what is stored


def test_values_are_stored_as_json_and_read_again(storage: BaseStorage) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], storage=storage)
    trial = study.ask()
    told = [(1.0, 0.5), (math.nan, 0.6), (0.9, math.inf)]
    for step, values in zip((3, 10, 7), told, strict=True):
        assert not should_prune(study, trial, values, step)
    found = decode_values(trial)
    assert list(found) == [3, 7, 10]
    np.testing.assert_equal(found[10], (math.nan, 0.6))
    np.testing.assert_equal(found[7], (0.9, math.nan))
    for key, payload in study.trials[0].system_attrs.items():
        # Standard JSON, and little of it: a row of MariaDB holds 64 KB.
        assert len(json.dumps({key: payload}, allow_nan=False)) < 200
    view = of_objective(study.trials[0], found, 1)
    np.testing.assert_equal(view.intermediate_values, {3: 0.5, 7: math.nan, 10: 0.6})


def test_a_step_counts_once() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    trial = study.ask()
    should_prune(study, trial, (1.0, 2.0), 1)
    should_prune(study, trial, (5.0, 6.0), 1)
    assert decode_values(trial) == {1: (1.0, 2.0)}


def test_a_retry_has_not_reported_what_its_failed_attempt_has() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    failed = study.ask()
    should_prune(study, failed, (1.0, 2.0), 1)
    study.tell(failed, state=TrialState.FAIL)
    inherited = {**study.trials[0].system_attrs, "failed_trial": 0, "retry_history": [0]}
    retry = study.ask()
    write_system_attributes(study, retry, inherited)
    assert decode_values(retry) == {}
    should_prune(study, retry, (3.0, 4.0), 1)
    assert decode_values(retry) == {1: (3.0, 4.0)}


@pytest.mark.parametrize(
    "payload",
    [7, {"version": 1}, {"version": 1, "values": "no"}, {"version": 1, "values": ["1"]}],
    ids=str,
)
def test_damaged_values_are_left_out_with_a_warning(payload: Any) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    trial = study.ask()
    should_prune(study, trial, (1.0, 2.0), 1)
    write_system_attributes(study, trial, {"aelle:values:2": payload})
    assert any("aelle:values" in found.message for found in diagnose(study))
    with pytest.warns(AeLLEWarning, match="aelle:values:2"):
        assert decode_values(trial) == {1: (1.0, 2.0)}


# --- who is stopped


def test_what_cannot_reach_the_front_is_stopped_and_the_front_stays(pruned: optuna.Study) -> None:
    whole = run(60, prunes=False)
    spent = sum(epochs_of(pruned))
    assert spent < 0.5 * 60 * N_EPOCHS
    assert volume_of(pruned) > 0.97 * volume_of(whole)
    by = {v.by for t in pruned.trials if (v := decode_verdict(t)) is not None}
    assert by == {AELLE, NON_DOMINATED_HALVING}


def test_equal_epochs_find_more(pruned: optuna.Study) -> None:
    n_whole = sum(epochs_of(pruned)) // N_EPOCHS
    assert volume_of(pruned) > volume_of(run(n_whole, prunes=False))


def test_the_verdict_is_on_the_trial_as_data_and_as_a_sentence(pruned: optuna.Study) -> None:
    stopped = [t for t in pruned.trials if t.state == TrialState.PRUNED]
    assert stopped
    for trial in stopped:
        verdict = decode_verdict(trial)
        assert verdict is not None
        assert verdict.step == max(decode_values(trial))
        assert verdict.values == decode_values(trial)[verdict.step]
        assert trial.user_attrs[DECISION_KEY] == verdict.sentence()
        if verdict.by == AELLE:
            assert verdict.front is not None
            assert verdict.front.chance < 0.05
            assert f"to beat trial {verdict.front.rival} of the Pareto front" in verdict.sentence()
        else:
            assert verdict.rank is not None
            assert verdict.n_compared is not None
            assert verdict.rank - 1 >= verdict.n_compared // 2
            assert f"{verdict.rank - 1} lie in better Pareto fronts" in verdict.sentence()
    assert all(decode_verdict(t) is None for t in pruned.trials if t not in stopped)


def test_an_objective_that_never_changes_is_known(pruned: optuna.Study) -> None:
    forecasts = [
        (trial, forecast)
        for trial in pruned.trials
        for forecast in decode_front_forecasts(trial).values()
    ]
    assert forecasts
    for trial, forecast in forecasts:
        assert forecast.values[1] == (trial.params["size"], 0.0)
        assert forecast.skills[1] is None
        assert forecast.skills[0] is not None
        assert forecast.skills[0].speaks
        low, high = forecast.intervals[0]
        assert low < forecast.values[0][0] < high


def test_forecasts_hold_the_ends_of_those_that_finished(pruned: optuna.Study) -> None:
    inside = [
        low <= trial.values[0] <= high
        for trial in pruned.trials
        if trial.state == TrialState.COMPLETE
        for (low, high), _ in (f.intervals for f in decode_front_forecasts(trial).values())
    ]
    assert len(inside) > 10
    assert np.mean(inside) > 0.6


def test_the_best_at_anything_goes_on() -> None:
    """The smallest network so far is never stopped, however much it errs."""
    study = run(30)
    smallest = min(t.params["size"] for t in study.trials)
    assert smallest > 2
    trial = study.ask()
    for epoch in range(1, N_EPOCHS + 1):
        assert not should_prune(study, trial, (50.0, 2.0), epoch)
    # And the hopeless one is.
    trial = study.ask()
    assert any(should_prune(study, trial, (50.0, 500.0), e) for e in range(1, N_EPOCHS + 1))


@pytest.mark.parametrize(
    ("directions", "values"),
    [
        (("maximize", "minimize"), lambda loss, size: (-loss, size)),
        (("minimize", "maximize"), lambda loss, size: (loss, -size)),
        (("maximize", "maximize"), lambda loss, size: (-3.0 * loss, -size)),
    ],
)
def test_directions_do_not_matter(
    pruned: optuna.Study, directions: tuple[str, ...], values: Values
) -> None:
    assert epochs_of(run(60, directions, values=values)) == epochs_of(pruned)


def test_the_order_of_objectives_does_not_matter(pruned: optuna.Study) -> None:
    study = run(60, values=lambda loss, size: (size, loss))
    assert epochs_of(study) == epochs_of(pruned)


def test_the_spacing_of_steps_does_not_matter(pruned: optuna.Study) -> None:
    assert epochs_of(run(60, spacing=100)) == epochs_of(pruned)


@pytest.mark.slow
def test_decisions_follow_from_the_storage(pruned: optuna.Study, tmp_path: Path) -> None:
    """A process that has seen nothing decides as the one that has seen all."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="s", directions=["minimize", "minimize"], storage=url)
    sampler = RandomSampler(seed=0)
    for _ in range(3):
        study = optuna.load_study(study_name="s", storage=url, sampler=sampler)
        study.optimize(train, n_trials=10)
    assert epochs_of(study) == epochs_of(pruned)[:30]


def test_several_workers_share_a_study(storage: BaseStorage) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], storage=storage)
    study.optimize(train, n_trials=30, n_jobs=3)
    states = [t.state for t in study.trials]
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 30
    assert TrialState.PRUNED in states


def test_three_objectives() -> None:
    study = run(
        60,
        ("minimize", "minimize", "maximize"),
        values=lambda loss, size: (loss, size, 1.0 / (0.1 + loss)),
    )
    assert sum(epochs_of(study)) < 0.7 * 60 * N_EPOCHS
    assert study.best_trials


def test_ask_and_tell_through_the_storage_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", directions=["minimize"] * 2, storage=url)
    for _ in range(4):
        asked = study.ask()
        # As another process would find it.
        there = optuna.load_study(study_name="s", storage=url)
        trial = optuna.Trial(there, asked._trial_id)
        try:
            study.tell(asked, train(trial))
        except optuna.TrialPruned:
            study.tell(asked, state=TrialState.PRUNED)
    assert [len(decode_values(t)) > 0 for t in study.trials] == [True] * 4


def test_a_diverged_trial_is_behind_and_many_of_them_are_equal() -> None:
    study = run(20)
    trial = study.ask()
    assert should_prune(study, trial, (math.nan, 1.0), 1)
    study = optuna.create_study(directions=["minimize", "minimize"])
    trials = [study.ask() for _ in range(8)]
    for epoch in range(1, 9):
        assert not any(should_prune(study, t, (math.nan, t.number), epoch) for t in trials)


def test_noise_on_a_plateau_stops_nobody() -> None:
    """Where both objectives are dice, whoever is behind is so by chance."""
    rng = np.random.default_rng(0)
    study = optuna.create_study(directions=["minimize", "minimize"])
    n_stopped = 0
    for _ in range(30):
        trial = study.ask()
        for epoch in range(1, N_EPOCHS + 1):
            told = 1.0 + 0.01 * rng.standard_normal(2)
            if should_prune(study, trial, told.tolist(), epoch):
                n_stopped += 1
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, told.tolist())
    assert n_stopped <= 6


def test_nothing_is_stopped_before_the_warm_up_nor_at_the_end() -> None:
    study = run(40, n_warmup_steps=6)
    steps = {v.step for t in study.trials if (v := decode_verdict(t)) is not None}
    assert steps
    assert min(steps) >= 6
    # A power of two, where halving looks.
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(12):
        trial = study.ask()
        for epoch in range(1, 9):
            loss = 0.1 if epoch < 8 or number < 8 else 9.0
            assert not should_prune(study, trial, (loss, 1.0), epoch)
        study.tell(trial, (loss, 1.0))


def test_what_breaks_a_constraint_stops_nobody() -> None:
    def constraints(trial: FrozenTrial) -> tuple[float, ...]:
        return (trial.user_attrs["broken"],)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(constraints_func=constraints)
    for broken, stopped in ((1.0, False), (-1.0, True)):
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        for _ in range(8):
            trial = study.ask()
            trial.set_user_attr("broken", broken)
            for epoch in range(1, 5):
                assert not should_prune(study, trial, (0.1, 1.0), epoch)
            study.tell(trial, (0.1, 1.0))
        trial = study.ask()
        assert should_prune(study, trial, (9.0, 9.0), 1) == stopped


# --- arguments and faults


def test_arguments_are_checked() -> None:
    study = optuna.create_study(study_name="two", directions=["minimize", "maximize"])
    trial = study.ask()
    with pytest.raises(
        ValueError, match=r"Expected 2 values.*'two' \(minimize, maximize\).*got 3"
    ):
        should_prune(study, trial, (1.0, 2.0, 3.0), 1)
    with pytest.raises(ValueError, match="Expected 2 values.*got 1"):
        should_prune(study, trial, 1.0, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected numbers"):
        should_prune(study, trial, (1.0, "a"), 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="risk must be in"):
        should_prune(study, trial, (1.0, 2.0), 1, risk=0.7)
    with pytest.raises(ValueError, match="n_startup_trials must be at least 4"):
        should_prune(study, trial, (1.0, 2.0), 1, n_startup_trials=3)
    with pytest.raises(ValueError, match="n_warmup_steps must be nonnegative"):
        should_prune(study, trial, (1.0, 2.0), 1, n_warmup_steps=-1)
    for step in (-1, 0.5, True, "3", math.nan, None):
        with pytest.raises(ValueError, match="step must be a whole number from 0 on"):
            should_prune(study, trial, (1.0, 2.0), step)  # type: ignore[arg-type]
    assert decode_values(trial) == {}


def test_arrays_and_tensors_are_values_too() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    trial = study.ask()
    should_prune(study, trial, np.array([1.0, 2.0], dtype=np.float32), np.int64(1))  # type: ignore
    should_prune(study, trial, [torch.tensor(3.0), np.float64(4.0)], 2)  # type: ignore[list-item]
    assert decode_values(trial) == {1: (1.0, 2.0), 2: (3.0, 4.0)}


def test_a_fixed_trial_is_never_stopped() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    assert not should_prune(study, optuna.trial.FixedTrial({}), (1.0, 2.0), 1)


def test_one_objective_is_left_to_the_pruner() -> None:
    def objective(trial: optuna.Trial, ours: bool) -> float:
        trial.suggest_int("size", 8, 128, log=True)
        trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        for epoch in range(1, N_EPOCHS + 1):
            loss = loss_of(trial, epoch)
            if ours:
                stop = should_prune(trial.study, trial, [loss], epoch)
            else:
                trial.report(loss, epoch)
                stop = trial.should_prune()
            if stop:
                raise optuna.TrialPruned
        return loss

    studies = []
    for ours in (False, True):
        study = optuna.create_study(sampler=RandomSampler(seed=0), pruner=AeLLEPruner())
        study.optimize(lambda trial, ours=ours: objective(trial, ours), n_trials=30)
        studies.append(study)
    told = [[t.intermediate_values for t in study.trials] for study in studies]
    assert told[0] == told[1]
    assert [t.user_attrs.get(DECISION_KEY) for t in studies[0].trials] == [
        t.user_attrs.get(DECISION_KEY) for t in studies[1].trials
    ]


def test_a_storage_that_fails_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    study = run(20)
    trial = study.ask()

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the database is gone")

    monkeypatch.setattr(study._storage, "get_all_trials", fails)
    with pytest.warns(AeLLEWarning, match="goes on") as caught:
        stopped = [should_prune(study, trial, (9.0, 999.0), e) for e in range(1, N_EPOCHS + 1)]
    assert not any(stopped)
    assert len(caught) == 1


def test_a_damaged_forecast_is_left_out() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    trial = study.ask()
    stored = study.trials[0]
    skills = (Skill(9.0, 0.5, 0.4), None)
    forecast = FrontForecast(4, ((1.0, 0.1), (2.0, 0.0)), 0, (0.5, 1.0), 0.01, skills)
    ((key, payload),) = encode_front_forecast(stored, forecast).items()
    write_system_attributes(study, trial, {key: payload})
    assert decode_front_forecasts(trial) == {4: forecast}
    for damage in ({"values": None}, {"skill": [[1.0]]}, {"rival": "x"}, {"values": [[1.0, 2.0]]}):
        write_system_attributes(study, trial, {key: {**payload, **damage}})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AeLLEWarning)
            assert decode_front_forecasts(trial) == {}


def test_checkpoints_save_and_nothing_is_resumed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        rate = trial.suggest_float("rate", 1e-3, 1.0, log=True)
        model = nn.Linear(2, 1)
        for epoch in checkpoints.epochs(trial, 4, model=model):
            if should_prune(trial.study, trial, (rate / (epoch + 1), 1.0 / rate), epoch):
                raise optuna.TrialPruned
        return rate, 1.0 / rate

    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.warns(AeLLEWarning, match="Nothing is resumed") as caught:
        study.optimize(objective, n_trials=8, callbacks=[checkpoints.resume_promising])
    assert len([w for w in caught if "resumed" in str(w.message)]) == 1
    assert len(study.trials) == 8


def test_a_retry_that_goes_on_has_what_was_reported_until_then(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    trained: list[int] = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        model = nn.Linear(2, 1)
        for epoch in checkpoints.epochs(trial, 6, model=model):
            trained.append(epoch)
            should_prune(trial.study, trial, (1.0 / (epoch + 1), math.nan), epoch)
            if trial.number == 0 and epoch == 3:
                raise RuntimeError
        return 1.0, 2.0

    study = optuna.create_study(directions=["minimize", "minimize"])
    study.optimize(objective, n_trials=1, catch=RuntimeError)
    saved = decode_checkpoints(study.trials[0])[0]
    assert saved.reports == saved.epoch + 1 <= 3
    optuna.storages.RetryFailedTrialCallback()(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert trained == [0, 1, 2, 3, *range(saved.epoch + 1, 6)]
    told = decode_values(study.trials[1])
    assert [loss for loss, _ in told.values()] == [1.0 / (epoch + 1) for epoch in range(6)]
    assert list(told) == list(range(6))


# --- what is tried next


@pytest.mark.parametrize("k", [2, 3])
def test_the_gain_of_hypervolume_is_the_one_that_is_counted(k: int) -> None:
    """Without doubt about the standings, against points thrown into the box."""
    rng = np.random.default_rng(k)
    front, points = rng.uniform(-1.0, 2.0, (4, k)), rng.uniform(-1.0, 2.5, (12, k))
    thrown = rng.uniform(-1.0, 2.5, (200_000, k))
    taken = (thrown[:, None] <= front).all(axis=2).any(axis=1)
    counted = [((thrown <= point).all(axis=1) & ~taken).mean() for point in points]
    found = hypervolume_improvement(points, np.full(points.shape, 1e-9), front)
    assert np.corrcoef(found, counted)[0, 1] > {2: 0.999, 3: 0.97}[k]
    # Directions are some of all: a gain in a corner may lie between them.
    assert (found[np.array(counted) > 0.01] > 0.0).all()
    assert (found[np.array(counted) == 0.0] < 0.01 * found.max()).all()


def test_the_gain_that_is_expected_is_the_mean_of_many() -> None:
    rng = np.random.default_rng(0)
    front, mean, std = (
        rng.normal(size=(4, 2)),
        rng.normal(size=(6, 2)),
        rng.uniform(0.1, 1, (6, 2)),
    )
    draws = mean + std * rng.normal(size=(2000, 6, 2))
    drawn = [hypervolume_improvement(d, np.full((6, 2), 1e-9), front) for d in draws]
    expected = hypervolume_improvement(mean, std, front)
    np.testing.assert_allclose(expected, np.mean(drawn, axis=0), rtol=0.2, atol=0.01)


def test_doubt_is_a_chance_and_no_front_is_fine() -> None:
    front = np.array([[1.0, 1.0]])
    mean = np.array([[0.5, 0.5], [0.5, 0.5], [2.0, 2.0]])
    std = np.array([[1e-9, 1e-9], [1.0, 1.0], [0.1, 0.1]])
    gains = hypervolume_improvement(mean, std, front)
    assert gains[0] == 0.0 < gains[1] < gains[2]
    alone = hypervolume_improvement(mean, std, np.zeros((0, 2)))
    assert (alone > gains).all()


@pytest.mark.slow
def test_the_sampler_finds_more_than_chance() -> None:
    samplers = (lambda seed: AeLLESampler(prior=None, seed=seed)), RandomSampler
    ours, chance = (
        np.mean([volume_of(run(40, sampler=make(seed=seed), prunes=False)) for seed in range(3)])
        for make in samplers
    )
    assert ours > 1.05 * chance


def test_the_sampler_works_without_should_prune_and_with_threads() -> None:
    def spectrum_of(params: dict[str, Any]) -> Any:
        return -np.arange(1.0, 9.0) * params["rate"]

    sampler = AeLLESampler(spectrum_of, seed=0)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.optimize(
        lambda trial: train(trial, prunes=False, values=lambda loss, size: (loss, -size)),
        n_trials=16,
        n_jobs=2,
    )
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert sampler.overhead_seconds > 0.0


def test_of_a_long_study_all_objectives_are_of_the_same_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few are compared; which ones must not depend on the objective that is looked at."""
    study = run(
        30,
        sampler=AeLLESampler(prior=None, seed=1),
        values=lambda loss, size: (size, loss),
        n_warmup_steps=N_EPOCHS + 1,
    )
    for name, n in {"LONG": 12, "_MOST_STARTED": 8}.items():
        monkeypatch.setattr(reservoir_module, name, n)
    for name, n in {"_MOST_COMPARED": 12, "_BEST": 4, "_ON_FRONT": 2}.items():
        monkeypatch.setattr(excerpts, name, n)
    reservoir = reservoir_of(study)
    assert reservoir is not None
    trials = started_trials(study)
    assert len(trials) < 12
    found = promise._expected(study, reservoir, trials)
    assert found is not None
    ended = [study.trials[t.number].values for t in trials]
    for objective, column in enumerate(found[0].T):
        ends = [-values[objective] for values in ended]
        assert spearmanr(ends, column[: len(trials)]).statistic > 0.8


def test_beside_candidates_halving_only_proposes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What promises more than all that could start goes on, whoever stands before it."""
    study = run(12, sampler=AeLLESampler(prior=None, seed=1))
    reservoir = reservoir_of(study)
    assert reservoir is not None
    trial = study.ask()
    trial.suggest_int("size", 8, 128, log=True)
    trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    should_prune(study, trial, (0.9, trial.params["size"]), 3)
    promises = promise_beside(study, trial.number)
    assert promises is not None
    for found, stopped in (((0.3, 0.2), False), ((0.2, 0.3), True)):
        monkeypatch.setattr(multi_objective, "promise_beside", lambda *_, found=found: found)
        assert should_prune(study, study.ask(), (60.0, 500.0), 1) == stopped
