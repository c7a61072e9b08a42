"""A pool: what can be trained, what it costs, and when it is over."""

from __future__ import annotations

import time
import warnings

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEWarning
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import race
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import PriorRanking
from optuna_aelle.backtest.pool import in_order
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.searches import Search
from tests.backtest.tables import N_STEPS
from tests.backtest.tables import UNIT
from tests.backtest.tables import Knowing
from tests.backtest.tables import a_pool
from tests.backtest.tables import halving
from tests.backtest.tables import made_table
from tests.backtest.tables import none


def test_what_an_arm_computes_is_charged_and_less_where_epochs_are_long() -> None:
    def slow(pool: Pool, seed: int) -> None:
        for position in range(len(pool)):
            while not pool.is_over(position):
                until = time.process_time() + 0.02
                while time.process_time() < until:
                    pass
                pool.train(position)

    # An epoch takes 20 ms: every epoch costs two. A fingerprint of 2 ms makes a long one of .2 s.
    table = made_table(step_seconds=0.02, spectrum_seconds=0.002)
    frame = race(table, {"slow": lambda: slow}, budget=2 * N_STEPS, n_repeats=1)
    row = frame.set_index("epochs").loc[2.0 * N_STEPS]
    assert row["n_finished"] == 1
    assert row["overhead"] == pytest.approx(N_STEPS, abs=2.5)
    fair = race(made_table(step_seconds=1e6), {"none": none}, budget=2 * N_STEPS, n_repeats=1)
    two = fair.set_index("epochs").loc[2.0 * N_STEPS, "regret_final"]
    assert row["regret_final"] >= two
    first = fair.set_index("epochs").loc[1.0 * N_STEPS, "regret_final"]
    assert row["regret_final_long"] == pytest.approx(first)


def test_spectra_are_charged_once_at_their_recorded_seconds() -> None:
    table = made_table(step_seconds=1.0, spectrum_seconds=0.5)
    pool = a_pool(table)
    before = pool.spent
    assert pool.spectrum(0) is not None
    once = pool.spent
    assert once - before == pytest.approx(0.5, abs=0.05)
    pool.spectrum(0)
    assert pool.spent == pytest.approx(once, abs=0.05)
    assert pool.trial(0).system_attrs
    with pytest.raises(ValueError, match="Expected a step that configuration 0 has reached"):
        pool.spectrum(0, 3)
    for _ in range(3):
        pool.train(0)
    assert pool.spectrum(0, 3) is not None
    assert a_pool(table, spectrum_steps=(3,)).spectrum(0) is None


def test_the_budget_ends_an_arm_that_catches_everything() -> None:
    reached: list[int] = []

    def greedy(pool: Pool, seed: int) -> None:
        for position in range(len(pool)):
            while not pool.is_over(position):
                try:
                    pool.train(position)
                except Exception:
                    reached.append(-1)
                reached.append(position)

    race(made_table(step_seconds=1e6), {"greedy": lambda: greedy}, budget=10, n_repeats=1)
    assert len(reached) == 10
    assert -1 not in reached


def test_what_was_begun_within_the_budget_is_finished() -> None:
    # Half an epoch has gone on a spectrum before the first training: it still ends in time.
    def arm(pool: Pool, seed: int) -> None:
        pool.spectrum(0)
        while not pool.is_over(0):
            pool.train(0)

    frame = race(made_table(), {"arm": lambda: arm}, budget=N_STEPS, n_repeats=1)
    assert frame.iloc[-1]["n_finished"] == 1
    assert 0.5 <= frame.iloc[-1]["overhead"] < 0.7


@pytest.mark.parametrize(
    ("position", "message"),
    [(60, "one of the 60 configurations of the pool, 0 to 59, got 60"), (-1, "got -1")],
)
def test_what_is_not_in_the_table_cannot_be_trained(position: int, message: str) -> None:
    def stranger(pool: Pool, seed: int) -> None:
        pool.train(position)

    arms = {"stranger": lambda: stranger, "none": none}
    with pytest.warns(AeLLEWarning, match=message):
        race(made_table(), arms, budget=2 * N_STEPS, n_repeats=1)


def test_nothing_is_trained_beyond_its_end() -> None:
    pool = a_pool(made_table())
    for _ in range(N_STEPS):
        pool.train(3)
    assert pool.is_over(3)
    assert pool.trial(3).state == TrialState.COMPLETE
    with pytest.raises(ValueError, match="Configuration 3 has been trained to its end already"):
        pool.train(3)


def test_the_order_of_a_prior_is_that_of_what_it_says() -> None:
    table = made_table(spectrum_seconds=0.1)
    frame = race(
        table,
        {
            "halving": lambda: Search(*none(), ranking=PriorRanking(spectra=False)),
            "promotion": lambda: Promotion(3, ranking=PriorRanking()),
            "nothing known": lambda: Promotion(3),
        },
        budget=3 * N_STEPS,
        n_repeats=3,
        prior=Knowing(),
    )
    at = frame.groupby(["arm", "epochs"])[["regret_final", "overhead"]].mean()
    assert at.loc[("halving", N_STEPS), "regret_final"] == 0.0
    # Spectra of the whole pool, six epochs: it ends later.
    assert at.loc[("promotion", 3 * N_STEPS), "overhead"] == pytest.approx(6.0, abs=0.6)
    assert at.loc[("promotion", 3 * N_STEPS), "regret_final"] == 0.0
    assert at.loc[("nothing known", 3 * N_STEPS), "regret_final"] > 0.0
    with pytest.warns(AeLLEWarning, match="Expected a prior to rank by"):
        race(
            table,
            {"a": lambda: Promotion(3, ranking=PriorRanking()), "none": none},
            budget=20,
            n_repeats=1,
        )


