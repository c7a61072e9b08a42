"""How long trainings, and spectra of candidates, have taken: these may take a share of those."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from optuna.study import Study

from optuna_aelle.trials.cost import trained_seconds
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import numbered

# Seconds of trainings so far, and of candidates' spectra.
Clock = Callable[[], tuple[float, float]]


class Spending:
    """Of one sampler in one process, whose threads count at the same time.

    Args:
        clock: Tells the seconds where trainings are recorded ones; None to count them.

    Attributes:
        clock: As given.
        n_spectra: Of candidates, so far.
        lock: Whoever counts holds it.

    Example:
        >>> spending = Spending()
        >>> spending.note_spectrum(0.5)
        >>> spending.seconds()
        (0.0, 0.5)
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.n_spectra, self._spectrum_seconds = 0, 0.0
        # Trials that were asked for here and have not ended, and for how long all others were
        # trained: workers together may not spend more than each of them may.
        self._own: set[int] = set()
        self._trained = 0.0

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            return {**vars(self), "lock": None, "_own": {*self._own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.Lock())

    def note_trial(self, number: int) -> None:
        """One that is trained in this process."""
        if self.clock is None:
            with self.lock:
                self._own.add(number)

    def note_spectrum(self, seconds: float) -> None:
        """One more, and what it took."""
        with self.lock:
            self.n_spectra += 1
            self._spectrum_seconds += seconds

    def seconds(self, study: Study | None = None) -> tuple[float, float]:
        """What trainings, and what spectra of candidates have taken in this process.

        Args:
            study: To look which trainings have ended since; None to go by those that are known.
        """
        if self.clock is not None:
            return self.clock()
        trials = [] if study is None else every_trial(study)
        with self.lock:
            for number in [*self._own] if trials else ():
                trial = numbered(trials, number)
                if trial is not None and trial.state.is_finished():
                    self._own.remove(number)
                    self._trained += trained_seconds(trial)
            return self._trained, self._spectrum_seconds
