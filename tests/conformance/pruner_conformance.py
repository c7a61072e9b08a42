"""What every well-behaved pruner does, as test classes to inherit from.

A subclass of `PrunerConformance` gives a ``pruner`` fixture that returns a zero-argument factory::

    class TestMyPruner(PrunerConformance):
        @pytest.fixture
        def pruner(self) -> PrunerFactory:
            return lambda: MyPruner(patience=3)

Where a pruner differs by design, ``known_deviations`` gives the reason by the name of the test,
with or without its parameters. Such a test must then fail: a deviation that has been repaired has
to be taken off the list.

Learning curves are given as losses, ``{step: loss}`` in the order of reporting, one per trial;
a study that maximises is shown their negatives. Every trial has its asymptote as parameter ``x``.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from typing import ClassVar
from typing import Literal

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial
from sqlalchemy import event

Curve = Mapping[int, float]
Direction = Literal["minimize", "maximize"]
Decisions = list[list[bool]]
PrunerFactory = Callable[[], BasePruner]
StorageFactory = Callable[[str], BaseStorage]

MAX_SECONDS_A_DECISION = 0.25
ENDED_WELL = {TrialState.COMPLETE, TrialState.PRUNED}
both_directions = pytest.mark.parametrize("direction", ["minimize", "maximize"])


def crossing_curves(n_trials: int, n_steps: int, seed: int = 0) -> list[Curve]:
    """Falling, noisy curves whose order changes along the way."""
    rng = np.random.default_rng(seed)
    steps = np.arange(n_steps)
    curves = []
    for _ in range(n_trials):
        end, speed = rng.uniform(0.0, 1.0), rng.uniform(0.1, 1.0)
        losses = end + (1.5 - end) * np.exp(-speed * steps)
        curves.append(as_curve(losses + 0.02 * rng.standard_normal(n_steps)))
    return curves


def ordered_curves(n_trials: int, n_steps: int, seed: int = 0) -> list[Curve]:
    """Curves that never cross, in random order.

    They rise again now and then, or a pruner that waits for that would have nothing to say.
    """
    ends = np.random.default_rng(seed).permutation(np.linspace(0.0, 2.0, n_trials))
    steps = np.arange(n_steps)
    common = np.exp(-steps / 5.0) + 0.2 * np.sin(0.8 * steps)
    return [as_curve(end + common) for end in ends]


def as_curve(losses: Sequence[float] | np.ndarray, first: int = 0, spacing: int = 1) -> Curve:
    return {first + spacing * i: float(loss) for i, loss in enumerate(losses)}


def records(curves: Sequence[Curve]) -> list[int]:
    """Trials below all earlier ones at every step that they share."""
    return [
        i
        for i, curve in enumerate(curves)
        if all(
            loss < other.get(step, math.inf)
            for other in curves[:i]
            for step, loss in curve.items()
        )
    ]


def new_study(
    pruner: BasePruner,
    direction: Direction = "minimize",
    storage: BaseStorage | None = None,
    name: str = "conformance",
) -> Study:
    """A study with a fixed name, since pruners may draw on it (Hyperband does)."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction=direction,
        sampler=RandomSampler(seed=0),
        pruner=pruner,
    )


def sign_of(study: Study) -> float:
    return -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0


def begin(study: Study, x: float) -> optuna.Trial:
    study.enqueue_trial({"x": x})
    trial = study.ask()
    trial.suggest_float("x", -10.0, 10.0)
    return trial


def play(
    study: Study, curve: Curve, before_decision: Callable[[], None] = lambda: None
) -> list[bool]:
    """Run one trial by ask-and-tell; the decision after each report."""
    losses = list(curve.values())
    trial = begin(study, losses[-1] if abs(losses[-1]) < 10.0 else 0.0)
    decisions = []
    for step, loss in curve.items():
        trial.report(sign_of(study) * loss, step)
        before_decision()
        decisions.append(bool(trial.should_prune()))
        if decisions[-1]:
            study.tell(trial, state=TrialState.PRUNED)
            return decisions
    study.tell(trial, sign_of(study) * losses[-1])
    return decisions


