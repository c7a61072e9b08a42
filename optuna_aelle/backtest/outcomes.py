"""What came of a replayed study: cost, regret, and how good its predictions were.

Notation: cost is counted in *steps*, as `optuna_aelle.trials.cost` counts them; full compute is
what the stream of a repeat costs without pruning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from optuna_aelle.prediction.forecast import CENTRAL_80
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.table import RecordedTrials

# Of which sums and differences are still numbers.
_MOST = 1e300

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)


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


def mean_step_seconds(recorded: RecordedTrials) -> float:
    """Seconds of a step over the table; a second where no time was recorded."""
    known = recorded.step_seconds[np.isfinite(recorded.step_seconds)]
    mean = float(known.mean()) if known.size else 0.0
    return mean if mean > 0.0 else 1.0


def measure(
    recorded: RecordedTrials, replayed: ReplayedStudy, *, adaptive: bool
) -> dict[str, Any]:
    """The columns of `replay`, of one study."""
    overhead = replayed.overhead_seconds / mean_step_seconds(recorded)
    row = measure_outcome(
        recorded,
        replayed.indices,
        replayed.finished,
        spent=sum(replayed.steps) + overhead,
        adaptive=adaptive,
    )
    full = _full_compute(recorded, replayed.indices)
    return row | {
        "overhead_share": _share(overhead, full),
        "seconds_share": _seconds_share(recorded, replayed),
        "untrained_share": float(np.mean([steps == 0 for steps in replayed.steps])),
        "cut": replayed.cut,
        **_calibration(recorded, replayed),
    }


def _seconds_share(recorded: RecordedTrials, replayed: ReplayedStudy) -> float:
    """The share of the seconds of full training; NaN where a trial's time is not known."""
    per_step = recorded.step_seconds[replayed.indices]
    spent = float(per_step @ np.array(replayed.steps)) + replayed.overhead_seconds
    whole = float(per_step @ recorded.trained_steps[replayed.indices])
    return _share(spent, whole)


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
    finals = sign * tamed(recorded.finals)
    best, spread = yardstick(finals)
    tried = finals[list(indices)]
    reference = best if adaptive or np.isnan(tried).all() else float(np.nanmax(tried))
    full = _full_compute(recorded, indices)
    costs = [cost for cost, _ in finished]
    ends = finals[[index for _, index in finished]]

    def regret(n_finished: int) -> float:
        if n_finished == 0:
            return 1.0
        behind = reference - float(ends[:n_finished].max())
        return min(behind, spread) / spread if behind > 0.0 else 0.0

    chosen = None if not finished else finished[int(np.argmax(ends))][1]
    row: dict[str, Any] = {
        "n_trials": len(indices),
        "n_complete": len(finished),
        "epochs_share": _share(spent, full),
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


def tamed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values with NaN for what is infinite; so large ones that differences are finite."""
    return np.clip(np.where(np.isfinite(values), values, np.nan), -_MOST, _MOST)


def yardstick(finals: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The best of final values of which more is better, and the range that regret is a share of.

    It reaches from the best to the median, or to the worst where most are equally good; where all
    are, it is infinite, and there is nothing to regret. Where there is none, the best is −inf.
    """
    if np.isnan(finals).all():
        return -math.inf, math.inf
    best, middle, worst = (float(f(finals)) for f in (np.nanmax, np.nanmedian, np.nanmin))
    spread = best - middle if best > middle else best - worst
    return best, spread if spread > 0.0 else math.inf


def _full_compute(recorded: RecordedTrials, indices: Sequence[int]) -> int:
    return int(recorded.trained_steps[list(indices)].sum())


def _share(part: float, whole: float) -> float:
    """NaN of nothing: a damaged table may say that nothing was trained."""
    return part / whole if whole > 0.0 else math.nan


def _last(curve: np.ndarray[Any, Any]) -> float:
    finite = curve[np.isfinite(curve)]
    return float(finite[-1]) if finite.size else math.nan


def _calibration(recorded: RecordedTrials, replayed: ReplayedStudy) -> dict[str, float]:
    """How the predictions on the trials compare with what was recorded."""
    sign = 1.0 if recorded.direction == "maximize" else -1.0
    within, errors = [], []
    numbered = [t for t in replayed.study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
    for position, (trial, index) in enumerate(zip(numbered, replayed.indices, strict=True)):
        final = float(recorded.finals[index])
        if math.isnan(final):
            continue
        before = sign * recorded.finals[replayed.indices[:position]]
        for forecast in decode_forecasts(trial).values():
            within.append(abs(final - forecast.value) <= CENTRAL_80 * forecast.value_std)
            bar = sign * forecast.bar_value
            if forecast.share is not None:
                # What it is to reach, by the true ends, which the pruner did not see.
                if np.isnan(before).all():
                    continue
                bar = float(np.nanquantile(before, 1.0 - forecast.share))
            errors.append((forecast.chance - (sign * final >= bar)) ** 2)
    return {
        "coverage": float(np.mean(within)) if within else math.nan,
        "brier": float(np.mean(errors)) if errors else math.nan,
    }
