"""Replay recorded trials under any pruner: how much training would it have saved, and missed?

The pruners are real ones, in real studies: each trial is asked for, suggests, reports and asks
whether to stop, as it would if it were trained. All pruners of a repeat get the same
configurations in the same order. What a method costs is charged to it: the seconds that its
``prune`` takes, and those of the spectra that it reads, count as steps of training
(`optuna_aelle.backtest.outcomes`). Where a sampler chooses among the recorded configurations,
each pruner has a stream of its own, since what it prunes is what the sampler learns from.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from tqdm import tqdm

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle._warnings import told_apart
from optuna_aelle._warnings import warn_once
from optuna_aelle.backtest.checks import check_recorded
from optuna_aelle.backtest.checks import check_whole
from optuna_aelle.backtest.outcomes import ReplayedStudy
from optuna_aelle.backtest.outcomes import mean_step_seconds
from optuna_aelle.backtest.outcomes import measure
from optuna_aelle.backtest.streams import RecordedStream
from optuna_aelle.decisions.wrapping import asks_before_training
from optuna_aelle.decisions.wrapping import reads_of
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.cost import first_step
from optuna_aelle.trials.cost import steps_until
from optuna_aelle.trials.storage import write_system_attributes
from optuna_aelle.trials.table import RecordedTrials

if TYPE_CHECKING:
    import pandas as pd

PrunerFactory = Callable[[], BasePruner]
SamplerFactory = Callable[[int], BaseSampler]

# What a pruner may ask for besides reported values, see `replay`.
SPECTRA = "spectra"


def replay(
    recorded: RecordedTrials,
    pruners: Mapping[str, PrunerFactory],
    *,
    n_trials: int | None = None,
    n_repeats: int = 10,
    seed: int = 0,
    sampler: SamplerFactory | None = None,
    order: Literal["random", "recorded"] = "random",
    spectrum_steps: Collection[int] | None = None,
    show_progress_bar: bool = False,
) -> pd.DataFrame:
    """Run every pruner over the same recorded configurations, and compare.

    Args:
        recorded: The trials.
        pruners: Name to a function that makes a fresh pruner. Spectra are given to a pruner, and
            charged, if its attribute ``reads`` contains ``"spectra"``; a recorded curve, as user
            attributes ``"train_loss:3"``, if it contains the curve's name. It is asked after
            every report, and before the first one where there is an untrained spectrum or it has
            ``asks_before_training``.
        n_trials: Configurations a study; all by default.
        n_repeats: Studies a pruner, each with another order.
        seed: Of orders and samplers; the same for all pruners.
        sampler: Makes a sampler of a seed. Its proposals are moved to the nearest recorded
            configuration that is left, so pruners may see different ones. It may have ``reads``,
            too; what it has spent by its own count, ``overhead_seconds``, is charged. None: a
            random order.
        order: ``"recorded"`` tries the trials once, as numbered; nothing is drawn.
        spectrum_steps: Steps whose spectra are given and charged, −1 for the untrained network;
            all by default.
        show_progress_bar: Whether to show one.

    Returns:
        One row a pruner and repeat:

        - ``pruner``, ``repeat``, ``n_trials``, ``n_complete``;
        - ``epochs_share``: steps trained (as steps are numbered, however many reports they made)
          and overhead, as a share of full compute, of which
          ``overhead_share`` is overhead; ``seconds_share``: the same in seconds, where a step of
          a large network costs more; both NaN where full compute is nothing, as where trials
          continue others whose steps they have not passed;
        - ``best_value``: the best of the trials that ran to their end, NaN if none did;
        - ``regret``: how far that lies behind the best configuration there was (in an adaptive
          stream: in the whole table), in units of the table's best-to-median range; at most 1,
          which is also the regret of having nothing;
        - ``best_kept``: whether the best configuration there was ran to its end;
        - ``regret_at_5`` ... ``regret_at_50``: the regret once so many percent of full compute
          were spent;
        - ``untrained_share``: trials pruned before training;
        - ``cut``: trials that a pruner let run beyond what is recorded of them;
        - one column ``chosen_<curve>`` a recorded curve: its last value for the chosen
          configuration;
        - ``coverage``, ``brier``: of the predictions that the pruner has left on its trials: the
          share of final values within the central 80 % interval, and the mean squared error of
          the chances (before training: to end in the top fifth of what was tried, by the true
          ends; later: to beat the best); NaN without predictions.

    Raises:
        ValueError: ``n_trials`` is more than there are, another argument is out of range, or a
            trial cannot be replayed.
        TypeError: A number is no integer.

    Example:
        >>> recorded = RecordedTrials.from_study(study)
        >>> replay(recorded, {"median": MedianPruner, "mine": MyPruner})
    """
    check_recorded(recorded)
    n_repeats = check_whole("n_repeats", n_repeats, 1)
    seed = check_whole("seed", seed, 0)
    available = range(len(recorded))
    n_trials = len(available) if n_trials is None else check_whole("n_trials", n_trials, 0)
    if not 1 <= n_trials <= len(available):
        raise ValueError(
            f"n_trials must be between 1 and the {len(available)} recorded trials, but got "
            f"{n_trials}."
        )
    if order not in ("random", "recorded"):
        raise ValueError(f"order must be 'random' or 'recorded', but got {order!r}.")
    if not pruners:
        raise ValueError("Expected at least one pruner, got none.")
    if order == "recorded":
        if sampler is not None:
            raise ValueError("order='recorded' tries the trials as numbered: pass no sampler.")
        n_repeats = 1
    warn_of_pruned(recorded)
    rows = []
    with (
        told_once(recorded),
        tqdm(
            total=n_repeats * len(pruners), desc=recorded.name, disable=not show_progress_bar
        ) as bar,
    ):
        for repeat in range(n_repeats):
            indices, study_name = list(available), recorded.name
            if order == "random":
                indices = np.random.default_rng([seed, repeat]).permutation(available).tolist()
                study_name = f"{recorded.name}-{seed}-{repeat}"
            for name, factory in pruners.items():
                pruner = factory()
                proposer = None if sampler is None else sampler(draw_seed(seed, repeat))
                if SPECTRA in _reads(pruner, proposer):
                    warm_up()
                replayed = replay_study(
                    recorded,
                    pruner,
                    indices if sampler is not None else indices[:n_trials],
                    n_trials=n_trials,
                    proposer=proposer,
                    study_name=study_name,
                    keep_numbers=order == "recorded",
                    spectrum_steps=spectrum_steps,
                )
                row = {"pruner": name, "repeat": repeat}
                rows.append(row | measure(recorded, replayed, adaptive=sampler is not None))
                bar.update()
    import pandas as pd

    return pd.DataFrame(rows)


def replay_study(
    recorded: RecordedTrials,
    pruner: BasePruner,
    order: Sequence[int],
    *,
    n_trials: int | None = None,
    proposer: BaseSampler | None = None,
    study_name: str | None = None,
    keep_numbers: bool = False,
    spectrum_steps: Collection[int] | None = None,
) -> ReplayedStudy:
    """Run one study of recorded trials, in the given order, under a pruner.

    Args:
        recorded: The trials.
        pruner: Any.
        order: Indices of the trials to try, in this order.
        n_trials: How many, if fewer.
        proposer: A sampler whose proposals choose among ``order`` instead.
        study_name: Some pruners depend on it; the table's by default.
        keep_numbers: Whether trials keep their numbers, with failed trials in the gaps.
        spectrum_steps: As in `replay`.
    """
    warn_of_own_task(recorded.task, recorded.name, getattr(proposer, "prior", None))
    stream = RecordedStream(recorded.trials, order, proposer)
    # Without Optuna's line a trial, which would cost more than the replay.
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=study_name or recorded.name,
            direction=recorded.direction,
            sampler=stream,
            pruner=pruner,
        )
        replayed = ReplayedStudy(study)
        reads = _reads(pruner, proposer)
        per_second = 1.0 / mean_step_seconds(recorded)
        proposed = getattr(proposer, "overhead_seconds", 0.0)
        first = first_step(recorded.trials)
        for position in range(n_trials or len(order)):
            if keep_numbers:
                _fill_gap(study, recorded.trials[order[position]].number)
            trial, index = stream.take(study)
            replayed.indices.append(index)
            proposing = getattr(proposer, "overhead_seconds", 0.0)
            replayed.overhead_seconds += proposing - proposed
            proposed = proposing
            value = _replay_trial(recorded, index, trial, reads, replayed, spectrum_steps, first)
            if value is None:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            study.tell(trial, value)
            spent = sum(replayed.steps) + replayed.overhead_seconds * per_second
            replayed.finished.append((spent, index))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return replayed


@contextmanager
def told_once(recorded: RecordedTrials) -> Iterator[None]:
    """A table without spectra is no study whose objective forgot them, in each of its repeats."""
    with told_apart(), warnings.catch_warnings():
        if not any(spectrum_payloads(trial) for trial in recorded.trials):
            for message in ("None of the .* ended trials", "spectrum_fn returned None"):
                warnings.filterwarnings("ignore", message, AeLLEWarning)
        yield


def draw_seed(seed: int, repeat: int) -> int:
    """The seed of what a repeat draws besides its order."""
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def _reads(pruner: BasePruner, proposer: BaseSampler | None = None) -> frozenset[str]:
    """What a pruner, those that it wraps and a sampler ask for besides reported values."""
    return reads_of(pruner) | frozenset(getattr(proposer, "reads", ()))


@functools.cache
def warm_up() -> None:
    """Load what a predictor loads when it first fits: no study should pay for imports."""
    from optuna_aelle.aelle import AeLLERegressor

    rng = np.random.default_rng(0)
    AeLLERegressor(n_steps=1).fit(-rng.uniform(size=(4, 32)), rng.uniform(size=4))


def _replay_trial(
    recorded: RecordedTrials,
    index: int,
    trial: optuna.Trial,
    reads: frozenset[str],
    replayed: ReplayedStudy,
    spectrum_steps: Collection[int] | None,
    first: int,
) -> float | None:
    """One trial; its final value, or None where it was pruned."""
    source = recorded.trials[index]
    payloads = spectrum_payloads(source) if SPECTRA in reads else {}
    if spectrum_steps is not None:
        payloads = {step: x for step, x in payloads.items() if step in spectrum_steps}
    # Of the untrained network most pruners have nothing to say, and some of no report at all.
    before = UNTRAINED_STEP in payloads or asks_before_training(trial.study.pruner)
    curves = {name: recorded.curves[name][index] for name in recorded.curves if name in reads}
    columns = {step: i for i, step in enumerate(recorded.steps)} if curves else {}
    replayed.steps.append(0)
    for step in sorted({UNTRAINED_STEP, *payloads, *source.intermediate_values}):
        if step in payloads:
            payload = {**payloads[step], "trial": trial.number}
            write_system_attributes(trial.study, trial, {f"{SPECTRUM_PREFIX}{step}": payload})
            replayed.overhead_seconds += payload.get("seconds", 0.0)
        if step in source.intermediate_values:
            for name, curve in curves.items():
                trial.set_user_attr(f"{name}:{step}", float(curve[columns[step]]))
            trial.report(source.intermediate_values[step], step)
            replayed.steps[-1] = steps_until(step, first)
        elif step != UNTRAINED_STEP or not before:
            continue
        started = time.perf_counter()
        prune = trial.should_prune()
        replayed.overhead_seconds += time.perf_counter() - started
        if prune:
            return None
    if source.state != TrialState.COMPLETE:
        replayed.cut += 1
        return None
    return float(source.values[0])


def _fill_gap(study: optuna.Study, number: int) -> None:
    """Let trials that are not recorded have failed, so that the next one gets ``number``."""
    while len(study.get_trials(deepcopy=False)) < number:
        study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))


def warn_of_pruned(recorded: RecordedTrials) -> None:
    """Warn once of trials whose ends nobody knows."""
    n_pruned = sum(trial.state != TrialState.COMPLETE for trial in recorded.trials)
    if n_pruned:
        warn_once(
            f"pruned when recorded:{recorded.name}",
            f"{n_pruned} of {len(recorded)} trials of '{recorded.name}' were pruned when they "
            "were recorded: nobody knows where they would have ended, and what a more patient "
            "pruner would have spent on them. Record with optuna.pruners.NopPruner to compare "
            "pruners fairly.",
        )


def warn_of_own_task(task: str, table: str, prior: object) -> None:
    """Warn once of a prior, or a sampler's, that has learned from the task it is judged on."""
    if task in getattr(prior, "tasks", ()):
        warn_once(
            f"prior knows the task:{task}",
            f"The prior has learned from {task!r}, the task of the table {table!r}: it knows the "
            "answers. Pass one that the table's own task is left out of.",
        )
