"""Trials that are over, kept with their whole curves, spectra and costs, for `replay`.

One ``.npz`` file a table, without pickles. Notation: n trials, E steps that any of them reported,
S steps that any of them has a spectrum for, k = `FINGERPRINT_LENGTH` exponents (nats per step).
"""

from __future__ import annotations

import copy
import datetime
import json
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
from optuna.distributions import distribution_to_json
from optuna.distributions import json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_fingerprint
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.cost import first_step
from optuna_aelle.trials.cost import steps_until
from optuna_aelle.trials.cost import trained_steps
from optuna_aelle.trials.storage import add_as_it_is

FloatArray = npt.NDArray[np.float64]

# Version 1 held leading exponents of large networks and whole spectra of small ones.
FORMAT_VERSION = 2


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
        >>> recorded = RecordedTrials.from_study(study)  # doctest: +SKIP
        >>> recorded.save("mine.npz")  # doctest: +SKIP
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
            [_end(t) if t.state == TrialState.COMPLETE else math.nan for t in self.trials]
        )

    @classmethod
    def from_study(cls, study: optuna.Study) -> RecordedTrials:
        """Take the trials of a study that reported values and have finished or were pruned.

        Raises:
            ValueError: The study has several objectives, or no such trial that finished.
        """
        if len(study.directions) > 1:
            raise ValueError(
                f"Expected a study with one objective, but '{study.study_name}' has "
                f"{len(study.directions)}. Record each objective in a study of its own."
            )
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
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
        """Write one ``.npz`` file."""
        names = sorted({name for trial in self.trials for name in trial.distributions})
        variants: dict[str, list[BaseDistribution]] = {name: [] for name in names}
        params = np.full((len(self), len(names)), np.nan)
        kinds = np.full((len(self), len(names)), -1, dtype=np.int16)
        for row, trial in enumerate(self.trials):
            for column, name in enumerate(names):
                if name not in trial.params:
                    continue
                distribution = trial.distributions[name]
                if distribution not in variants[name]:
                    variants[name].append(distribution)
                kinds[row, column] = variants[name].index(distribution)
                params[row, column] = distribution.to_internal_repr(trial.params[name])
        steps = self.steps
        reported = np.array([[s in t.intermediate_values for s in steps] for t in self.trials])
        values = np.array(
            [[t.intermediate_values.get(s, math.nan) for s in steps] for t in self.trials]
        )
        spectrum_steps = sorted({s for t in self.trials for s in decode_spectra(t)})
        spectra = np.full((len(self), len(spectrum_steps), FINGERPRINT_LENGTH), np.nan)
        costs = np.full(spectra.shape[:2], np.nan)
        state_sizes = np.zeros(spectra.shape[:2], dtype=np.int32)
        for row, trial in enumerate(self.trials):
            for step, payload in spectrum_payloads(trial).items():
                column = spectrum_steps.index(step)
                spectra[row, column] = decode_spectra(trial)[step]
                costs[row, column] = payload.get("seconds", math.nan)
                state_sizes[row, column] = payload["n"]
        metadata = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "direction": self.direction,
            "params": {n: [distribution_to_json(d) for d in variants[n]] for n in names},
            "metadata": self.metadata,
        }
        arrays = {
            "numbers": np.array([t.number for t in self.trials]),
            "finished": np.array([t.state == TrialState.COMPLETE for t in self.trials]),
            "ends": np.array([_end(t) for t in self.trials]),
            "times": np.array(
                [
                    [_timestamp(moment) for moment in (t.datetime_start, t.datetime_complete)]
                    for t in self.trials
                ]
            ),
            "params": params,
            "param_kinds": kinds,
            "steps": np.array(steps),
            "values": values,
            "reported": reported,
            "step_seconds": self.step_seconds,
            "spectrum_steps": np.array(spectrum_steps, dtype=np.int64),
            # The schema keeps five digits of an exponent and six of a second, as these do.
            "spectra": spectra.astype(np.float32),
            "spectrum_seconds": costs.astype(np.float32),
            "state_sizes": state_sizes,
        } | {f"curve:{name}": curve for name, curve in self.curves.items()}
        narrow: dict[str, Any] = {name: _narrowed(array) for name, array in arrays.items()}
        # A handle rather than a name: numpy would append ".npz" to a name that lacks it.
        with open(path, "wb") as file:
            np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **narrow)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedTrials:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is of another kind, or of a newer format than this version knows.
        """
        file = np.load(path, allow_pickle=False)
        if "metadata" not in getattr(file, "files", ()) or "numbers" not in file.files:
            raise ValueError(
                f"Expected a file written by RecordedTrials.save, but {os.fspath(path)!r} is none."
            )
        with file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays["metadata"]))
        if metadata["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"Expected format version {FORMAT_VERSION} or older, but {os.fspath(path)!r} has "
                f"version {metadata['format_version']}. Upgrade optuna-aelle."
            )
        if metadata["format_version"] == 1 and len(arrays["spectrum_steps"]):
            warn_once(
                "older table",
                f"The spectra in {os.fspath(path)!r} are left out: format version 1 held unlike "
                "parts of the spectra of small and large networks. Record them again.",
            )
            arrays["spectra"] = np.full_like(arrays["spectra"], np.nan)
        variants = {
            name: [json_to_distribution(text) for text in texts]
            for name, texts in metadata["params"].items()
        }
        trials = tuple(_trial(arrays, variants, row) for row in range(len(arrays["numbers"])))
        curves = {
            name.split(":", 1)[1]: array.astype(np.float64)
            for name, array in arrays.items()
            if name.startswith("curve:")
        }
        return cls(
            name=metadata["name"],
            direction=metadata["direction"],
            trials=trials,
            step_seconds=arrays["step_seconds"].astype(np.float64),
            curves=curves,
            metadata=metadata["metadata"],
        )


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """The trial with its own spectra as its only attributes."""
    attributes = {
        f"{SPECTRUM_PREFIX}{step}": {
            name: x for name, x in payload.items() if name not in ("trial", "after")
        }
        for step, payload in spectrum_payloads(trial).items()
    }
    return _frozen(
        number=trial.number,
        finished=trial.state == TrialState.COMPLETE,
        value=_end(trial),
        times=(trial.datetime_start, trial.datetime_complete),
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        reports=dict(trial.intermediate_values),
        attributes=attributes,
    )


def _trial(
    arrays: Mapping[str, npt.NDArray[Any]],
    variants: Mapping[str, Sequence[BaseDistribution]],
    row: int,
) -> FrozenTrial:
    kinds = arrays["param_kinds"][row]
    distributions = {
        name: variants[name][kind]
        for name, kind in zip(variants, kinds.tolist(), strict=True)
        if kind >= 0
    }
    internal = dict(zip(variants, arrays["params"][row].tolist(), strict=True))
    reports = {
        step: value
        for step, value, there in zip(
            arrays["steps"].tolist(),
            arrays["values"][row].tolist(),
            arrays["reported"][row].tolist(),
            strict=True,
        )
        if there
    }
    attributes: dict[str, Any] = {}
    for column, step in enumerate(arrays["spectrum_steps"].tolist()):
        points = arrays["spectra"][row, column].astype(np.float64)
        if np.isnan(points).any():
            continue
        attributes |= encode_fingerprint(
            points,
            step,
            state_size=int(arrays["state_sizes"][row, column]),
            seconds=float(arrays["spectrum_seconds"][row, column]),
        )
    return _frozen(
        number=int(arrays["numbers"][row]),
        finished=bool(arrays["finished"][row]),
        value=float(arrays["ends"][row]),
        times=tuple(map(_datetime, arrays["times"][row].tolist())),
        params={n: d.to_external_repr(internal[n]) for n, d in distributions.items()},
        distributions=distributions,
        reports=reports,
        attributes=attributes,
    )


def _frozen(
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


def _end(trial: FrozenTrial) -> float:
    """The trial's value; NaN for one that was pruned at a NaN."""
    return float(trial.values[0]) if trial.values else math.nan


def _step_seconds(trials: Sequence[FrozenTrial]) -> FloatArray:
    """Mean seconds of a trained step ``(n,)``, without spectra and fits; NaN where unknown."""
    first = first_step(trials)
    means = []
    for trial in trials:
        n_steps = steps_until(trial.last_step, first)
        if trial.duration is None or n_steps == 0:
            means.append(math.nan)
            continue
        seconds = trial.duration.total_seconds() - spectrum_seconds(trial) - fit_seconds(trial)
        means.append(max(seconds, 0.0) / n_steps)
    return np.array(means)


def _timestamp(moment: datetime.datetime | None) -> float:
    return math.nan if moment is None else moment.timestamp()


def _datetime(timestamp: float) -> datetime.datetime | None:
    return None if math.isnan(timestamp) else datetime.datetime.fromtimestamp(timestamp)


def _narrowed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Half the bytes where no digit is lost."""
    if array.dtype != np.float64:
        return array
    narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array
