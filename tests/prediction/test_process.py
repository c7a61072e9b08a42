from __future__ import annotations

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial
from scipy.stats import spearmanr

from benchmarks.race.ablations import Rigid
from optuna_aelle.prediction.network import Outlook
from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.process import forecast_field
from optuna_aelle.prediction.reading import Reader
from optuna_aelle.prediction.training import Lessons
from optuna_aelle.prediction.training import Settings
from optuna_aelle.prediction.training import train_network
from tests.prediction.tables import LENGTH
from tests.prediction.tables import made_up_table

SMALL = Settings(members=2, hidden=24, encoder_hidden=16, latent=3, steps=500, folds=3)


@pytest.fixture(scope="module")
def prior() -> Prior:
    tables = [made_up_table(f"task {i}", i) for i in range(6)]
    return Prior(train_network({t.name: [Lessons.of(t)] for t in tables}, SMALL))


class Reversed(StandingNetwork):
    """Says of untrained networks the opposite of what it has learned."""

    def outlook(self, columns: np.ndarray) -> Outlook:
        outlook = super().outlook(columns)
        untrained = np.isnan(columns[:, -3]) | (columns[:, -3] == 0.0)
        return outlook._replace(mean=np.where(untrained, -outlook.mean, outlook.mean))


def reverse(prior: Prior) -> Prior:
    assert prior.network is not None
    return Prior(Reversed(**vars(prior.network)))


def cut(trial: FrozenTrial, n_reports: int) -> FrozenTrial:
    """The trial as it was after so many reports."""
    shortened = copy.copy(trial)
    shortened.state = TrialState.PRUNED if n_reports else TrialState.RUNNING
    shortened.values = None
    shortened.intermediate_values = {
        step: v for step, v in trial.intermediate_values.items() if step <= n_reports
    }
    shortened.system_attrs = {
        key: x for key, x in trial.system_attrs.items() if int(key.split(":")[-1]) <= n_reports
    }
    return shortened


def test_before_anything_has_started_the_prior_speaks_alone(prior: Prior) -> None:
    trials = [cut(t, 0) for t in made_up_table("new", 50).trials]
    field = forecast_field(prior, [], trials, Reader(-1.0))
    mean, std = prior.predict(trials)
    assert field.mean == pytest.approx(mean)
    assert field.std == pytest.approx(std)
    assert forecast_field(prior, [], [], Reader(-1.0)).mean.shape == (0,)


def test_what_the_prior_does_not_know_is_learned_from_the_study(prior: Prior) -> None:
    # Here the temperature decides, of which the prior has never heard.
    table = made_up_table("new", 51, n=80, best_temperature=0.3)
    started, rest = table.trials[:40], [cut(t, 0) for t in table.trials[40:]]
    before = forecast_field(prior, [], rest, Reader(-1.0))
    after = forecast_field(prior, started, rest, Reader(-1.0))
    truth = -table.finals[40:]
    gained = spearmanr(after.mean[40:], truth)[0] - spearmanr(before.mean, truth)[0]
    assert gained > 0.2
    # Stopped ones teach as well, if not as much.
    stopped = forecast_field(prior, [cut(t, 3) for t in started], rest, Reader(-1.0))
    assert spearmanr(stopped.mean[40:], truth)[0] > spearmanr(before.mean, truth)[0] + 0.1


def test_in_which_way_a_study_differs_is_seen_after_a_few_trials() -> None:
    # Of the learning rate that is best every study says something else.
    rates = np.geomspace(3e-4, 3e-2, 10).tolist()
    tables = [made_up_table(f"task {i}", i, n=60, best_rate=r) for i, r in enumerate(rates)]
    settings = replace(SMALL, folds=0)
    network = train_network({t.name: [Lessons.of(t)] for t in tables}, settings)
    gained = []
    for seed, rate in ((60, 3e-4), (61, 3e-2), (62, 3e-4), (63, 3e-2)):
        table = made_up_table("new", seed, n=66, best_rate=rate)
        started, rest = table.trials[:6], [cut(t, 0) for t in table.trials[6:]]
        ranked = [
            spearmanr(
                forecast_field(Prior(one), started, rest, Reader(-1.0)).mean[6:],
                -table.finals[6:],
            )[0]
            for one in (network, Rigid(**vars(network)))
        ]
        assert ranked[0] > 0.5
        gained.append(ranked[0] - ranked[1])
    assert np.mean(gained) > 0.05


def test_what_ways_and_own_spread_leave_adds_up(prior: Prior) -> None:
    assert prior.network is not None
    lessons = Lessons.of(made_up_table("new", 55))
    outlook = prior.network.outlook(lessons.columns[lessons.untrained].astype(np.float64))
    explained = (outlook.ways**2).sum(axis=1)
    assert (outlook.own <= outlook.std).all()
    assert explained.mean() == pytest.approx((outlook.std**2 - outlook.own**2).mean())
    half = outlook.weighted(0.5)
    assert half.mean == pytest.approx(0.5 * outlook.mean)
    assert (half.std >= outlook.std).all()
    nothing = outlook.weighted(0.0)
    assert not nothing.mean.any()
    assert not nothing.ways.any()
    assert nothing.own == pytest.approx(nothing.std)
    less = outlook.narrowed(outlook.mean + 1.0, 0.5 * outlook.std)
    assert less.own == pytest.approx(0.5 * outlook.own)
    assert less.ways == pytest.approx(0.5 * outlook.ways)


