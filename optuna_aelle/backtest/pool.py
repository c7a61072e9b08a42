"""What an arm of a race may train, what it has seen of it, and what that has cost so far.

Notation: n configurations, by their position in the pool, 0 to n − 1. Cost is counted in *steps*
(`optuna_aelle.trials.cost`): those trained, and the seconds that the arm takes for itself (its own
computing, and the spectra that it asks for) over the seconds of a step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from typing import Protocol

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.backtest.outcomes import mean_step_seconds
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.cost import first_step
from optuna_aelle.trials.cost import steps_until
from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]
Payload = Mapping[str, Any]

# Where trainings are worth a search, an epoch takes seconds, and a fingerprint this share of it.
# Recorded ones take less, so that a fingerprint costs more of them.
FINGERPRINT_SHARE = 0.01


class StandingPrior(Protocol):
    """Knowledge of other studies: how good a trial will be among those of its own."""

    def predict(self, trials: Sequence[FrozenTrial], step: int) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of standings, ``(n,)`` each, 1 is best; −1: untrained."""


class BudgetSpent(BaseException):
    """Ends an arm; no `Exception`, so that nothing that an arm catches can hide it."""


@dataclass(frozen=True)
class Course:
    """What an arm did, one row a report.

    Attributes:
        steps: ``(m,)`` steps trained before it, of all configurations together.
        seconds: ``(m,)`` what the arm had taken for itself by then.
        positions: ``(m,)`` of the configuration that reported.
        values: ``(m,)`` what it reported.
        ends: ``(m,)`` its final value where this report was its last, else NaN.
    """

    steps: npt.NDArray[np.int64]
    seconds: FloatArray
    positions: npt.NDArray[np.int64]
    values: FloatArray
    ends: FloatArray


class Pool:
    """The configurations that an arm may start, in the order of chance, the same for all arms.

    Whatever an arm does between two calls of `train` is charged, by the CPU time of the process.

    Args:
        recorded: The table.
        indices: Of its trials that are in the pool, in the order of the pool.
        budget: In steps.
        prior: Of other studies.
        spectrum_steps: At which spectra can be had; all by default.

    Attributes:
        configurations: ``(n,)`` trials that hold parameters alone.
        indices: ``(n,)`` where they are in the table.
        task: What the table was recorded on.
        direction: Of the values.
        sign: 1 where more is better, else −1.
        budget: In steps.
        length: Reports of a whole training, the longest.
        longest: The same in steps.
        spectrum_steps: The steps at which there are spectra of the table's configurations.
        prior: As given.

    Example:
        >>> def in_order(pool, seed):  # an arm: everything to its end, one after the other
        ...     for position in range(len(pool)):
        ...         while not pool.is_over(position):
        ...             value = pool.train(position)
    """

    def __init__(
        self,
        recorded: RecordedTrials,
        indices: Sequence[int],
        *,
        budget: float,
        prior: StandingPrior | None = None,
        spectrum_steps: Collection[int] | None = None,
    ) -> None:
        self.name = recorded.name
        self.indices = list(indices)
        self.task = recorded.task
        self.direction = recorded.direction
        self.sign = 1.0 if recorded.direction == "maximize" else -1.0
        self.budget = budget
        self.prior = prior
        self._recorded = [recorded.trials[i] for i in indices]
        self._reports = [sorted(t.intermediate_values.items()) for t in self._recorded]
        self.length = max(map(len, self._reports))
        first = first_step(recorded.trials)
        self._trained = [[steps_until(s, first) for s, _ in own] for own in self._reports]
        self.configurations = [_bare(t, position) for position, t in enumerate(self._recorded)]
        self._known = [copy.copy(trial) for trial in self.configurations]
        self.longest = max(steps[-1] for steps in self._trained)
        payloads = _payloads(recorded)
        # Of the whole table: that a training has fewer would tell that it diverges.
        there = {step for own in payloads for step in own}
        self.spectrum_steps = sorted(
            there if spectrum_steps is None else there & {*spectrum_steps}
        )
        self._payloads = [payloads[i] for i in indices]
        self._step_seconds = mean_step_seconds(recorded)
        # Where a fingerprint costs less than that already, there is nothing to make up for.
        self._long_step_seconds = max(_long_step_seconds(recorded), self._step_seconds)
        self._n_seen = [0] * len(self._recorded)
        self._steps, self._seconds = 0, 0.0
        self._rows: list[tuple[int, float, int, float, float]] = []
        self._mark = time.process_time()

    def __len__(self) -> int:
        return len(self.configurations)

    @property
    def spent(self) -> float:
        """The cost so far, in steps."""
        pending = time.process_time() - self._mark
        return self._steps + (self._seconds + pending) / self._step_seconds

    @property
    def trained_seconds(self) -> float:
        """What the trainings so far took when they were recorded."""
        return self._steps * self._step_seconds

    @property
    def left(self) -> list[int]:
        """The positions that have not been trained yet, in order."""
        return [position for position, n in enumerate(self._n_seen) if n == 0]

    @property
    def step_seconds(self) -> tuple[float, float]:
        """What a step is taken to last: as recorded, and where a fingerprint costs 1 % of it."""
        return self._step_seconds, self._long_step_seconds

    def is_over(self, position: int) -> bool:
        """Whether a configuration has been trained to its end."""
        return self._n_seen[position] == len(self._reports[position])

    def values(self, position: int) -> FloatArray:
        """What a configuration has reported so far."""
        return np.array([v for _, v in self._reports[position][: self._n_seen[position]]])

    def steps(self, position: int) -> list[int]:
        """The steps of these reports."""
        return [step for step, _ in self._reports[position][: self._n_seen[position]]]

    def trial(self, position: int) -> FrozenTrial:
        """All that has been seen of a configuration, as an Optuna trial."""
        return self._known[position]

    def spectrum(self, position: int, step: int = UNTRAINED_STEP) -> FloatArray | None:
        """A fingerprint, charged once; None where there is none at this step.

        Raises:
            ValueError: The configuration has not been trained so far.
        """
        self.payload(position, step)
        return decode_spectra(self._known[position]).get(step)

    def payload(self, position: int, step: int = UNTRAINED_STEP) -> Payload | None:
        """The same in its stored form, as the trial that the pool knows carries it."""
        reached = self.steps(position)
        if step > (reached[-1] if reached else UNTRAINED_STEP):
            raise ValueError(
                f"Expected a step that configuration {position} has reached, but it is at "
                f"{reached[-1] if reached else 'none'}, and got {step}."
            )
        payload = self._payloads[position].get(step) if step in self.spectrum_steps else None
        key = f"{SPECTRUM_PREFIX}{step}"
        known = self._known[position]
        if payload is not None and key not in known.system_attrs:
            self._seconds += payload.get("seconds") or 0.0
            known.system_attrs = {**known.system_attrs, key: payload}
        return payload

    def train(self, position: int) -> float:
        """Train a configuration until its next report, and return what it reports.

        Raises:
            BudgetSpent: Nothing is left of the budget; race ends the arm with it.
            ValueError: There is no such configuration, or it is at its end.
        """
        now = time.process_time()
        self._seconds += now - self._mark
        self._mark = now
        if not 0 <= position < len(self):
            raise ValueError(
                f"Expected one of the {len(self)} configurations of the pool, 0 to "
                f"{len(self) - 1}, got {position!r}."
            )
        if self.is_over(position):
            raise ValueError(f"Configuration {position} has been trained to its end already.")
        n = self._n_seen[position]
        before = self._trained[position][n - 1] if n else 0
        # In the longer of the two steps, which leaves more of the budget.
        if self._steps + self._seconds / max(self.step_seconds) >= self.budget:
            raise BudgetSpent
        step, value = self._reports[position][n]
        self._n_seen[position] = n + 1
        known = self._known[position]
        known.intermediate_values = {**known.intermediate_values, step: value}
        end = math.nan
        if self.is_over(position):
            source = self._recorded[position]
            known.state, known.values = source.state, source.values
            if source.state == TrialState.COMPLETE:
                end = float(source.values[0])
        self._rows.append((self._steps, self._seconds, position, value, end))
        self._steps += self._trained[position][n] - before
        self._mark = time.process_time()
        return value

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """What a race does for its own sake is no cost of the arm."""
        started = time.process_time()
        try:
            yield
        finally:
            self._mark += time.process_time() - started

    @property
    def course(self) -> Course:
        """What has been done so far."""
        columns = list(zip(*self._rows, strict=True)) or [()] * 5
        return Course(
            steps=np.array(columns[0], dtype=np.int64),
            seconds=np.array(columns[1], dtype=np.float64),
            positions=np.array(columns[2], dtype=np.int64),
            values=np.array(columns[3], dtype=np.float64),
            ends=np.array(columns[4], dtype=np.float64),
        )


