"""Where the predictor speaks in a study, and why it is silent elsewhere.

``aelle:predictor``, a user attribute of the study, holds one sentence for people::

    before training: speaks (rank correlation 0.62 with how trials ended, from 41.2 lessons);
    step 3: silent, its predictions rank trials at 0.41, the reported value alone at 0.55

It changes when the predictor is fitted again, so it is written seldom.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.prediction.forecast import Skill
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.storage import study_attribute
from optuna_aelle.trials.storage import study_identity
from optuna_aelle.trials.storage import write_study_attribute

PREDICTOR_KEY = "aelle:predictor"


def predictor_status(study: Study) -> str | None:
    """Where the predictor speaks and why it is silent elsewhere; None where it was never asked."""
    status = study_attribute(study, PREDICTOR_KEY)
    return status if isinstance(status, str) else None


class SpeechRecord:
    """What a pruner has to say of its predictor, by study and step; written when it changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_study: WeakKeyDictionary[BaseStorage, dict[int, dict[int, str]]]
        self._by_study = WeakKeyDictionary()

    def waits(self, study: Study, n: int, n_startup_trials: int) -> None:
        """There are too few ended trials to learn from, or all are alike."""
        if n < n_startup_trials:
            why = f"waits until {n_startup_trials} trials have ended with a value"
        else:
            why = f"silent, the {n} trials that have ended do not differ"
        self._note(study, None, why)

    def lacks_lessons(self, study: Study, step: int, n: int, least: int) -> None:
        """Too few trials went past ``step``."""
        self._note(study, step, f"silent, only {n} trials went further and it needs {least}")

    def has_skill(self, study: Study, step: int, skill: Skill) -> None:
        """How well it predicts at ``step``, which decides whether it speaks."""
        ranks = f"rank correlation {skill.model:.2f} with how {skill.n:.0f} trials ended"
        if skill.speaks:
            why = f"speaks ({ranks})"
        elif skill.lower_bound <= 0.0:
            why = f"silent, its predictions are not yet better than chance ({ranks})"
        else:
            why = (
                f"silent, the reported value alone ranks trials at {skill.baseline:.2f}, its "
                f"predictions at {skill.model:.2f}"
            )
        self._note(study, step, why)

    def _note(self, study: Study, step: int | None, why: str) -> None:
        storage, study_id = study_identity(study)
        with self._lock:
            by_step = self._by_study.setdefault(storage, {}).setdefault(study_id, {})
            key = UNTRAINED_STEP - 1 if step is None else step
            if by_step.get(key) == why:
                return
            # Once it has learned, it waits no more.
            by_step.pop(UNTRAINED_STEP - 1, None)
            by_step[key] = why
            status = "; ".join(f"{_moment(s)}{text}" for s, text in sorted(by_step.items()))
        try:
            write_study_attribute(study, PREDICTOR_KEY, status)
        except Exception as error:  # a storage hiccup must not stop a study
            warn_once(
                "study attribute not written",
                f"'{PREDICTOR_KEY}' could not be stored ({type(error).__name__}: {error}).",
                error,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


def warn_of_missing_spectra(study: Study, lessons: Sequence[FrozenTrial]) -> None:
    """Warn once where no ended trial has a spectrum: as a rule, it was forgotten."""
    if any(decode_spectra(trial) for trial in lessons):
        return
    warn_once(
        f"no spectra at all:{study.study_name}",
        f"None of the {len(lessons)} ended trials of '{study.study_name}' has a spectrum: "
        "predictions go without. Call optuna_aelle.report_network(trial, network, probe_inputs, "
        "step) in the objective, before trial.report, or pass features=('curve', 'params') if "
        "that is meant.",
    )


def _moment(step: int) -> str:
    if step < UNTRAINED_STEP:
        return ""
    return "before training: " if step == UNTRAINED_STEP else f"step {step}: "
