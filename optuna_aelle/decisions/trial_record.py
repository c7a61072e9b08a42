"""One trial as the storage has it, without what is damaged there."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.objectives import decode_values

FloatArray = npt.NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the storage has it.

    Attributes:
        number: Its number.
        state: ``"complete"``, ``"pruned"``, ``"running"``, ``"fail"`` or ``"waiting"``.
        value: What it came to, None where there is nothing finite.
        params: Its parameters.
        curve: What it reported, by step.
        spectrum_step: The step of its latest spectrum; −1 before training, None without any.
        spectrum: Its latest fingerprint, nats per step, descending; −inf is a dead direction.
    """

    number: int
    state: str
    value: float | None
    params: Mapping[str, Any]
    curve: Mapping[int, float]
    spectrum_step: int | None
    spectrum: tuple[float, ...]

    @property
    def lambda_1(self) -> float | None:
        """The largest exponent of the latest spectrum."""
        return self.spectrum[0] if self.spectrum else None


def record_of(trial: FrozenTrial, objective: int = 0) -> TrialRecord:
    """What the storage has of a trial, without what is damaged."""
    spectra: dict[int, FloatArray] = {}
    spectra = unless_damaged(lambda: decode_spectra(trial), spectra)
    step = max(spectra, default=None)
    curve = trial.intermediate_values
    if not curve:
        several: dict[int, tuple[float, ...]] = {}
        several = unless_damaged(lambda: decode_values(trial), several)
        curve = {s: x[objective] for s, x in several.items() if objective < len(x)}
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        value=came_to(trial, objective),
        params=dict(trial.params),
        curve=dict(sorted(curve.items())),
        spectrum_step=step,
        spectrum=() if step is None else tuple(map(float, spectra[step])),
    )


def came_to(trial: FrozenTrial, objective: int = 0) -> float | None:
    """The value of a trial that has ended, None where there is nothing finite."""
    if trial.values is None or objective >= len(trial.values):
        return None
    value = float(trial.values[objective])
    return value if math.isfinite(value) else None


def best_finished(
    trials: Sequence[FrozenTrial], objective: int = 0, *, maximize: bool
) -> FrozenTrial | None:
    """The best of the trials that ran to their end; the first of equals."""
    finished = [
        (value if maximize else -value, -trial.number, trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE and (value := came_to(trial, objective)) is not None
    ]
    return max(finished, key=lambda found: found[:2])[2] if finished else None


def unless_damaged(read: Callable[[], _T], otherwise: _T) -> _T:
    """What ``read`` returns; ``otherwise``, with one warning a cause, where it raises."""
    try:
        return read()
    except Exception as error:  # an attribute may hold anything
        warn_once(
            "attribute not explained",
            f"An attribute cannot be read ({type(error).__name__}: {error}); it is left out.",
            error,
        )
        return otherwise
