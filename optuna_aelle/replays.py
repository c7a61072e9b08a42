"""Replay recorded trials under any pruner: how much training would it have saved, and missed?

The pruners are real ones, in real studies: each trial is asked for, suggests, reports and asks
whether to stop, as it would if it were trained. All pruners of a repeat get the same
configurations in the same order. What a method costs is charged to it: the seconds that its
``prune`` takes, and those of the spectra that it reads, count as steps of training.

Notation: cost is counted in *steps*, as `trial.report` counts (epochs, as a rule); full compute is
what the stream of a repeat costs without pruning.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from tqdm import tqdm

from optuna_aelle._warnings import warn_once
from optuna_aelle.recorded import RecordedTrials
from optuna_aelle.records import LAMBDA_1_KEY
from optuna_aelle.records import SPECTRUM_PREFIX
from optuna_aelle.records import UNTRAINED_STEP
from optuna_aelle.records import decode_predictions
from optuna_aelle.records import spectrum_payloads
from optuna_aelle.streams import RecordedStream

if TYPE_CHECKING:
    import pandas as pd

PrunerFactory = Callable[[], BasePruner]
SamplerFactory = Callable[[int], BaseSampler]

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
# What a pruner may ask for besides reported values, see `replay`.
SPECTRA = "spectra"


@dataclass
class ReplayedStudy:
    """One study under one pruner.

    Attributes:
        study: It, with all its trials.
        indices: Of the recorded trials, in the order in which they were tried.
        steps: Trained steps of each trial.
        overhead_seconds: What the pruner has cost, and the proposer that counts its own.
        cut: Trials that ended because their recording did.
        finished: Of each trial that ran to its end, the cost so far, in steps, and its index.
    """

    study: optuna.Study
    indices: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    overhead_seconds: float = 0.0
    cut: int = 0
    finished: list[tuple[float, int]] = field(default_factory=list)


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
            attributes ``"train_loss:3"``, if it contains the curve's name.
        n_trials: Configurations a study; all by default.
        n_repeats: Studies a pruner, each with another order.
        seed: Of orders and samplers; the same for all pruners.
        sampler: Makes a sampler of a seed. Its proposals are moved to the nearest recorded
            configuration that is left, so pruners may see different ones; what it has spent by
            its own count, ``overhead_seconds``, is charged. None: a random order.
        order: ``"recorded"`` tries the trials once, as numbered; nothing is drawn.
        spectrum_steps: Steps whose spectra are given and charged, −1 for the untrained network;
            all by default.
        show_progress_bar: Whether to show one.

    Returns:
        One row a pruner and repeat:

        - ``pruner``, ``repeat``, ``n_trials``, ``n_complete``;
        - ``epochs_share``: steps trained and overhead, as a share of full compute, of which
          ``overhead_share`` is overhead;
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
          the chances to reach the bar; NaN without predictions.

    Raises:
        ValueError: ``n_trials`` is more than there are, or another argument is out of range.
    """
    available = _replayable(recorded)
    if n_trials is None:
        n_trials = len(available)
    if not 1 <= n_trials <= len(available):
        raise ValueError(
            f"n_trials must be between 1 and the {len(available)} recorded trials, but got "
            f"{n_trials}."
        )
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1, but got {n_repeats}.")
    if order not in ("random", "recorded"):
        raise ValueError(f"order must be 'random' or 'recorded', but got {order!r}.")
    if not pruners:
        raise ValueError("Expected at least one pruner, got none.")
    if order == "recorded":
        if sampler is not None:
            raise ValueError("order='recorded' tries the trials as numbered: pass no sampler.")
        n_repeats = 1
    rows = []
    with tqdm(
        total=n_repeats * len(pruners), desc=recorded.name, disable=not show_progress_bar
    ) as bar:
        for repeat in range(n_repeats):
            indices, study_name = list(available), recorded.name
            if order == "random":
                indices = np.random.default_rng([seed, repeat]).permutation(available).tolist()
                study_name = f"{recorded.name}-{seed}-{repeat}"
            for name, factory in pruners.items():
                pruner = factory()
                if SPECTRA in _reads(pruner):
                    _warm_up()
                replayed = replay_study(
                    recorded,
                    pruner,
                    indices if sampler is not None else indices[:n_trials],
                    n_trials=n_trials,
                    proposer=None if sampler is None else sampler(_draw_seed(seed, repeat)),
                    study_name=study_name,
                    keep_numbers=order == "recorded",
                    spectrum_steps=spectrum_steps,
                )
                row = {"pruner": name, "repeat": repeat}
                rows.append(row | _measure(recorded, replayed, adaptive=sampler is not None))
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
        per_second = 1.0 / _mean_step_seconds(recorded)
        proposed = getattr(proposer, "overhead_seconds", 0.0)
        for position in range(n_trials or len(order)):
            if keep_numbers:
                _fill_gap(study, recorded.trials[order[position]].number)
            trial, index = stream.take(study)
            replayed.indices.append(index)
            proposing = getattr(proposer, "overhead_seconds", 0.0)
            replayed.overhead_seconds += proposing - proposed
            proposed = proposing
            value = _replay_trial(recorded, index, trial, pruner, replayed, spectrum_steps)
            if value is None:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            study.tell(trial, value)
            spent = sum(replayed.steps) + replayed.overhead_seconds * per_second
            replayed.finished.append((spent, index))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return replayed


