"""Replay: an honest judge. An oracle must win, a coin must lose, and a live study must repeat."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import encode_spectrum
from optuna_aelle import replay
from optuna_aelle.backtest.outcomes import measure_outcome
from optuna_aelle.backtest.replay import replay_study
from optuna_aelle.decisions.wrapping import asks_before_training
from optuna_aelle.decisions.wrapping import reads_of
from tests.conftest import run_synthetic
from tests.conftest import synthetic_spectrum

N_STEPS = 10


def made_table(
    n: int = 80, *, direction: str = "minimize", seed: int = 0, step_seconds: float = 1.0
) -> RecordedTrials:
    """Curves that fall from 1 to a final value, which the spectrum tells before they do."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0
    trials = []
    for number in range(n):
        quality = rng.uniform()
        curve = 1.0 - quality * np.linspace(0.0, 1.0, N_STEPS + 1)[1:] ** 3
        curve += 0.01 * rng.standard_normal(N_STEPS)
        trial = create_trial(
            value=sign * float(curve[-1]),
            params={"x": float(rng.uniform())},
            distributions={"x": optuna.distributions.FloatDistribution(0.0, 1.0)},
            intermediate_values={step: sign * float(v) for step, v in enumerate(curve)},
            system_attrs=encode_spectrum(synthetic_spectrum(quality, rng), -1, seconds=0.01),
        )
        trial.number = number
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials(
        "made",
        direction,
        tuple(trials),
        np.full(n, step_seconds),  # type: ignore[arg-type]
    )


class Oracle(BasePruner):
    """Knows where every trial ends; lets none but the best one run."""

    asks_before_training = True

    def __init__(self, ends: Mapping[float, float], sign: float) -> None:
        self._ends = ends
        self._sign = sign
        self._best = max(sign * end for end in ends.values())

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._sign * self._ends[trial.params["x"]] < self._best