def play_all(
    study: Study, curves: Sequence[Curve], before_decision: Callable[[], None] = lambda: None
) -> Decisions:
    return [play(study, curve, before_decision) for curve in curves]


def imported(
    curve: Curve, state: TrialState = TrialState.COMPLETE, sign: float = 1.0
) -> FrozenTrial:
    values = {step: sign * loss for step, loss in curve.items()}
    end = list(values.values())[-1]
    return create_trial(
        state=state,
        value=end if state in ENDED_WELL else None,
        params={"x": sign * end},
        distributions={"x": FloatDistribution(-10.0, 10.0)},
        intermediate_values=values,
    )


@cache
def empty_database() -> bytes:
    """A SQLite file with Optuna's tables: to make these takes a second, to copy them nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        RDBStorage(f"sqlite:///{path}").engine.dispose()
        return path.read_bytes()


def _do_not_wait_for_the_disk(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class _Conformance:
    known_deviations: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def pruner(self) -> PrunerFactory:
        raise NotImplementedError("Give a fixture that returns a zero-argument factory.")

    @pytest.fixture(autouse=True)
    def _expect_known_deviations(self, request: pytest.FixtureRequest) -> None:
        deviations = self.known_deviations
        reason = deviations.get(request.node.name, deviations.get(request.node.originalname))
        if reason is not None:
            request.applymarker(
                pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)
            )

    @pytest.fixture
    def storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageFactory]:
        """Kind -> storage; the same kind again gives another connection to the same file."""
        opened: list[RDBStorage] = []
        # What a power cut would leave behind is not at stake, and waiting for it is most of a run.
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)

        def connect(kind: str) -> BaseStorage:
            if kind == "memory":
                return InMemoryStorage()
            if kind == "journal":
                return JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
            path = tmp_path / "study.db"
            if not path.exists():
                path.write_bytes(empty_database())
            database = RDBStorage(f"sqlite:///{path}", skip_compatibility_check=True)
            event.listen(database.engine, "connect", _do_not_wait_for_the_disk)
            database.engine.dispose()
            opened.append(database)
            return database

        yield connect
        for database in opened:
            database.engine.dispose()


class DecisionConformance(_Conformance):
    """Which trials go and which stay."""

    def test_decisions_are_plain_bools(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        play_all(study, ordered_curves(10, 9))
        for loss in (-1.0, 5.0):
            trial = begin(study, loss)
            for step in range(9):
                trial.report(loss + 0.1 * step, step)
                assert type(trial.should_prune()) is bool

    def test_keeps_a_trial_without_reports(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        assert not study.ask().should_prune()
        play_all(study, ordered_curves(20, 9))
        assert not begin(study, 5.0).should_prune()

    @both_directions
    def test_keeps_the_only_trial(self, pruner: PrunerFactory, direction: Direction) -> None:
        rising = as_curve(np.linspace(0.0, 3.0, 30))
        assert not any(play(new_study(pruner(), direction), rising))

    @both_directions
    def test_keeps_whoever_leads_at_every_step(
        self, pruner: PrunerFactory, direction: Direction
    ) -> None:
        curves = ordered_curves(25, 12)
        curves += [as_curve([loss - 2.5 for loss in curves[0].values()])]
        decisions = play_all(new_study(pruner(), direction), curves)
        leaders = records(curves)
        assert len(leaders) > 3
        assert leaders[-1] == len(curves) - 1
        assert [i for i in leaders if any(decisions[i])] == []

    def test_keeps_each_trial_of_a_study_that_only_improves(self, pruner: PrunerFactory) -> None:
        curves = sorted(ordered_curves(25, 12), key=lambda curve: -curve[0])
        decisions = play_all(new_study(pruner()), curves)
        assert [i for i, made in enumerate(decisions) if any(made)] == []

    @both_directions
    def test_prunes_the_hopeless_and_finds_the_best(
        self, pruner: PrunerFactory, direction: Direction
    ) -> None:
        curves = ordered_curves(60, 27)
        study = new_study(pruner(), direction)
        decisions = play_all(study, curves)
        assert sign_of(study) * study.best_value == min(curve[26] for curve in curves)
        assert any(map(any, decisions))

    def test_completes_some_of_many_equal_trials(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        play_all(study, [as_curve(np.linspace(1.0, 0.2, 9))] * 24)
        assert TrialState.COMPLETE in {trial.state for trial in study.trials[12:]}

    def test_maximising_the_negatives_decides_alike(self, pruner: PrunerFactory) -> None:
        curves = crossing_curves(30, 12)
        assert play_all(new_study(pruner(), "minimize"), curves) == play_all(
            new_study(pruner(), "maximize"), curves
        )

    def test_asking_twice_gives_one_answer(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        answers = []
        for curve in crossing_curves(24, 9):
            trial = begin(study, curve[8])
            for step, loss in curve.items():
                trial.report(loss, step)
                answers.append((bool(trial.should_prune()), bool(trial.should_prune())))
                if any(answers[-1]):
                    break
            pruned = any(answers[-1])
            study.tell(trial, None if pruned else loss, TrialState.PRUNED if pruned else None)
        assert [first for first, _ in answers] == [second for _, second in answers]


class InputConformance(_Conformance):
    """Values, steps and histories that are unusual but legal."""

    # What `prune` may raise in a study with several objectives, provided that it names the cause.
    multi_objective_errors: ClassVar[tuple[type[Exception], ...]] = (
        ValueError,
        NotImplementedError,
    )

    @both_directions
    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_values_that_are_not_finite(
        self, pruner: PrunerFactory, loss: float, direction: Direction
    ) -> None:
        """Four trials report one in the middle, one trial ends on it, one reports nothing else."""
        study = new_study(pruner(), direction)
        ordinary = ordered_curves(32, 9)
        touched = {i: {**ordinary[i], 4: loss} for i in range(3, 32, 8)}
        decisions = play_all(study, [touched.get(i, curve) for i, curve in enumerate(ordinary)])
        end, only = {**ordinary[0], 8: loss}, dict.fromkeys(range(9), loss)
        decisions += play_all(study, [end, only])
        assert len(study.trials) == len(decisions) == 34
        assert {t.state for t in study.trials} <= {*ENDED_WELL, TrialState.FAIL}
        untouched = [t.state for t in study.trials[:32] if t.number not in touched]
        assert TrialState.COMPLETE in untouched
        assert TrialState.PRUNED in untouched
        if loss != -math.inf:
            leaders = [i for i in records(ordinary) if i not in touched]
            assert [i for i in leaders if any(decisions[i])] == []

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_a_first_trial_that_is_never_finite(self, pruner: PrunerFactory, loss: float) -> None:
        study = new_study(pruner())
        play(study, dict.fromkeys(range(9), loss))
        assert len(play(study, as_curve(np.linspace(1.0, 0.2, 9)))) > 0
        assert TrialState.RUNNING not in {t.state for t in study.trials}

    def test_after_trials_that_all_failed(self, pruner: PrunerFactory) -> None:
        """What a failed trial had reported is no bar for the first trial that may succeed."""
        worse_than_all = as_curve([9.0] * 6)
        asked, never_asked = new_study(pruner(), name="asked"), new_study(pruner(), name="never")
        for curve in ordered_curves(20, 6):
            for study in (asked, never_asked):
                trial = begin(study, curve[5])
                for step in range(5):
                    trial.report(curve[step], step)
                    if study is asked:
                        trial.should_prune()
                study.tell(trial, state=TrialState.FAIL)
        assert not any(play(never_asked, worse_than_all))
        assert not any(play(asked, worse_than_all))

    def test_after_trials_that_were_all_pruned(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        for curve in ordered_curves(20, 6):
            trial = begin(study, curve[5])
            for step in range(3):
                trial.report(curve[step], step)
                trial.should_prune()
            study.tell(trial, state=TrialState.PRUNED)
        assert not any(play(study, as_curve([loss - 3.0 for loss in curve.values()])))

    @pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
    def test_after_trials_that_reported_nothing(
        self, pruner: PrunerFactory, state: TrialState
    ) -> None:
        study = new_study(pruner())
        for i in range(20):
            trial = begin(study, i / 10.0)
            study.tell(trial, i / 10.0 if state == TrialState.COMPLETE else None, state)
        assert not any(play(study, as_curve([5.0] * 6)))

    @pytest.mark.parametrize(("first", "spacing"), [(1, 1), (7, 1), (0, 10), (10**6, 10**6)])
    def test_any_numbering_of_steps(self, pruner: PrunerFactory, first: int, spacing: int) -> None:
        plain = ordered_curves(24, 9)
        curves = [as_curve(list(curve.values()), first, spacing) for curve in plain]
        study = new_study(pruner())
        decisions = play_all(study, curves)
        assert study.best_value == min(curve[8] for curve in plain)
        assert {t.state for t in study.trials} <= ENDED_WELL
        assert [i for i in records(plain) if any(decisions[i])] == []

    def test_steps_reported_out_of_order(self, pruner: PrunerFactory) -> None:
        order = [3, 0, 5, 1, 8, 2, 7]
        curves = [{step: curve[step] for step in order} for curve in ordered_curves(24, 9)]
        study = new_study(pruner())
        decisions = play_all(study, curves)
        assert study.best_value == min(curve[order[-1]] for curve in curves)
        assert [i for i in records(curves) if any(decisions[i])] == []

    def test_trials_of_unequal_length(self, pruner: PrunerFactory) -> None:
        curves = [
            {step: curve[step] for step in range(3 if i % 3 == 1 else 30)}
            for i, curve in enumerate(ordered_curves(24, 30))
        ]
        study = new_study(pruner())
        decisions = play_all(study, curves)
        assert {t.state for t in study.trials} <= ENDED_WELL
        assert [i for i in records(curves) if any(decisions[i])] == []

    def test_spaces_that_change_from_trial_to_trial(self, pruner: PrunerFactory) -> None:
        """No parameters, conditional ones, categories of several types, a fixed one."""
        study = new_study(pruner())
        curves = ordered_curves(32, 9)
        study.enqueue_trial({"kind": "b", "rate": 0.125})
        for number, curve in enumerate(curves):
            trial = study.ask()
            if number % 4 != 3:
                kind = trial.suggest_categorical("kind", [None, True, 3, 2.5, "b"])
                if isinstance(kind, str):
                    trial.suggest_float("rate", 1e-3, 1.0, log=True)
                else:
                    trial.suggest_int("depth", 1, 2 + number)
            pruned = False
            for step, loss in curve.items():
                trial.report(loss, step)
                pruned = trial.should_prune()
                if pruned:
                    break
            study.tell(trial, None if pruned else loss, TrialState.PRUNED if pruned else None)
        assert study.trials[0].params == {"kind": "b", "rate": 0.125}
        assert study.best_value == min(curve[8] for curve in curves)

    def test_without_any_parameter(self, pruner: PrunerFactory) -> None:
        curves = ordered_curves(24, 9)
        study = new_study(pruner())

        def objective(trial: optuna.Trial) -> float:
            return train(trial, curves[trial.number])

        study.optimize(objective, n_trials=24)
        assert study.best_value == min(curve[8] for curve in curves)

    @both_directions
    def test_imported_and_waiting_trials(
        self, pruner: PrunerFactory, direction: Direction
    ) -> None:
        study = new_study(pruner(), direction)
        sign = sign_of(study)
        history = ordered_curves(24, 9)
        study.add_trials([imported(curve, sign=sign) for curve in history[:16]])
        study.add_trials([imported(c, TrialState.PRUNED, sign) for c in history[16:]])
        trial = study.ask()
        for x in (0.1, 0.2, 0.3):
            study.enqueue_trial({"x": x})
        for step, loss in history[0].items():
            trial.report(sign * (loss - 3.0), step)
            assert not trial.should_prune()
        study.tell(trial, sign * -3.0)
        assert sum(t.state == TrialState.WAITING for t in study.trials) == 3
        assert study.best_trial.number == 24

    def test_multi_objective_studies_are_refused_clearly(self, pruner: PrunerFactory) -> None:
        study = optuna.create_study(directions=["minimize", "maximize"], pruner=pruner())
        with pytest.raises(NotImplementedError, match="multi-objective"):
            study.ask().should_prune()
        reports = dict.fromkeys(range(9), 1.0)
        for _ in range(20):
            study.add_trial(create_trial(values=[1.0, 2.0], intermediate_values=reports))
        running = create_trial(state=TrialState.RUNNING, intermediate_values={**reports, 0: 2.0})
        study.add_trial(running)
        outcome: object
        try:
            outcome = bool(study.pruner.prune(study, study.trials[-1]))
        except self.multi_objective_errors as error:
            outcome = str(error)
        assert isinstance(outcome, bool) or "multi-objective" in str(outcome)


class StorageConformance(_Conformance):
    """The storage decides, and nothing else: no memory, no side effect, no other study."""

    def test_a_fresh_pruner_for_each_decision_decides_alike(self, pruner: PrunerFactory) -> None:
        curves = crossing_curves(40, 12)
        one = play_all(new_study(pruner()), curves)
        study = new_study(pruner())

        def forget() -> None:
            study.pruner = pruner()

        assert play_all(study, curves, forget) == one

    @pytest.mark.parametrize("kind", ["sqlite", "journal"])
    def test_a_study_reloaded_midway_decides_as_one_in_memory(
        self, pruner: PrunerFactory, storage: StorageFactory, kind: str
    ) -> None:
        curves = crossing_curves(12, 4) if kind == "sqlite" else crossing_curves(32, 6)
        half = len(curves) // 2
        whole = play_all(new_study(pruner()), curves)
        before = play_all(new_study(pruner(), storage=storage(kind)), curves[:half])
        reloaded = optuna.load_study(
            study_name="conformance", storage=storage(kind), pruner=pruner()
        )
        assert before + play_all(reloaded, curves[half:]) == whole

    @pytest.mark.parametrize("kind", ["memory", "journal"])
    def test_deciding_changes_nothing_but_attributes(
        self, pruner: PrunerFactory, storage: StorageFactory, kind: str
    ) -> None:
        study = new_study(pruner(), storage=storage(kind))
        curves = crossing_curves(16, 5)
        decisions = play_all(study, curves)
        for trial, curve, made in zip(study.trials, curves, decisions, strict=True):
            assert trial.intermediate_values == dict(list(curve.items())[: len(made)])
        for loss in (-1.0, 5.0):
            live = begin(study, loss)
            for step in range(5):
                live.report(loss + 0.1 * step, step)
                shown = study.trials[-1]
                before = contents(study), contents(shown), random_states()
                study.pruner.prune(study, shown)
                assert (contents(study), contents(shown), random_states()) == before

    def test_a_pickled_pruner_decides_alike(self, pruner: PrunerFactory) -> None:
        curves = crossing_curves(40, 12)
        one = play_all(new_study(pruner()), curves)
        study = new_study(pickle.loads(pickle.dumps(pruner())))
        first = play_all(study, curves[:20])
        study.pruner = pickle.loads(pickle.dumps(study.pruner))
        assert first + play_all(study, curves[20:]) == one

    @pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
    def test_two_studies_of_one_pruner_do_not_mix(
        self, pruner: PrunerFactory, at_once: bool
    ) -> None:
        """Two directions, and trials that differ in length by the factor of a few rungs."""
        # Each begins with its best trial: what that leaves behind matters to all others.
        tables = [[as_curve([-1.0] * n), *crossing_curves(30, n, seed=n)] for n in (3, 27)]
        directions: list[Direction] = ["maximize", "minimize"]

        def studies(factory: PrunerFactory) -> list[Study]:
            return [new_study(factory(), d, name=d) for d in directions]

        apart = [play_all(s, t) for s, t in zip(studies(pruner), tables, strict=True)]
        shared = pruner()
        together = studies(lambda: shared)
        if at_once:
            made: list[Decisions] = [[], []]
            for pair in zip(*tables, strict=True):
                for study, curve, decisions in zip(together, pair, made, strict=True):
                    decisions.append(play(study, curve))
        else:
            made = [play_all(s, t) for s, t in zip(together, tables, strict=True)]
        assert made == apart

    def test_a_name_beyond_ascii(self, pruner: PrunerFactory, storage: StorageFactory) -> None:
        curves = ordered_curves(24, 5)
        study = new_study(pruner(), storage=storage("journal"), name="Étude récurrente 循環 №1")
        play_all(study, curves)
        assert study.best_value == min(curve[4] for curve in curves)

    def test_a_decision_is_quick(self, pruner: PrunerFactory) -> None:
        study = new_study(pruner())
        study.add_trials([imported(curve) for curve in crossing_curves(300, 30)])
        trial = begin(study, 0.5)
        seconds = []
        for step in range(15):
            trial.report(1.0 - 0.01 * step, step)
            started = time.perf_counter()
            trial.should_prune()
            seconds.append(time.perf_counter() - started)
        assert float(np.median(seconds)) < MAX_SECONDS_A_DECISION


class OptimizeConformance(_Conformance):
    """`Study.optimize`, alone and with several threads."""

    n_trials_before_threads: ClassVar[int] = 0

    @pytest.mark.parametrize(("kind", "n_trials"), [("memory", 60), ("sqlite", 10)])
    def test_four_threads(
        self, pruner: PrunerFactory, storage: StorageFactory, kind: str, n_trials: int
    ) -> None:
        n_steps = 12 if kind == "memory" else 3
        curves = crossing_curves(n_trials, n_steps)
        study = new_study(pruner(), storage=storage(kind))

        def objective(trial: optuna.Trial) -> float:
            trial.suggest_float("x", 0.0, 1.0)
            return train(trial, curves[trial.number])

        study.optimize(objective, n_trials=self.n_trials_before_threads)
        study.optimize(objective, n_trials=n_trials - len(study.trials), n_jobs=4)
        assert sorted(t.number for t in study.trials) == list(range(n_trials))
        assert {t.state for t in study.trials} <= ENDED_WELL
        assert TrialState.COMPLETE in {t.state for t in study.trials}

    @both_directions
    def test_a_pruned_trial_is_worth_its_last_report(
        self, pruner: PrunerFactory, direction: Direction
    ) -> None:
        curves = ordered_curves(40, 12)
        study = new_study(pruner(), direction)

        def objective(trial: optuna.Trial) -> float:
            return train(trial, curves[trial.number], sign_of(study))

        study.optimize(objective, n_trials=40)
        pruned = study.get_trials(states=(TrialState.PRUNED,))
        for trial in pruned:
            assert trial.value == list(trial.intermediate_values.values())[-1]
        assert len(pruned) > 0
        assert {t.state for t in study.trials} == ENDED_WELL


class PrunerConformance(
    DecisionConformance, InputConformance, StorageConformance, OptimizeConformance
):
    """All of the above."""


def train(trial: optuna.Trial, curve: Curve, sign: float = 1.0) -> float:
    """An objective's body that follows ``curve``."""
    for step, loss in curve.items():
        trial.report(sign * loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return sign * loss


def contents(subject: Study | FrozenTrial) -> list[tuple[Any, ...]]:
    """All that a trial holds except attributes, which pruners may write."""
    trials = subject.trials if isinstance(subject, Study) else [copy.deepcopy(subject)]
    return [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.distributions,
            t.intermediate_values,
            t.datetime_start,
            t.datetime_complete,
        )
        for t in trials
    ]


def random_states() -> tuple[object, ...]:
    of_numpy = pickle.dumps(np.random.get_state())
    return random.getstate(), of_numpy, torch.get_rng_state().tolist()