def test_what_is_kept_between_questions_changes_no_answer(prior: Prior) -> None:
    table = made_up_table("new", 56)
    reader = Reader(-1.0)
    running = cut(table.trials[0], 1)
    rest = [cut(t, 0) for t in table.trials[10:]]
    for n_reports in (1, 2, 4):
        running.intermediate_values = dict(
            list(table.trials[0].intermediate_values.items())[:n_reports]
        )
        kept = forecast_field(prior, [running, *table.trials[1:10]], rest, reader)
        anew = forecast_field(prior, [running, *table.trials[1:10]], rest, Reader(-1.0))
        assert kept.mean == pytest.approx(anew.mean)
        assert kept.std == pytest.approx(anew.std)
    # Nor another prior, nor a candidate that has gone.
    for other, left in ((reverse(prior), rest), (prior, rest[1:])):
        kept = forecast_field(other, [running], left, reader)
        anew = forecast_field(other, [running], left, Reader(-1.0))
        assert kept.mean == pytest.approx(anew.mean)


def test_a_prior_that_is_wrong_here_loses_its_weight(prior: Prior) -> None:
    table = made_up_table("new", 52, n=80)
    truth = -table.finals[40:]
    rest = [cut(t, 0) for t in table.trials[40:]]
    wrong = reverse(prior)
    assert spearmanr(forecast_field(wrong, [], rest, Reader(-1.0)).mean, truth)[0] < -0.4
    learned = forecast_field(wrong, table.trials[:40], rest, Reader(-1.0))
    assert spearmanr(learned.mean[40:], truth)[0] > 0.3


def test_the_middle_of_a_good_selection_is_not_the_middle_of_the_space(prior: Prior) -> None:
    table = made_up_table("new", 53, n=120)
    untrained = [cut(t, 0) for t in table.trials]
    order = np.argsort(-prior.predict(untrained)[0])
    best = [cut(table.trials[i], 4) for i in order[:15]]
    rest = [untrained[i] for i in order[15:]]
    field = forecast_field(prior, best, rest, Reader(-1.0))
    # Most of the best fifteen are ahead of nearly all that have not started.
    assert np.median(field.mean[:15]) > np.quantile(field.mean[15:], 0.85)


def test_started_trials_of_all_kinds(prior: Prior) -> None:
    trials = list(made_up_table("new", 54).trials)
    nothing, diverged = cut(trials[0], 0), cut(trials[1], 3)
    nothing.state = TrialState.PRUNED
    diverged.intermediate_values[3] = float("nan")
    other_branch = cut(trials[2], 2)
    other_branch.params = {"lr": 0.01}
    other_branch.distributions = {"lr": other_branch.distributions["lr"]}
    told_once = copy.copy(trials[3])
    told_once.intermediate_values = {}
    started = [nothing, diverged, other_branch, told_once, *trials[4:10]]
    field = forecast_field(prior, started, [cut(t, 0) for t in trials[10:]], Reader(-1.0))
    assert np.isfinite(field.mean).all()
    assert (field.std > 0).all()
    assert np.isfinite(field.std).all()
    assert field.mean[1] < np.median(field.mean)


def test_neither_direction_nor_scale_matters(prior: Prior) -> None:
    found = []
    for direction, scale, sign in (("minimize", 1.0, -1.0), ("maximize", 50.0, 1.0)):
        table = made_up_table("new", 55, direction=direction, scale=scale)
        rest = [cut(t, 0) for t in table.trials[20:]]
        found.append(
            forecast_field(prior, [cut(t, 3) for t in table.trials[:20]], rest, Reader(sign))
        )
    assert found[0].mean == pytest.approx(found[1].mean, abs=1e-4)
    assert found[0].std == pytest.approx(found[1].std, abs=1e-4)


@pytest.mark.slow
def test_a_decision_stays_cheap(prior: Prior) -> None:
    table = made_up_table("new", 56, n=1064)
    started = [cut(t, 1 + i % LENGTH) for i, t in enumerate(table.trials[:1000])]
    rest = [cut(t, 0) for t in table.trials[1000:]]
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        forecast_field(prior, started, rest, Reader(-1.0))
        seconds.append(time.process_time() - begun)
    assert np.median(seconds) < 1.0


def ended(value: float, curve: list[float], x: float) -> FrozenTrial:
    return create_trial(
        value=value,
        params={"x": x},
        distributions={"x": FloatDistribution(0.0, 1.0)},
        intermediate_values=dict(enumerate(curve)),
    )


def test_a_finished_trial_stands_by_what_its_objective_returned() -> None:
    """The best of its epochs, maybe, after which it has lost again."""
    best = ended(0.95, [0.5, 0.95, 0.3], 0.9)
    others = [ended(0.5 + 0.02 * i, [0.4, 0.45, 0.5 + 0.02 * i], 0.1 + 0.05 * i) for i in range(8)]
    trials = [replace_number(t, i) for i, t in enumerate([best, *others])]
    field = forecast_field(Prior(), trials, [], Reader(1.0))
    assert field.mean.argmax() == 0
    assert field.mean[1:].argsort().tolist() == list(range(8))


def test_a_finished_trial_stays_where_it_ended_early() -> None:
    """Others go on to gain; what has stopped by itself is not expected to."""
    whole = [ended(0.6 + 0.02 * i, [0.1, 0.2, 0.4, 0.6 + 0.02 * i], 0.05 * i) for i in range(8)]
    early = ended(0.3, [0.2, 0.3], 0.9)
    running = copy.copy(ended(0.3, [0.2, 0.3], 0.9))
    running.state, running.values = TrialState.RUNNING, None
    trials = [replace_number(t, i) for i, t in enumerate([*whole, early, running])]
    field = forecast_field(Prior(), trials, [], Reader(1.0))
    assert field.mean[8] == field.mean.min()
    # After two reports nobody had more.
    assert field.mean[9] > field.mean[8] + 0.5


def replace_number(trial: FrozenTrial, number: int) -> FrozenTrial:
    trial.number = number
    return trial
