"""Read the trials of a study again only where they have changed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from operator import is_not
from typing import Any
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from optuna_aelle.prediction.knobs import knob_columns
from optuna_aelle.prediction.traits import Row
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.prediction.traits import read_row
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP

FloatArray = npt.NDArray[np.float64]
T = TypeVar("T")

# Rows that are kept, generously.
_MOST_ROWS = 2000
_UNTRAINED_KEY = f"{SPECTRUM_PREFIX}{UNTRAINED_STEP}"

# What its row depends on, the trial, its row, and its knobs.
_Known = tuple[tuple[Any, ...], FrozenTrial, Row, FloatArray]


class Reader:
    """Traits of trials of one study, kept from question to question.

    Args:
        sign: 1 to maximise, −1 to minimise.
        knobs: Own names of parameters, each to its common one.
    """

    def __init__(self, sign: float, knobs: Mapping[str, str] | None = None) -> None:
        self.sign = sign
        self._knobs = knobs
        # By step; with the trial itself: nobody else can then have its identity.
        self._rows: dict[float, dict[int, _Known]] = {}
        self._latest: dict[float, tuple[list[Row], Traits]] = {}
        self._derived: dict[str, tuple[tuple[object, ...], Any]] = {}

    def read(self, trials: Sequence[FrozenTrial], step: float) -> Traits:
        """As `Traits.read`; the very same object where nothing has changed since."""
        kept = self._rows.setdefault(step, {})
        state_of = _before_training if step == UNTRAINED_STEP else _so_far
        found = []
        for trial in trials:
            key = _key(trial)
            state = state_of(trial)
            known = kept.get(key)
            if known is None or known[0] != state:
                row = read_row(trial, step, self.sign)
                known = state, trial, row, knob_columns([trial], self._knobs)[0]
                kept[key] = known
            found.append(known)
        if len(kept) > _MOST_ROWS:
            # Of long studies other trials are asked about from time to time.
            self._rows[step] = {_key(known[1]): known for known in found}
        rows = [known[2] for known in found]
        before, traits = self._latest.get(step, ([], None))
        if traits is None or len(before) != len(rows) or any(map(is_not, before, rows)):
            traits = Traits.of_rows(np.stack([known[3] for known in found]), rows)
            self._latest[step] = rows, traits
        return traits

    def once(self, name: str, sources: tuple[object, ...], derive: Callable[[], T]) -> T:
        """What follows from these very objects, kept until it is asked for with others."""
        known = self._derived.get(name)
        if known is None or any(map(is_not, known[0], sources)):
            known = self._derived[name] = (sources, derive())
        found: T = known[1]
        return found

    def forget(self, trials: Sequence[FrozenTrial]) -> None:
        """Candidates that are no longer of interest."""
        for kept in self._rows.values():
            for trial in trials:
                if trial.number < 0:
                    kept.pop(_key(trial), None)


def _key(trial: FrozenTrial) -> int:
    # Candidates have no number of their own.
    number = trial.number
    return number if number >= 0 else -id(trial)


def _before_training(trial: FrozenTrial) -> tuple[Any, ...]:
    return _UNTRAINED_KEY in trial.system_attrs, len(trial.params)


def _so_far(trial: FrozenTrial) -> tuple[Any, ...]:
    return (
        trial.state,
        len(trial.system_attrs),
        len(trial.user_attrs),
        len(trial.intermediate_values),
        len(trial.params),
    )
