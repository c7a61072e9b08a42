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


class Reader:
    """Traits of trials of one study, kept from question to question.

    Args:
        sign: 1 to maximise, −1 to minimise.
        knobs: Own names of parameters, each to its common one.
    """

    def __init__(self, sign: float, knobs: Mapping[str, str] | None = None) -> None:
        self.sign = sign
        self._knobs = knobs
        # With the trial itself: nobody else can then have its identity.
        self._rows: dict[tuple[Any, ...], tuple[Any, FrozenTrial, Row, FloatArray]] = {}
        self._latest: dict[float, tuple[list[Row], Traits]] = {}
        self._derived: dict[str, tuple[tuple[object, ...], Any]] = {}

    def read(self, trials: Sequence[FrozenTrial], step: float) -> Traits:
        """As `Traits.read`; the very same object where nothing has changed since."""
        rows, columns = [], []
        asked: set[tuple[Any, ...]] = set()
        for trial in trials:
            # Candidates have no number of their own.
            key = (trial.number if trial.number >= 0 else id(trial), trial.number < 0, step)
            state = _before_training(trial) if step == UNTRAINED_STEP else _so_far(trial)
            known = self._rows.get(key)
            if known is None or known[0] != state:
                row = read_row(trial, step, self.sign)
                known = state, trial, row, knob_columns([trial], self._knobs)[0]
                self._rows[key] = known
            rows.append(known[2])
            columns.append(known[3])
            asked.add(key)
        if len(self._rows) > _MOST_ROWS:
            # Of long studies other trials are asked about from time to time.
            self._rows = {k: x for k, x in self._rows.items() if k in asked or k[2] != step}
        before, traits = self._latest.get(step, ([], None))
        if traits is None or len(before) != len(rows) or any(map(is_not, before, rows)):
            traits = Traits.of_rows(np.stack(columns), rows)
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
        gone = {id(trial) for trial in trials}
        self._rows = {k: x for k, x in self._rows.items() if not (k[1] and k[0] in gone)}


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