def _draw_seed(seed: int, repeat: int) -> int:
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def _reads(pruner: BasePruner) -> frozenset[str]:
    """What a pruner, or the one that it wraps, asks for besides reported values."""
    wrapped = getattr(pruner, "_wrapped_pruner", None)
    own = frozenset(getattr(pruner, "reads", ()))
    return own | _reads(wrapped) if isinstance(wrapped, BasePruner) else own


@functools.cache
def _warm_up() -> None:
    """Load what a predictor loads when it first fits: no study should pay for imports."""
    from optuna_aelle.aelle import AeLLERegressor

    rng = np.random.default_rng(0)
    AeLLERegressor(n_steps=1).fit(-rng.uniform(size=(4, 32)), rng.uniform(size=4))


def _replay_trial(
    recorded: RecordedTrials,
    index: int,
    trial: optuna.Trial,
    pruner: BasePruner,
    replayed: ReplayedStudy,
    spectrum_steps: Collection[int] | None,
) -> float | None:
    """One trial; its final value, or None where it was pruned."""
    source = recorded.trials[index]
    reads = _reads(pruner)
    payloads = spectrum_payloads(source) if SPECTRA in reads else {}
    if spectrum_steps is not None:
        payloads = {step: x for step, x in payloads.items() if step in spectrum_steps}
    curves = {name: recorded.curves[name][index] for name in recorded.curves if name in reads}
    columns = {step: i for i, step in enumerate(recorded.steps)} if curves else {}
    replayed.steps.append(0)
    for step in sorted({UNTRAINED_STEP, *payloads, *source.intermediate_values}):
        if step in payloads:
            payload = payloads[step]
            key = f"{SPECTRUM_PREFIX}{step}"
            trial.set_user_attr(key, {**payload, "trial": trial.number})
            if payload["exponents"][0] is not None:
                trial.set_user_attr(LAMBDA_1_KEY, payload["exponents"][0])
            replayed.overhead_seconds += payload.get("seconds", 0.0)
        if step in source.intermediate_values:
            for name, curve in curves.items():
                trial.set_user_attr(f"{name}:{step}", float(curve[columns[step]]))
            trial.report(source.intermediate_values[step], step)
            replayed.steps[-1] += 1
        elif step != UNTRAINED_STEP:
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


def _replayable(recorded: RecordedTrials) -> list[int]:
    finished = [i for i, t in enumerate(recorded.trials) if t.state == TrialState.COMPLETE]
    n_pruned = len(recorded) - len(finished)
    if n_pruned:
        warn_once(
            f"pruned when recorded:{recorded.name}",
            f"{n_pruned} of {len(recorded)} trials of '{recorded.name}' were pruned when they "
            "were recorded: nobody knows where they would have ended, and what a more patient "
            "pruner would have spent on them. Record with optuna.pruners.NopPruner to compare "
            "pruners fairly.",
        )
    return list(range(len(recorded)))