def test_trials_that_were_pruned_when_recorded_end_there() -> None:
    table = made_table()
    cut = []
    for trial in table.trials:
        if trial.number % 2:
            values = dict(list(trial.intermediate_values.items())[:4])
            trial = create_trial(
                state=TrialState.PRUNED,
                value=values[4],
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=values,
            )
        cut.append(trial)
    table = RecordedTrials("cut", "minimize", tuple(cut), np.full(len(cut), 1e6))
    with pytest.warns(AeLLEWarning, match="30 of 60 trials of 'cut' were pruned when they were"):
        frame = race(
            table,
            {"tpe": lambda: (TPESampler(), halving()), "asha": lambda: Promotion(3)},
            budget=6 * N_STEPS,
            n_repeats=2,
        )
    assert not frame.isna().any().any()
    assert (frame["n_finished"] <= frame["n_started"]).all()


def test_steps_that_are_not_counted_one_by_one() -> None:
    """Reports at every fifth step from 0: a budget is in steps, not in reports."""
    trials = []
    rng = np.random.default_rng(0)
    for number in range(30):
        end = float(rng.uniform())
        steps = [0, 5, 10, 15, 20]
        trial = create_trial(
            value=end,
            params={"x": end},
            distributions={"x": UNIT},
            intermediate_values={step: end + 1.0 - step / 20.0 for step in steps},
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("coarse", "minimize", tuple(trials), np.full(30, 1e6))
    frame = race(table, {"none": none}, budget=3 * 21, n_repeats=1)
    assert frame["epochs"].max() == 63
    assert frame.set_index("epochs").loc[21.0, "n_finished"] == 1
    assert frame.iloc[-1]["n_finished"] == 3


def test_a_ranking_orders_and_chance_breaks_ties() -> None:
    pool = a_pool(made_table(10))
    assert in_order(pool, None) == list(range(10))
    assert in_order(pool, lambda p: np.zeros(len(p))) == list(range(10))
    assert in_order(pool, lambda p: np.arange(len(p)))[:2] == [9, 8]


def test_equal_ends_are_nothing_to_regret() -> None:
    table = made_table()
    for trial in table.trials:
        trial.values = [0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        frame = race(table, {"none": none}, budget=2 * N_STEPS, n_repeats=1)
    assert frame["regret_final"].tolist() == [1.0] * 8 + [0.0] * 10


def test_where_epochs_are_long_already_nothing_is_made_up() -> None:
    # A fingerprint is a thousandth of an epoch.
    pool = a_pool(made_table(step_seconds=60.0, spectrum_seconds=0.06))
    assert pool.step_seconds == (60.0, 60.0)
    assert a_pool(made_table(step_seconds=1.0, spectrum_seconds=0.5)).step_seconds == (1.0, 50.0)


def test_time_is_charged_once_even_where_training_fails() -> None:
    pool = a_pool(made_table(step_seconds=1.0))
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert pool.spent >= 0.1
    for _ in range(5):
        with pytest.raises(ValueError, match="got 99"):
            pool.train(99)
    pool.train(0)
    assert pool.course.seconds[0] == pytest.approx(0.1, abs=0.05)


def test_spectra_keep_their_steps() -> None:
    """Reports at 5, 10 ...; spectra at −1, 3 and 4 are told with the report that follows."""
    table = made_table(30, step_seconds=1e6)
    for trial in table.trials:
        values = list(trial.intermediate_values.values())
        trial.intermediate_values = {5 * i: value for i, value in enumerate(values, start=1)}
        payloads = list(trial.system_attrs.values())
        keys = [f"aelle:spectrum:{step}" for step in (-1, 3, 4)]
        trial.system_attrs = dict(zip(keys, payloads, strict=True))
    seen: list[set[int]] = []

    class Reader(optuna.pruners.BasePruner):
        reads = frozenset({"spectra"})

        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            seen.append({*decode_spectra(trial)})
            return True

    pool = a_pool(table, budget=500)
    Search(RandomSampler(), Reader())(pool, 0)
    assert seen[0] == {-1}
    seen.clear()

    class Late(Reader):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            seen.append({*decode_spectra(trial)})
            return trial.last_step is not None

    Search(RandomSampler(), Late())(a_pool(table, budget=500), 0)
    assert seen[:2] == [{-1}, {-1, 3, 4}]


def test_a_ranking_by_a_prior_that_has_seen_the_task_is_refused() -> None:
    pool = a_pool(made_table())
    with pytest.raises(ValueError, match="it has learned from 'making'"):
        PriorRanking(Knowing("making"))(pool)
