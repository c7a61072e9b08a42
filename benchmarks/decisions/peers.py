"""How do pruners decide that Optuna does not ship? Peers for `benchmarks.decisions.pruning`.

A new one needs a class here and an entry in `benchmarks.decisions.arms.peer_arms`.

- The sum of training losses, ranked at every epoch (an estimate of training speed).
- A regression on curve and hyperparameters that prunes where P(beat the best) is small: Domhan,
  Springenberg and Hutter (IJCAI 2015); Baker, Gupta, Raskar and Naik (arXiv 1705.10823).
- i epochs for everybody, then the K best to their end, which needs trials that can be resumed:
  "i-Epoch" of Egele, Mohr, Viering and Balaprakash (arXiv 2404.04111).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.stats import norm

from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]

# Ridge penalties to choose from by leave-one-out error, for columns of unit spread.
_PENALTIES = (0.1, 1.0, 10.0, 100.0)
# The sum of losses of a training that diverged: percentiles of infinities are not numbers.
_DIVERGED = 1e300


class LossSumPruner(BasePruner):
    """Prune where the sum of training losses so far is not among the best.

    Args:
        percentile: The share of trials, in percent, that may go on.
        n_warmup_steps: Steps before this one are not judged.
        n_startup_trials: Trials that must have come as far.
    """

    reads = frozenset({"train_loss"})

    def __init__(
        self, percentile: float = 25.0, n_warmup_steps: int = 0, n_startup_trials: int = 5
    ) -> None:
        self._percentile = percentile
        self._n_warmup_steps = n_warmup_steps
        self._n_startup_trials = n_startup_trials
        self._sums: dict[int, dict[int, float]] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        before = self._sums.get(step - 1, {}).get(trial.number, 0.0)
        own = before + float(trial.user_attrs[f"train_loss:{step}"])
        peers = self._sums.setdefault(step, {})
        others = [value for number, value in peers.items() if number != trial.number]
        peers[trial.number] = own if math.isfinite(own) else _DIVERGED
        if step < self._n_warmup_steps or len(others) < self._n_startup_trials:
            return False
        return own > float(np.percentile(others, self._percentile)) or math.isnan(own)


class LossSumHalvingPruner(BasePruner):
    """Successive halving that ranks each rung by the sum of training losses so far.

    Args:
        reduction_factor: η; rungs are after 1, η, η² ... reports, and one in η goes on.
    """

    reads = frozenset({"train_loss"})

    def __init__(self, reduction_factor: int = 4) -> None:
        self._reduction_factor = reduction_factor
        self._rungs: dict[int, list[float]] = {}
        self._sums: dict[int, float] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        loss = float(trial.user_attrs[f"train_loss:{step}"])
        own = self._sums.get(trial.number, 0.0) + (math.inf if math.isnan(loss) else loss)
        self._sums[trial.number] = own
        rung = 1
        while rung < len(trial.intermediate_values):
            rung *= self._reduction_factor
        if rung != len(trial.intermediate_values):
            return False
        came = self._rungs.setdefault(rung, [])
        came.append(own)
        n_promoted = max(len(came) // self._reduction_factor, 1)
        return sum(other < own for other in came) >= n_promoted


class CurveRegressionPruner(BasePruner):
    """Prune where a ridge regression gives too small a chance to beat the best finished trial.

    It learns from the finished trials of the study: hyperparameters, the last value, the mean and
    the change of the curve so far. The error is that of leaving each trial out.

    Args:
        risk: Prune where the chance is below this.
        n_warmup_steps: Steps before this one are not judged.
        n_startup_trials: Finished trials that it needs.
    """

    def __init__(
        self, risk: float = 0.05, n_warmup_steps: int = 0, n_startup_trials: int = 8
    ) -> None:
        self._risk = risk
        self._n_warmup_steps = n_warmup_steps
        self._n_startup_trials = n_startup_trials

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step < self._n_warmup_steps:
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < self._n_startup_trials:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        ends = np.array([sign * t.values[0] for t in finished])
        rows = _columns([*finished, trial], step, sign)
        if not np.isfinite(rows[-1]).all():
            return True
        mean, std = _ridge(rows[:-1], ends, rows[-1])
        return bool(norm.sf((ends.max() - mean) / std) < self._risk)


def _columns(trials: Sequence[FrozenTrial], step: int, sign: float) -> FloatArray:
    """Hyperparameters and the curve up to ``step``, standardised over all but the last row."""
    steps = [s for s in sorted(trials[-1].intermediate_values) if s <= step]
    curves = np.array(
        [[sign * t.intermediate_values.get(s, math.nan) for s in steps] for t in trials]
    )
    shape = np.stack([curves[:, -1], curves.mean(axis=1), curves[:, -1] - curves[:, 0]], axis=1)
    spread = shape[:-1].std(axis=0)
    shape = (shape - shape[:-1].mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    params = ParameterEncoder(trials[:-1]).encode(trials)
    return np.concatenate([params, shape], axis=1)


def _ridge(rows: FloatArray, targets: FloatArray, query: FloatArray) -> tuple[float, float]:
    """Mean and leave-one-out error of the ridge regression whose penalty has the least error."""
    center = targets.mean()
    best = (math.inf, 0.0)
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    for penalty in _PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        leverage = (u**2) @ shrink + 1.0 / len(rows)
        fitted = u @ (shrink * (u.T @ (targets - center)))
        residuals = (targets - center - fitted) / np.maximum(1.0 - leverage, 1e-3)
        error = float(np.sqrt(np.mean(residuals**2)))
        if error < best[0]:
            weights = vt.T @ (shrink / np.maximum(s, 1e-12) * (u.T @ (targets - center)))
            best = (error, float(center + query @ weights))
    return best[1], max(best[0], 1e-9)


@dataclass(frozen=True)
class TopK:
    """Train everybody for ``n_epochs``, then the ``k`` best on to their end."""

    n_epochs: int
    k: int

    def run(self, recorded: RecordedTrials, order: Sequence[int]) -> tuple[list[float], list[int]]:
        """Costs, in epochs, at which trials end, and the indices of those trials."""
        sign = 1.0 if recorded.direction == "maximize" else -1.0
        curves = [
            [value for _, value in sorted(recorded.trials[i].intermediate_values.items())]
            for i in order
        ]
        spent = float(sum(min(self.n_epochs, len(curve)) for curve in curves))
        reached = [sign * curve[min(self.n_epochs, len(curve)) - 1] for curve in curves]
        # Among equals, the first come.
        ranked = np.argsort(-np.nan_to_num(reached, nan=-math.inf), kind="stable")[: self.k]
        costs, chosen = [], []
        for position in ranked.tolist():
            spent += max(len(curves[position]) - self.n_epochs, 0)
            costs.append(spent)
            chosen.append(order[position])
        return costs, chosen

    def seconds_share(
        self, recorded: RecordedTrials, order: Sequence[int], ended: Sequence[int]
    ) -> float:
        """What `run` has cost, in seconds of training: a share of training all to their end."""
        lengths = [len(recorded.trials[i].intermediate_values) for i in order]
        steps = [
            length if i in ended else min(self.n_epochs, length)
            for i, length in zip(order, lengths, strict=True)
        ]
        per_step = recorded.step_seconds[list(order)]
        return float(per_step @ np.array(steps)) / float(per_step @ np.array(lengths))
