"""Trials that are over, kept with their whole curves, spectra and costs, for `replay`.

Notation: n trials, E steps that any of them reported.
"""

from __future__ import annotations

import copy
import datetime
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Literal

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.cost import trained_steps
from optuna_aelle.trials.storage import add_as_it_is

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RecordedTrials:
    """The trials of one search.

    Attributes:
        name: Of the table; replays call their studies so.
        direction: ``"minimize"`` or ``"maximize"``.
        trials: Finished ones, and pruned ones, with what they reported. Spectra are attributes, as
            in a study. No other attributes are kept.
        step_seconds: ``(n,)`` mean seconds that a trained step has taken (`trials.cost` says how
            steps are counted), NaN where unknown.
        curves: More of what was recorded at each of ``steps``, ``(n, E)`` each: a test score, the
            training loss. NaN where there is nothing.
        metadata: Of any kind that JSON can hold: versions of data and code.

    Raises:
        ValueError: No trial has finished, one has reported nothing, or lengths differ.

    Example:
        >>> recorded = RecordedTrials.from_study(study)
        >>> recorded.save("mine.npz")
    """

    name: str
    direction: Literal["minimize", "maximize"]
    trials: tuple[FrozenTrial, ...]
    step_seconds: FloatArray
    curves: Mapping[str, FloatArray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(
                f"direction must be minimize or maximize, but got {self.direction!r}."
            )
        if not self.trials or not any(t.state == TrialState.COMPLETE for t in self.trials):
            raise ValueError(
                f"Expected at least one finished trial that reported values, got none among "
                f"{len(self.trials)}. Report after every epoch (trial.report), and let trials end."
            )
        silent = [t.number for t in self.trials if not t.intermediate_values]
        if silent:
            raise ValueError(
                f"Expected trials that reported values on their way, but {len(silent)} of "
                f"{len(self.trials)} did not, the first of them trial {silent[0]}: there is "
                "nothing to replay. Leave them out, as RecordedTrials.from_study does."
            )
        if self.step_seconds.shape != (len(self.trials),):
            raise ValueError(
                f"Shape mismatch: expected step_seconds of shape ({len(self.trials)},), one for "
                f"each trial, got {self.step_seconds.shape}. Pass NaN where it is not known."
            )
        shape = (len(self.trials), len(self.steps))
        for name, curve in self.curves.items():
            if curve.shape != shape:
                raise ValueError(
                    f"Shape mismatch: expected curve {name!r} of shape {shape}, got {curve.shape}."
                )

    def __len__(self) -> int:
        return len(self.trials)

    def __repr__(self) -> str:
        return (
            f"RecordedTrials({self.name!r}, {self.direction}, {len(self)} trials of up to "
            f"{max(len(t.intermediate_values) for t in self.trials)} reports)"
        )

    @property
    def task(self) -> str:
        """What the networks were trained for: ``metadata["task"]``, else the table's own name."""
        return str(self.metadata.get("task", self.name))

    @property
    def steps(self) -> list[int]:
        """Every step that a trial has reported, in order."""
        return sorted({step for trial in self.trials for step in trial.intermediate_values})

    @property
    def trained_steps(self) -> npt.NDArray[np.int64]:
        """How many steps each trial has trained, ``(n,)``: what it cost."""
        return np.array(trained_steps(self.trials), dtype=np.int64)

    @property
    def finals(self) -> FloatArray:
        """Where each trial ended, ``(n,)``; NaN for those that were pruned."""
        return np.array(
            [end_of(t) if t.state == TrialState.COMPLETE else math.nan for t in self.trials]
        )

    @classmethod
    def from_study(cls, study: optuna.Study) -> RecordedTrials:
        """Take the trials of a study that reported values and have finished or were pruned.

        Of a network that was stopped and went on in another trial, that one is taken.

        Raises:
            ValueError: The study has several objectives, or no such trial that finished.
        """
        if len(study.directions) > 1:
            raise ValueError(
                f"Expected a study with one objective, but '{study.study_name}' has "
                f"{len(study.directions)}. Record each objective in a study of its own."
            )
        ended = one_a_network(
            study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        )
        replayable = [
            t
            for t in ended
            if t.intermediate_values and (t.state == TrialState.PRUNED or np.isfinite(t.values[0]))
        ]
        kept = tuple(map(_bare, replayable))
        if len(kept) < len(ended):
            warn_once(
                f"not recorded:{study.study_name}",
                f"{len(ended) - len(kept)} of {len(ended)} ended trials of '{study.study_name}' "
                "are left out: they reported nothing, or ended in an infinite value.",
            )
        maximize = study.direction == StudyDirection.MAXIMIZE
        return cls(
            name=study.study_name,
            direction="maximize" if maximize else "minimize",
            trials=kept,
            step_seconds=_step_seconds(replayable),
        )

    def to_study(self, storage: Any = None, *, study_name: str | None = None) -> optuna.Study:
        """Make a study of these trials, for the dashboard, a sampler or a predictor.

        Raises:
            optuna.exceptions.DuplicatedStudyError: The storage has a study of this name.
        """
        study = optuna.create_study(
            study_name=study_name or self.name, direction=self.direction, storage=storage
        )
        # Studies keep times for every trial; a table may have none.
        now = datetime.datetime.now()
        for trial in self.trials:
            timed = copy.copy(trial)
            timed.datetime_start = trial.datetime_start or now
            timed.datetime_complete = trial.datetime_complete or timed.datetime_start
            add_as_it_is(study, timed)
        return study

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file (`optuna_aelle.trials.table_file`)."""
        from optuna_aelle.trials.table_file import write_table

        write_table(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedTrials:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is of another kind, or of a newer format than this version knows.
        """
        from optuna_aelle.trials.table_file import read_table

        return read_table(path)


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """The trial with its own spectra as its only attributes."""
    attributes = {
        f"{SPECTRUM_PREFIX}{step}": {
            name: x for name, x in payload.items() if name not in ("trial", "after")
        }
        for step, payload in spectrum_payloads(trial).items()
    }
    return frozen_trial(
        number=trial.number,
        finished=trial.state == TrialState.COMPLETE,
        value=end_of(trial),
        times=(trial.datetime_start, trial.datetime_complete),
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        reports=dict(trial.intermediate_values),
        attributes=attributes,
    )


def end_of(trial: FrozenTrial) -> float:
    """The trial's value; NaN for one that was pruned at a NaN."""
    return float(trial.values[0]) if trial.values else math.nan


def _step_seconds(trials: Sequence[FrozenTrial]) -> FloatArray:
    """Mean seconds of a trained step ``(n,)``, without spectra and fits; NaN where unknown."""
    means = []
    for trial, n_steps in zip(trials, trained_steps(trials), strict=True):
        if trial.duration is None or n_steps == 0:
            means.append(math.nan)
            continue
        seconds = trial.duration.total_seconds() - spectrum_seconds(trial) - fit_seconds(trial)
        means.append(max(seconds, 0.0) / n_steps)
    return np.array(means)


def frozen_trial(
    *,
    number: int,
    finished: bool,
    value: float,
    times: tuple[datetime.datetime | None, ...],
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    reports: dict[int, float],
    attributes: dict[str, Any],
) -> FrozenTrial:
    # Not `create_trial`, which checks: what Optuna let pass when it ran, such as an enqueued value
    # out of its range, must not stop a recording.
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=TrialState.COMPLETE if finished else TrialState.PRUNED,
        value=None if math.isnan(value) else value,
        datetime_start=times[0],
        datetime_complete=times[1],
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=attributes,
        intermediate_values=reports,
    )