# Reading them takes longer than many an arm: once for all arms and repeats of a table.
@lru_cache(maxsize=2)
def _payloads(recorded: RecordedTrials) -> list[dict[int, Payload]]:
    """The spectra of each trial of a table, by step, in their stored form."""
    return [dict(spectrum_payloads(trial)) for trial in recorded.trials]


def _bare(trial: FrozenTrial, position: int) -> FrozenTrial:
    return FrozenTrial(
        number=position,
        trial_id=position,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _long_step_seconds(recorded: RecordedTrials) -> float:
    """Seconds of a step of which a fingerprint of these networks would be 1 %."""
    seconds = [
        payload["seconds"]
        for payloads in _payloads(recorded)
        for payload in payloads.values()
        if payload.get("seconds")
    ]
    return float(np.mean(seconds)) / FINGERPRINT_SHARE if seconds else 0.0


# Scores of the configurations of a pool, ``(n,)``; the highest starts first.
Ranking = Callable[[Pool], FloatArray]


@dataclass(frozen=True)
class PriorRanking:
    """Rank the untrained configurations of a pool by what a prior says of them.

    Args:
        prior: Of other studies; the pool's by default.
        spectra: Whether it is told the spectra of all of them, which are charged.
    """

    prior: StandingPrior | None = None
    spectra: bool = True

    def __call__(self, pool: Pool) -> FloatArray:
        """Mean standings, ``(n,)``."""
        prior = pool.prior if self.prior is None else self.prior
        if prior is None:
            raise ValueError("Expected a prior to rank by: pass one to race, or here. Got none.")
        if pool.task in getattr(prior, "tasks", ()):
            raise ValueError(
                f"Expected a prior that the pool's own task is left out of, but it has learned "
                f"from {pool.task!r}."
            )
        for position in range(len(pool)) if self.spectra else ():
            pool.payload(position)
        known = [pool.trial(position) for position in range(len(pool))]
        return prior.predict(known, UNTRAINED_STEP)[0]


def in_order(pool: Pool, ranking: Ranking | None) -> list[int]:
    """The positions of a pool, the most promising first; among equals in the order of the pool."""
    if ranking is None:
        return list(range(len(pool)))
    return [int(i) for i in np.argsort(-np.asarray(ranking(pool)), kind="stable")]
