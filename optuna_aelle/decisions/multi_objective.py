"""Stop trials that will not reach the Pareto front of a study with several objectives.

Optuna's ``trial.report`` and ``trial.should_prune`` take one objective; `should_prune` takes all.
It decides by what the storage holds, so parallel workers and resumed studies agree.

1. *By forecast.* Where the final value of each objective can be forecast with skill, at the 4th,
   6th, 8th, 12th, 16th ... report, a trial is stopped whose chance to reach the front is below
   ``risk`` (`optuna_aelle.decisions.front`), unless it stands in the best third of all that have
   come as far, by Pareto fronts among them (the rung floor).
2. *By halving*, wherever the forecast is silent: at the 1st, 2nd, 4th, 8th ... report a trial is
   stopped if the better half of those that have come as far lies in better fronts, and one of
   them is ahead in every objective by more than noise.

Whoever is best at something lies on the first front and goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.decisions.front import FrontForecast
from optuna_aelle.decisions.front import encode_front_forecast
from optuna_aelle.decisions.front import forecast_front
from optuna_aelle.decisions.halving import REDUCTION_FACTOR
from optuna_aelle.decisions.moments import RUNG_FLOOR
from optuna_aelle.decisions.moments import is_halving_rung
from optuna_aelle.decisions.moments import is_rung
from optuna_aelle.decisions.noise import TIES
from optuna_aelle.decisions.noise import noise_of
from optuna_aelle.decisions.pareto import front_ranks
from optuna_aelle.decisions.pareto import is_clearly_behind
from optuna_aelle.decisions.promise import promise_beside
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import NON_DOMINATED_HALVING
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.decisions.verdict import encode_verdict
from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.prediction.objectives import Objectives
from optuna_aelle.prediction.objectives import all_objectives
from optuna_aelle.prediction.objectives import known_objectives
from optuna_aelle.trials.attributes import encode_fit_seconds
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.continuation import planned_epochs
from optuna_aelle.trials.objectives import report_values
from optuna_aelle.trials.objectives import signs_of
from optuna_aelle.trials.storage import at_one_moment
from optuna_aelle.trials.storage import latest
from optuna_aelle.trials.storage import write_system_attributes
from optuna_aelle.trials.storage import write_user_attributes

FloatArray = npt.NDArray[np.float64]

# Who stands where among fewer is chance.
_LEAST_PEERS = 4
# The latest so many are compared; sorting costs the square of their number.
_MOST_PEERS = 1000
_SHOWN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


def should_prune(
    study: Study,
    trial: optuna.trial.BaseTrial,
    values: Sequence[float],
    step: int,
    *,
    risk: float = 0.05,
    n_startup_trials: int = 12,
    n_warmup_steps: int = 0,
) -> bool:
    """Report the values of all objectives after a step, and ask whether to stop the trial.

    Where `optuna.Trial.report` and `optuna.Trial.should_prune` refuse, in a study with several
    objectives, this takes the place of both. With one objective it calls them, so that the
    study's pruner decides. Spectra that the trial carries (`report_network`, before this call) are
    read, too.

    Returns:
        Whether to stop it: ``raise optuna.TrialPruned``. Why is then on the trial, as data
        (`decode_verdict`) and as a sentence (``aelle:decision``).

    Args:
        study: Of the trial.
        trial: The running one. An `optuna.trial.FixedTrial` is never stopped.
        values: Of all objectives now, in the order of ``study.directions``. What is known from the
            start, such as a count of parameters, is given at each step all the same. NaN or an
            infinity in any of them ranks the trial behind all whose values are finite.
        step: As in ``trial.report``. What a trial reports twice for one step is ignored.
        risk: A forecast stops a trial whose chance to reach the Pareto front is below this.
        n_startup_trials: Ended trials that forecasts need.
        n_warmup_steps: Nothing is stopped before this step.

    Raises:
        ValueError: Another number of values than objectives, or an argument is out of range.
        TypeError: A value is no number.

    Example:
        >>> def objective(trial):
        ...     size = trial.suggest_int("hidden_size", 8, 64)
        ...     for epoch in range(9):
        ...         loss = 1.0 / size + 1.0 / (epoch + 1)
        ...         if should_prune(trial.study, trial, (loss, size), epoch):
        ...             raise optuna.TrialPruned
        ...     return loss, size
        >>> search = optuna.create_study(directions=["minimize", "minimize"])
        >>> search.optimize(objective, n_trials=5)
    """
    told = _check(study, values)
    if not 0.0 <= risk <= 0.5:
        raise ValueError(f"risk must be in [0, 0.5], but got {risk}.")
    if n_startup_trials < MIN_LESSONS:
        raise ValueError(
            f"n_startup_trials must be at least {MIN_LESSONS}, but got {n_startup_trials}."
        )
    if n_warmup_steps < 0:
        raise ValueError(f"n_warmup_steps must be nonnegative, but got {n_warmup_steps}.")
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"step must be a whole number from 0 on, but got {step!r}.")
    step = int(step)
    if not isinstance(trial, optuna.Trial):
        # A FixedTrial has no study, and what has ended is over.
        return False
    if len(told) == 1:
        trial.report(told[0], step)
        return trial.should_prune()
    try:
        return _Decision(study, trial, told, step, risk, n_startup_trials, n_warmup_steps).made()
    except Exception as error:  # an overnight study must go on, whatever is wrong here
        warn_once(
            "multi-objective pruning failed",
            f"Nothing could be decided of trial {trial.number} at step {step} "
            f"({type(error).__name__}: {error}); it goes on.",
            error,
        )
        return False


def _check(study: Study, values: Sequence[float]) -> tuple[float, ...]:
    n_objectives = len(study.directions)
    given: Sequence[float] = [values] if np.ndim(values) == 0 else values  # type: ignore[list-item]
    if len(given) != n_objectives:
        directions = ", ".join(direction.name.lower() for direction in study.directions)
        raise ValueError(
            f"Expected {n_objectives} values, one for each objective of '{study.study_name}' "
            f"({directions}), but got {len(given)}: {values!r}. Pass what the objective function "
            "would return if it ended now."
        )
    try:
        return tuple(float(value) for value in given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Expected numbers as values, but got {values!r}: {error}.") from error


@dataclass(frozen=True)
class _Peers:
    """Where a trial stands among those that have come as far.

    Attributes:
        points: ``(n, k)``, higher is better; the trial itself is the last.
        n_better: How many of them lie in better Pareto fronts.
    """

    points: FloatArray
    n_better: int

    @property
    def n(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class _Decision:
    """One call of `should_prune`."""

    study: Study
    trial: optuna.Trial
    told: tuple[float, ...]
    step: int
    risk: float
    n_startup_trials: int
    n_warmup_steps: int

    def made(self) -> bool:
        stored = latest(self.trial)
        assert stored is not None
        n_objectives = len(self.study.directions)
        own = Objectives.of(stored, n_objectives)
        if self.step in own.values:
            known = decode_verdict(stored)
            return known is not None and known.step == self.step
        report_values(self.study, self.trial, self.told, self.step)
        values = {**own.values, self.step: self.told}
        if self.step < max(values) or not self._is_moment(len(values)):
            return False
        return replace(self, study=at_one_moment(self.study))._stops(stored)

    def _stops(self, stored: FrozenTrial) -> bool:
        everyone = all_objectives(self.study, _SHOWN)
        own = next(x for x in everyone if x.trial.number == self.trial.number)
        if self._is_at_its_end(everyone, own):
            return False
        verdict = self._verdict(everyone, own)
        if verdict is None:
            return False
        self._write(stored, verdict)
        return True

    def _is_moment(self, n_reports: int) -> bool:
        if self.step < self.n_warmup_steps:
            return False
        return is_halving_rung(n_reports) or is_rung(n_reports)

    def _is_at_its_end(self, everyone: Sequence[Objectives], own: Objectives) -> bool:
        """Whether stopping would save nothing: it has come as far as any that finished."""
        planned = planned_epochs(own.trial)
        if planned is not None and len(own.values) >= planned:
            return True
        lengths = [
            x.last_step
            for x in everyone
            if x.trial.state == TrialState.COMPLETE and x.last_step is not None
        ]
        return bool(lengths) and self.step >= max(lengths)

    def _verdict(self, everyone: Sequence[Objectives], own: Objectives) -> Verdict | None:
        """Why the trial is stopped, None where it goes on."""
        n_reports = len(own.values)
        if is_rung(n_reports) and all(map(math.isfinite, self.told)):
            forecast = self._forecast(everyone, own)
            if forecast is not None:
                # A chance that is no number stops nobody.
                below = forecast.chance < self.risk
                if not below or self._is_in_rung_floor(everyone, own):
                    return None
                return Verdict(AELLE, self.step, risk=self.risk, values=self.told, front=forecast)
        if not is_halving_rung(n_reports):
            return None
        peers = self._peers(everyone, own)
        if peers.n < _LEAST_PEERS or peers.n_better < peers.n // REDUCTION_FACTOR:
            return None
        known = known_objectives(self.study, everyone, own)
        tolerances = np.array(
            [
                0.0 if known[i] else TIES * noise_of([x.views[i] for x in everyone[-LONG:]])
                for i in range(len(self.told))
            ]
        )
        if not is_clearly_behind(peers.points[-1], peers.points[:-1], tolerances):
            return None
        if self._promises_most():
            return None
        return Verdict(
            NON_DOMINATED_HALVING,
            self.step,
            rank=peers.n_better + 1,
            n_compared=peers.n,
            rung=n_reports.bit_length() - 1,
            values=self.told,
        )

    def _forecast(self, everyone: Sequence[Objectives], own: Objectives) -> FrontForecast | None:
        started = time.perf_counter()
        try:
            forecast = forecast_front(self.study, everyone, own, self.step, self.n_startup_trials)
        except Exception as error:  # halving can do without
            warn_once(
                "prediction failed",
                f"The objectives of trial {self.trial.number} could not be forecast "
                f"({type(error).__name__}: {error}); its peers alone decide.",
                error,
            )
            return None
        seconds = fit_seconds(own.trial) + time.perf_counter() - started
        notes = encode_fit_seconds(own.trial, seconds)
        if forecast is not None:
            notes |= encode_front_forecast(own.trial, forecast)
        write_system_attributes(self.study, self.trial, notes)
        return forecast

    def _promises_most(self) -> bool:
        """Whether it promises more than all that the study's sampler could start instead."""
        try:
            promises = promise_beside(self.study, self.trial.number)
        except Exception as error:  # its peers alone decide
            warn_once(
                "rivalry failed",
                f"Candidates could not be compared with trial {self.trial.number} "
                f"({type(error).__name__}: {error}); its peers alone decide.",
                error,
            )
            return False
        return promises is not None and promises[0] > promises[1]

    def _peers(self, everyone: Sequence[Objectives], own: Objectives) -> _Peers:
        """All that have come as far, at this step, and the trial itself.

        What has ended and breaks a constraint is no peer.
        """
        signs = np.array(signs_of(self.study))
        points = []
        for other in reversed(everyone):
            came_as_far = other.last_step is not None and other.last_step >= self.step
            if other is own or not came_as_far or not other.feasible:
                continue
            told = other.until(self.step)
            if told is not None:
                points.append(_point(told, signs))
            if len(points) == _MOST_PEERS:
                break
        points.append(_point(self.told, signs))
        stacked = np.stack(points)
        ranks = front_ranks(stacked)
        return _Peers(stacked, int((ranks < ranks[-1]).sum()))

    def _is_in_rung_floor(self, everyone: Sequence[Objectives], own: Objectives) -> bool:
        peers = self._peers(everyone, own)
        return peers.n_better < max(int(peers.n * RUNG_FLOOR), 1)

    def _write(self, stored: FrozenTrial, verdict: Verdict) -> None:
        try:
            write_system_attributes(self.study, self.trial, encode_verdict(stored, verdict))
            write_user_attributes(self.study, self.trial, {DECISION_KEY: verdict.sentence()})
        except Exception as error:  # a storage hiccup must not undo a decision
            warn_once(
                "attribute not written",
                f"Trial {self.trial.number}: why it was stopped could not be stored "
                f"({type(error).__name__}: {error}); the decision stands.",
                error,
            )


def _point(values: Sequence[float], signs: FloatArray) -> FloatArray:
    """Higher is better; what is not finite in one objective is behind in all."""
    point = np.asarray(values, dtype=np.float64) * signs
    return point if np.isfinite(point).all() else np.full(len(point), -np.inf)