def _mean_step_seconds(recorded: RecordedTrials) -> float:
    """Seconds of a step over the table; a second where no time was recorded."""
    known = recorded.step_seconds[np.isfinite(recorded.step_seconds)]
    mean = float(known.mean()) if known.size else 0.0
    return mean if mean > 0.0 else 1.0


def _measure(
    recorded: RecordedTrials, replayed: ReplayedStudy, *, adaptive: bool
) -> dict[str, Any]:
    overhead = replayed.overhead_seconds / _mean_step_seconds(recorded)
    row = measure_outcome(
        recorded,
        replayed.indices,
        replayed.finished,
        spent=sum(replayed.steps) + overhead,
        adaptive=adaptive,
    )
    full = _full_compute(recorded, replayed.indices)
    return row | {
        "overhead_share": overhead / full,
        "untrained_share": float(np.mean([steps == 0 for steps in replayed.steps])),
        "cut": replayed.cut,
        **_calibration(recorded, replayed),
    }


def measure_outcome(
    recorded: RecordedTrials,
    indices: Sequence[int],
    finished: Sequence[tuple[float, int]],
    *,
    spent: float,
    adaptive: bool = False,
) -> dict[str, Any]:
    """The columns of `replay` that any way to spend training on recorded trials has.

    Args:
        recorded: The trials.
        indices: Of the trials that were tried.
        finished: Of each that ran to its end, the cost so far, in steps, and its index.
        spent: The whole cost, in steps.
        adaptive: Whether the trials that were tried depended on the outcome.
    """
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    finals = sign * recorded.finals
    best, middle, worst = (float(f(finals)) for f in (np.nanmax, np.nanmedian, np.nanmin))
    # Where most are equally good, the median is no yardstick.
    spread = best - middle if best > middle else best - worst
    tried = finals[list(indices)]
    reference = best if adaptive or np.isnan(tried).all() else float(np.nanmax(tried))
    full = _full_compute(recorded, indices)
    costs = [cost for cost, _ in finished]
    ends = finals[[index for _, index in finished]]

    def regret(n_finished: int) -> float:
        behind = reference - float(ends[:n_finished].max()) if n_finished else spread
        return min(behind / spread, 1.0) if spread > 0.0 else 0.0

    chosen = None if not finished else finished[int(np.argmax(ends))][1]
    row: dict[str, Any] = {
        "n_trials": len(indices),
        "n_complete": len(finished),
        "epochs_share": spent / full,
        "best_value": math.nan if chosen is None else float(recorded.finals[chosen]),
        "regret": regret(len(finished)),
        "best_kept": chosen is not None and float(ends.max()) >= reference,
    }
    for budget in BUDGETS:
        within = int(np.searchsorted(costs, budget * full, "right"))
        row[f"regret_at_{round(100 * budget)}"] = regret(within)
    for name, curve in recorded.curves.items():
        row[f"chosen_{name}"] = math.nan if chosen is None else _last(curve[chosen])
    return row


def _full_compute(recorded: RecordedTrials, indices: Sequence[int]) -> int:
    return sum(len(recorded.trials[i].intermediate_values) for i in indices)


def _last(curve: np.ndarray[Any, Any]) -> float:
    finite = curve[np.isfinite(curve)]
    return float(finite[-1]) if finite.size else math.nan


def _calibration(recorded: RecordedTrials, replayed: ReplayedStudy) -> dict[str, float]:
    """How the predictions on the trials compare with what was recorded."""
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    within, errors = [], []
    numbered = [t for t in replayed.study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
    for trial, index in zip(numbered, replayed.indices, strict=True):
        final = float(recorded.finals[index])
        if math.isnan(final):
            continue
        for prediction in decode_predictions(trial).values():
            within.append(abs(final - prediction.mean) <= _CENTRAL_80 * prediction.std)
            if prediction.chance is not None:
                reached = sign * final >= sign * prediction.bar
                errors.append((prediction.chance - reached) ** 2)
    return {
        "coverage": float(np.mean(within)) if within else math.nan,
        "brier": float(np.mean(errors)) if errors else math.nan,
    }


# Standard deviations on either side that hold 80 % of a normal distribution.
_CENTRAL_80 = 1.2815515655446004
