"""What a base sampler learns from, and of long studies only some."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle.decisions.drawing import ExcerptTPESampler
from optuna_aelle.decisions.drawing import default_sampler
from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.decisions.reservoir import started_trials


def study_of(n: int, *names: str) -> optuna.Study:
    study = optuna.create_study()
    space = dict.fromkeys(names, FloatDistribution(0.0, 1.0))
    study.add_trials(
        create_trial(value=i / n, params=dict.fromkeys(names, i / n), distributions=space)
        for i in range(n)
    )
    return study


def learned(sampler: optuna.samplers.BaseSampler, study: optuna.Study) -> set[str]:
    study.ask()  # Optuna reads the trials again
    return {*sampler.infer_relative_search_space(study, study.trials[-1])}


def test_the_space_of_a_second_study_is_learned_too() -> None:
    sampler = default_sampler(seed=0)
    first, second = study_of(4, "a"), study_of(4, "a", "b")
    assert learned(sampler, first) == {"a"}
    assert learned(sampler, second) == {"a", "b"}
    # Of none of them is anything read again.
    assert learned(sampler, first) == {"a", "b"}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_knows_the_space(
    copied: Callable[[ExcerptTPESampler], ExcerptTPESampler],
) -> None:
    sampler = ExcerptTPESampler(multivariate=True, group=True, seed=0)
    study = study_of(4, "a", "b")
    learned(sampler, study)
    other = copied(sampler)
    assert learned(other, study) == {"a", "b"}
    study.add_trial(study_of(1, "c").trials[0])
    assert learned(other, study) == learned(sampler, study) == {"a", "b", "c"}


def long_study(points: list[tuple[float, ...]], directions: list[str]) -> optuna.Study:
    """What ended first has these values, all that follow are worse."""
    study = optuna.create_study(directions=directions)
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    worse = [[10.0 + 0.001 * i] * len(signs) for i in range(LONG + 1 - len(points))]
    for point in (*points, *worse):
        values = [sign * value for sign, value in zip(signs, point, strict=True)]
        study.add_trial(create_trial(values=values))
    return study


@pytest.mark.parametrize("directions", [["minimize"] * 2, ["maximize", "minimize"]])
def test_an_early_front_is_not_forgotten(directions: list[str]) -> None:
    # Twelve that are better in the first objective than those in the middle and at the other end.
    points = [(1.0, 5.0), (4.0, 4.0), (5.0, 1.0), *[(2.0 + i / 10, 9.0) for i in range(12)]]
    study = long_study(points, directions)
    kept = {trial.number for trial in started_trials(study)}
    assert {trial.number for trial in study.best_trials} == {0, 1, 2} <= kept
    assert len(kept) <= 100


def test_of_a_long_front_the_ends_and_some_between_are_kept() -> None:
    n = 200
    study = long_study([(i / n, 1.0 - i / n, 1.0) for i in range(n)], ["minimize"] * 3)
    kept = [trial.number for trial in started_trials(study)]
    assert {0, n - 1} <= {*kept}
    assert len(kept) <= 100
    early = [number for number in kept if number < n]
    assert max(b - a for a, b in zip(early, early[1:], strict=False)) < 10


def test_of_one_objective_the_best_and_the_latest_are_kept() -> None:
    study = long_study([(i / 20,) for i in range(20)], ["minimize"])
    kept = [trial.number for trial in started_trials(study)]
    assert kept == [*range(10), *range(LONG + 1 - 50, LONG + 1)]
    assert all(trial.state == TrialState.COMPLETE for trial in started_trials(study))
