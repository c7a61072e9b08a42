"""What training costs, counted in steps by one function, whoever asks."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle import RecordedTrials
from optuna_aelle.backtest.replay import replay
from optuna_aelle.trials.cost import trained_steps


def made(*steps: int, value: float | None = 1.0) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        intermediate_values=dict.fromkeys(steps, 1.0),
    )


@pytest.mark.parametrize(
    ("trials", "steps"),
    [
        ([made(1, 10, 100), made(1, 10, value=None)], [100, 10]),
        ([made(0, 1, 2), made(0, value=None)], [3, 1]),
        ([made(5, 10, 15), made(5, value=None)], [15, 5]),
        ([made(0, 5, 10), made(value=None), made()], [11, 0, 11]),
    ],
)
def test_steps_are_what_the_last_report_says(trials: list[FrozenTrial], steps: list[int]) -> None:
    assert trained_steps(trials) == steps


class StopAtTen(optuna.pruners.BasePruner):
    """Lets trial 0 run."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number > 0 and trial.last_step == 10


def test_a_replay_counts_steps_and_not_reports() -> None:
    """Reports at 1, 10 and 100; four of five trials are stopped at 10: (100 + 4 * 10) / 500."""
    study = optuna.create_study(study_name="sparse")
    study.add_trials([made(1, 10, 100, value=float(i)) for i in range(5)])
    recorded = RecordedTrials.from_study(study)
    (row,) = replay(recorded, {"ten": StopAtTen}, n_repeats=1).to_dict("records")
    assert row["epochs_share"] - row["overhead_share"] == pytest.approx(0.28)


def test_all_that_counts_steps_agrees() -> None:
    from optuna_aelle.visualization import plot_compute_saved

    study = optuna.create_study(study_name="sparse")
    study.add_trials([made(1, 10, 100), *[made(1, 10, value=None) for _ in range(4)]])
    figure = plot_compute_saved(study)
    assert figure.data[0].y[-1] == 140
    assert figure.data[1].y[-1] == 500
    assert RecordedTrials.from_study(study).trained_steps.tolist() == [100, 10, 10, 10, 10]
