"""The registry of pruners: one set of names, and settings that follow how a study counts steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from optuna_aelle import RecordedTrials
from optuna_aelle import replay
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import SHOWN
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import pruner_arms
from optuna_aelle.backtest.arms import shown_arms


def recorded_at(*steps: int, n: int = 12) -> RecordedTrials:
    """Lines that keep their order from the first report on, at these steps."""
    trials = []
    for number in range(n):
        place = (7 * number) % n
        trial = create_trial(
            value=float(place), intermediate_values={step: float(place) for step in steps}
        )
        trial.number = number
        trials.append(trial)
    return RecordedTrials("lines", "minimize", tuple(trials), np.ones(n))


def test_the_names_are_those_of_published_results() -> None:
    assert list(pruner_arms(Steps(last=27))) == [
        "none",
        "Median",
        "Median, warm-up 1",
        "Median, warm-up 5",
        "Percentile 25",
        "SHA η=2, min 1",
        "SHA η=2, min 3",
        "SHA η=3, min 1",
        "SHA η=3, min 3",
        "SHA η=4, min 1",
        "SHA η=4, min 3",
        "Hyperband, min 1",
        "Hyperband, min 3",
        "AeLLE",
    ]
    assert tuple(shown_arms(Steps(last=27))) == SHOWN


def test_every_call_makes_another_pruner() -> None:
    for make in pruner_arms(Steps(last=9)).values():
        first, second = make(), make()
        assert isinstance(first, optuna.pruners.BasePruner)
        assert first is not second


@pytest.mark.parametrize(
    ("steps", "warmup", "least", "longest"),
    [
        (Steps(1, 1, 27), 6, 3, 27),
        (Steps(0, 1, 26), 5, 3, 27),
        (Steps(100, 100, 900), 600, 300, 900),
        (Steps(0, 1, 0), 5, 3, 3),
    ],
)
def test_settings_count_reports(steps: Steps, warmup: int, least: int, longest: int) -> None:
    arms: dict[str, Any] = pruner_arms(steps)
    assert arms["Median, warm-up 5"].keywords["n_warmup_steps"] == warmup
    assert arms["SHA η=4, min 3"].keywords == {"min_resource": least, "reduction_factor": 4}
    assert arms["Hyperband, min 3"].keywords["min_resource"] == least
    assert arms["Hyperband, min 3"].keywords["max_resource"] == longest


@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3), (50, 100, 150), (1,)])
def test_a_table_says_how_it_counts_and_every_arm_replays_it(steps: tuple[int, ...]) -> None:
    table = recorded_at(*steps)
    counted = Steps.of(table)
    assert (counted.first, counted.last) == (steps[0], steps[-1])
    if len(steps) > 1:
        assert counted.spacing == steps[1] - steps[0]
    frame = replay(table, pruner_arms(counted), n_repeats=1)
    assert set(frame["pruner"]) == {*pruner_arms(counted)}
    assert (frame.loc[frame["pruner"] == "none", "regret"] == 0.0).all()
    assert OURS in set(frame["pruner"])


def test_the_same_curves_are_pruned_alike_whatever_lies_between_reports() -> None:
    frames = [
        replay(table, {n: f for n, f in pruner_arms(Steps.of(table)).items() if n != OURS})
        for table in (recorded_at(1, 2, 3, 4, 5, 6, 7), recorded_at(10, 20, 30, 40, 50, 60, 70))
    ]
    means = [frame.groupby("pruner")[["n_complete", "regret"]].mean() for frame in frames]
    np.testing.assert_allclose(means[0].to_numpy(float), means[1].to_numpy(float))


@pytest.mark.parametrize("wrong", [(0, 0, 5), (3, 1, 2), (-1, 1, 5)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Expected 0 <= first <= last and spacing >= 1"):
        Steps(*wrong)