class Coin(BasePruner):
    """Prunes each trial at any step with one chance in two."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return trial.last_step is not None and bool(self._rng.uniform() < 0.5)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_an_oracle_has_no_regret_at_the_least_cost(direction: str) -> None:
    table = made_table(direction=direction)
    sign = 1.0 if direction == "maximize" else -1.0
    ends = {t.params["x"]: t.values[0] for t in table.trials}
    frame = replay(table, {"oracle": lambda: Oracle(ends, sign)}, n_repeats=3)
    assert (frame["regret"] == 0.0).all()
    assert frame["best_kept"].all()
    # It never trains what it prunes: one trial in 80, and next to nothing for its decisions.
    np.testing.assert_allclose(frame["epochs_share"] - frame["overhead_share"], 1 / 80)
    assert (frame["untrained_share"] == 79 / 80).all()


def test_a_coin_does_badly() -> None:
    table = made_table()
    frame = replay(
        table,
        {"coin": Coin, "sha": lambda: SuccessiveHalvingPruner(reduction_factor=2)},
        n_trials=40,
        n_repeats=10,
    )
    means = frame.groupby("pruner")[["regret", "epochs_share", "best_kept"]].mean()
    assert means.loc["coin", "regret"] > 0.5
    assert means.loc["coin", "regret"] > 5.0 * means.loc["sha", "regret"]
    assert means.loc["coin", "best_kept"] < 0.2


def test_no_pruner_has_no_regret_at_full_cost() -> None:
    frame = replay(made_table(), {"none": NopPruner}, n_trials=30, n_repeats=2)
    assert (frame["regret"] == 0.0).all()
    assert (frame["n_complete"] == 30).all()
    np.testing.assert_allclose(frame["epochs_share"], 1.0, atol=1e-3)


@pytest.mark.slow
def test_spectra_help_and_shuffled_spectra_do_not() -> None:
    table = made_table(120)
    order = np.random.default_rng(5).permutation(len(table))
    shuffled = []
    for trial, other in zip(table.trials, order.tolist(), strict=True):
        changed = create_trial(
            value=trial.values[0],
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            system_attrs=table.trials[other].system_attrs,
        )
        changed.number = trial.number
        shuffled.append(changed)
    blind = RecordedTrials("made", "minimize", tuple(shuffled), table.step_seconds)

    def steps(recorded: RecordedTrials, factory: Callable[[], BasePruner]) -> float:
        frame = replay(recorded, {"p": factory}, n_trials=60, n_repeats=4)
        return float((frame["epochs_share"] - frame["overhead_share"]).mean())

    def spectra() -> BasePruner:
        return AeLLEPruner(NopPruner(), features=("spectrum",))

    assert steps(table, spectra) < 0.7
    # What noise says may not save more than a few trials.
    assert steps(blind, spectra) > 0.95


@pytest.mark.parametrize(
    "make_pruner",
    [
        lambda: AeLLEPruner(calibration_interval=10),
        # Prunes some before they train.
        lambda: AeLLEPruner(NopPruner(), risk=0.4),
        MedianPruner,
        lambda: HyperbandPruner(min_resource=1, max_resource=20, reduction_factor=3),
    ],
)
def test_a_live_study_is_repeated_trial_by_trial(make_pruner: Callable[[], BasePruner]) -> None:
    study = optuna.create_study(study_name="live", pruner=make_pruner())
    spent = run_synthetic(study, 40, plateau=4)
    assert len(set(spent)) > 2
    recorded = RecordedTrials.from_study(study)
    untrained = [t.number for t in study.trials if not t.intermediate_values]
    if isinstance(study.pruner, AeLLEPruner) and study.pruner._risk > 0.3:
        assert len(untrained) > 2
    order = list(range(len(recorded)))
    replayed = replay_study(recorded, make_pruner(), order, keep_numbers=True)
    assert replayed.cut == 0
    again = [t for t in replayed.study.trials if t.state != TrialState.FAIL]
    assert [t.number for t in again] == [n for n in range(40) if n not in untrained]
    for trial in again:
        lived = study.trials[trial.number]
        assert trial.state == lived.state, trial.number
        assert trial.last_step == lived.last_step, trial.number


def test_all_pruners_meet_the_same_configurations() -> None:
    table = made_table()
    order = np.random.default_rng([3, 0]).permutation(80).tolist()[:25]
    for pruner in (NopPruner(), MedianPruner()):
        replayed = replay_study(table, pruner, order)
        met = [t.params["x"] for t in replayed.study.trials]
        assert met == [table.trials[i].params["x"] for i in order]


def test_trials_without_parameters_are_told_apart() -> None:
    trials = []
    for number in range(6):
        trial = create_trial(value=float(number), intermediate_values={0: float(number)})
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("bare", "minimize", tuple(trials), np.ones(6))
    replayed = replay_study(table, NopPruner(), [4, 2, 5])
    assert [t.value for t in replayed.study.trials] == [4.0, 2.0, 5.0]


def test_repeats_and_seeds_are_reproducible() -> None:
    table = made_table()
    pruners = {"median": MedianPruner, "sha": SuccessiveHalvingPruner}
    columns = ["pruner", "repeat", "n_complete", "regret", "best_value"]
    first = replay(table, pruners, n_trials=30, n_repeats=3, seed=1)
    again = replay(table, pruners, n_trials=30, n_repeats=3, seed=1)
    other = replay(table, pruners, n_trials=30, n_repeats=3, seed=2)
    assert first[columns].equals(again[columns])
    assert not first["best_value"].equals(other["best_value"])


def test_an_adaptive_stream_takes_recorded_configurations_once_each() -> None:
    table = made_table(60)
    seen: list[list[float]] = []

    class Watching(NopPruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            if trial.last_step == 0:
                seen[-1].append(trial.params["x"])
            return False

    def make_pruner() -> BasePruner:
        seen.append([])
        return Watching()

    frame = replay(
        table,
        {"tpe": make_pruner},
        n_trials=40,
        n_repeats=2,
        sampler=lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    )
    recorded = {t.params["x"] for t in table.trials}
    for stream in seen:
        assert len(stream) == len(set(stream)) == 40
        assert set(stream) <= recorded
    assert seen[0] != seen[1]
    assert (frame["n_complete"] == 40).all()


def test_costs_count_in_epochs() -> None:
    class Slow(NopPruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            if trial.last_step == 0:
                time.sleep(0.02)
            return False

    frame = replay(made_table(step_seconds=0.1), {"slow": Slow}, n_trials=5, n_repeats=1)
    # 0.02 s of 0.1 s an epoch, once in ten epochs.
    assert 0.02 <= frame["overhead_share"][0] < 0.04
    assert frame["epochs_share"][0] == pytest.approx(1.0 + frame["overhead_share"][0])


def test_seconds_count_the_size_of_networks() -> None:
    class First(NopPruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            return trial.number > 0 and trial.last_step is not None

    table = made_table(3)
    # The first takes as long as the two others together, which stop after one epoch of ten.
    table = dataclasses.replace(table, step_seconds=np.array([200.0, 100.0, 100.0]))
    row = replay(table, {"first": First}, order="recorded")
    assert row["seconds_share"][0] == pytest.approx(0.5 + 0.05, abs=1e-3)
    assert row["epochs_share"][0] == pytest.approx(12 / 30, abs=1e-3)


@pytest.mark.parametrize("seconds", [0.0, float("nan")])
def test_a_table_without_times_is_replayed(seconds: float) -> None:
    table = made_table(30, step_seconds=seconds)
    frame = replay(table, {"median": MedianPruner, "aelle": AeLLEPruner}, n_repeats=1)
    assert frame["seconds_share"].isna().all()
    assert frame["epochs_share"].notna().all()


def test_a_sampler_that_reads_spectra_gets_and_pays_for_them() -> None:
    class Reader(RandomSampler):
        reads = frozenset({"spectra"})
        overhead_seconds = 0.0

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            self.overhead_seconds += 1.0

    table = made_table(8)
    replayed = replay_study(table, NopPruner(), range(8), proposer=Reader(seed=0))
    assert all(-1 in decode_spectra(trial) for trial in replayed.study.trials)
    # A second each, and a spectrum of 0.01 s.
    assert replayed.overhead_seconds == pytest.approx(8 * 1.01, abs=0.05)
    plain = replay_study(table, NopPruner(), range(8), proposer=RandomSampler(seed=0))
    assert not any(decode_spectra(trial) for trial in plain.study.trials)


def test_a_sampler_whose_prior_knows_the_table_is_told_of() -> None:
    table = dataclasses.replace(made_table(12), metadata={"task": "making"})

    def warnings_of(*tasks: str) -> list[str]:
        proposer = AeLLESampler(None, prior=Prior(tasks=tasks), seed=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            replay_study(table, NopPruner(), range(12), n_trials=3, proposer=proposer)
        return [str(w.message) for w in caught if "knows the answers" in str(w.message)]

    assert not warnings_of("others")
    (message,) = warnings_of("others", "making")
    assert "has learned from 'making', the task of the table 'made'" in message


def test_a_pruner_sees_nothing_of_what_is_to_come() -> None:
    class Watcher(NopPruner):
        reads = frozenset({"spectra", "train_loss"})

        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            now = -1 if trial.last_step is None else trial.last_step
            known = [*decode_spectra(trial), *trial.intermediate_values]
            known += [int(k.split(":")[1]) for k in trial.user_attrs if k.startswith("train_")]
            assert max(known) <= now
            others = study.get_trials(deepcopy=False)
            assert all(t.state.is_finished() or t.number == trial.number for t in others)
            assert len(others) == trial.number + 1
            seen.append(now)
            return False

    seen: list[int] = []
    table = made_table(4)
    trials = []
    for trial in table.trials:
        late = encode_spectrum(np.linspace(-1.0, 0.0, 32), 5, seconds=0.01)
        trials.append(
            create_trial(
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                system_attrs=trial.system_attrs | late,
            )
        )
    losses = np.ones((4, N_STEPS))
    table = dataclasses.replace(table, trials=tuple(trials), curves={"train_loss": losses})
    replay_study(table, Watcher(), range(4))
    assert seen == [*range(-1, N_STEPS)] * 4


def test_spectra_are_charged_to_those_who_read_them() -> None:
    class Reader(NopPruner):
        reads = frozenset({"spectra"})

    table = made_table(step_seconds=0.1)
    frame = replay(table, {"reads": Reader, "none": NopPruner}, n_trials=10, n_repeats=1)
    reads, none = frame["overhead_share"]
    # One spectrum of 0.01 s to ten epochs of 0.1 s.
    assert reads - none == pytest.approx(0.01, abs=0.004)


def test_spectra_of_other_steps_are_left_out() -> None:
    class Reader(NopPruner):
        reads = frozenset({"spectra"})

    table = made_table(4)
    with_it = replay_study(table, Reader(), range(4), spectrum_steps=(-1, 3))
    without = replay_study(table, Reader(), range(4), spectrum_steps=(3,))
    assert all("aelle:spectrum:-1" in t.system_attrs for t in with_it.study.trials)
    assert not any("aelle:spectrum:-1" in t.system_attrs for t in without.study.trials)
    assert with_it.overhead_seconds > 0.04 > without.overhead_seconds


def test_a_recorded_curve_is_given_to_who_asks() -> None:
    table = made_table(5)
    losses = np.arange(5.0 * N_STEPS).reshape(5, N_STEPS)
    table = RecordedTrials(
        "made", "minimize", table.trials, table.step_seconds, curves={"train_loss": losses}
    )

    class Reader(NopPruner):
        reads = frozenset({"train_loss"})

    replayed = replay_study(table, Reader(), range(5))
    assert replayed.study.trials[2].user_attrs["train_loss:3"] == losses[2, 3]
    frame = replay(table, {"r": Reader}, n_repeats=1)
    best = int(np.argmin(table.finals))
    assert frame["chosen_train_loss"][0] == losses[best, -1]


def test_trials_that_were_pruned_when_recorded_end_where_they_ended() -> None:
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=3))
    run_synthetic(study, 20)
    recorded = RecordedTrials.from_study(study)
    n_pruned = sum(t.state == TrialState.PRUNED for t in recorded.trials)
    assert n_pruned > 3
    with pytest.warns(UserWarning, match=f"{n_pruned} of 20 trials"):
        frame = replay(recorded, {"none": NopPruner}, n_repeats=1)
    assert frame["cut"][0] == n_pruned
    assert frame["n_complete"][0] == 20 - n_pruned


def test_regret_by_hand() -> None:
    trials = []
    for number, end in enumerate([5.0, 3.0, 1.0, 4.0, 2.0]):
        trial = create_trial(value=end, intermediate_values={0: 9.0, 1: end})
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("hand", "minimize", tuple(trials), np.ones(5))
    # Two of four tried trials ended, after 2 and 6 of the 8 steps of full compute.
    row = measure_outcome(table, [0, 1, 3, 4], [(2.0, 0), (6.0, 1)], spent=6.0)
    # The best tried is 2, the table's median 3 and its best 1: (3 − 2) / (3 − 1).
    assert row["regret"] == 0.5
    assert row["epochs_share"] == 0.75
    assert row["best_value"] == 3.0
    assert row["regret_at_20"] == 1.0
    # The first to end was worse than the median: no more than 1 is lost.
    assert row["regret_at_30"] == 1.0
    assert not row["best_kept"]
    adaptive = measure_outcome(table, [0, 1, 3, 4], [(2.0, 4)], spent=2.0, adaptive=True)
    assert adaptive["regret"] == 0.5


def test_regret_where_most_are_equally_good() -> None:
    trials = []
    for number, end in enumerate([1.0, 1.0, 1.0, 0.5]):
        trial = create_trial(value=end, intermediate_values={1: end})
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("flat", "maximize", tuple(trials), np.ones(4))
    assert measure_outcome(table, [0, 3], [(1.0, 3)], spent=1.0)["regret"] == 1.0
    assert measure_outcome(table, [0, 3], [(1.0, 0)], spent=1.0)["regret"] == 0.0
    same = RecordedTrials("same", "maximize", tuple(trials[:2]), np.ones(2))
    assert measure_outcome(same, [0, 1], [(1.0, 0)], spent=1.0)["regret"] == 0.0
    # To have nothing is no better where all are equal.
    assert measure_outcome(same, [0, 1], [], spent=1.0)["regret"] == 1.0


def test_an_adaptive_stream_over_ranges_that_change() -> None:
    trials = []
    for number in range(20):
        kind, low = ("a", 0.0) if number % 2 else ("b", 5.0)
        trial = create_trial(
            value=float(number),
            params={"kind": kind, "x": low + 0.04 * number},
            distributions={
                "kind": optuna.distributions.CategoricalDistribution(("a", "b")),
                "x": optuna.distributions.FloatDistribution(low, low + 1.0),
            },
            intermediate_values={1: float(number)},
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("ranges", "minimize", tuple(trials), np.ones(20))
    frame = replay(
        table,
        {"none": NopPruner},
        n_repeats=2,
        sampler=lambda seed: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=4
        ),
    )
    assert (frame["n_complete"] == 20).all()


def test_wrapped_pruners_get_what_they_read() -> None:
    class Reader(NopPruner):
        reads = frozenset({"train_loss"})

    class Wrapping(NopPruner):
        def __init__(self) -> None:
            self._wrapped_pruner = Reader()

    assert AeLLEPruner(Reader()).reads == {"spectra", "train_loss"}
    losses = {"train_loss": np.ones((5, N_STEPS))}
    table = made_table(5)
    table = RecordedTrials("made", "minimize", table.trials, table.step_seconds, losses)
    replayed = replay_study(table, Wrapping(), range(2))
    assert replayed.study.trials[0].user_attrs["train_loss:3"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "recorded", "sampler": lambda seed: None}, "pass no sampler"),
        ({"n_trials": 99}, "between 1 and the 80 recorded trials, but got 99"),
        ({"n_repeats": 0}, "n_repeats must be at least 1"),
        ({"order": "sorted"}, "order must be"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay(made_table(), {"none": NopPruner}, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one pruner"):
        replay(made_table(), {})


def test_sixty_trials_take_less_than_half_a_second() -> None:
    table = made_table(60)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        replay(table, {"sha": SuccessiveHalvingPruner}, n_repeats=1)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_a_pruner_that_reads_the_last_value_is_asked_after_the_first_report() -> None:
    class OverOne(BasePruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            return trial.intermediate_values[trial.last_step] > 1.0  # type: ignore[index]

    frame = replay(made_table(n=6), {"over one": OverOne}, n_repeats=1)
    assert frame["n_trials"].tolist() == [6]


def test_what_a_pruner_reads_is_found_behind_others() -> None:
    class Reader(MedianPruner):
        reads = frozenset({"train_loss"})
        asks_before_training = True

    wrapped = AeLLEPruner(optuna.pruners.PatientPruner(Reader(), 1), n_warmup_steps=5)
    assert reads_of(wrapped) == {"spectra", "train_loss"}
    assert not wrapped.asks_before_training
    assert asks_before_training(wrapped)


def test_a_table_without_spectra_is_told_of_no_forgotten_ones() -> None:
    table = made_table(n=30)
    bare = [copy.copy(trial) for trial in table.trials]
    for trial in bare:
        trial.system_attrs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        frame = replay(
            dataclasses.replace(table, trials=tuple(bare)), {"ours": AeLLEPruner}, n_repeats=2
        )
    assert len(frame) == 2
