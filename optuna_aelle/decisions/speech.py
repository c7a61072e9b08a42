"""Where the predictor speaks in a study, and why it is silent elsewhere.

``aelle:speech:{step}``, a system attribute of the study, one key a step, is what the workers of a
study share; ``aelle:speech:waits`` stands alone until something was learned::

    {"says": "speaks (rank correlation 0.62 over trials worth 41 finished ones)", "lessons": 41}

``aelle:predictor``, a user attribute, is the sentence for people that is made from them::

    before training: speaks (rank correlation 0.62 over trials worth 41 finished ones); step 3:
    silent, the reported value alone ranks trials at 0.55, its predictions at 0.41

A pruned trial is worth less than a finished one: how it would have ended is known in part.

Both change when the predictor is fitted again, so they are written seldom.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
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
from optuna_aelle.trials.attributes import warn_of_attribute
from optuna_aelle.trials.payloads import step_of
from optuna_aelle.trials.payloads import text
from optuna_aelle.trials.storage import study_identity
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_attribute
from optuna_aelle.trials.storage import write_study_system_attribute

PREDICTOR_KEY = "aelle:predictor"
SPEECH_PREFIX = "aelle:speech:"
_WAITS = "waits"
# A sentence for people; studies whose steps are batches may ask at hundreds of steps.
_MAX_MOMENTS = 8
_TOO_FEW = "silent, too few trials went further"


def predictor_status(study: Study) -> str | None:
    """Where the predictor speaks and why it is silent elsewhere; None where it was never asked."""
    said: dict[int, str] = {}
    waits: str | None = None
    for key, payload in study_system_attributes(study).items():
        if not key.startswith(SPEECH_PREFIX):
            continue
        try:
            says = read_speech(payload)
            if key == f"{SPEECH_PREFIX}{_WAITS}":
                waits = says
            else:
                said[step_of(key, SPEECH_PREFIX)] = says
        except ValueError as error:
            warn_of_attribute(key, error, SPEECH_PREFIX)
    moments = sorted(said)
    # The later the step, the fewer have gone further: what holds from there on is said once.
    last = len(moments)
    while last > 0 and said[moments[last - 1]].startswith(_TOO_FEW):
        last -= 1
    shown = [*moments[: min(last, 1)], *moments[1:last][1 - _MAX_MOMENTS :]]
    parts = [f"{_moment(step)}: {said[step]}" for step in shown]
    if last < len(moments):
        parts.append(f"from {_moment(moments[last])} on: {said[moments[last]]}")
    return "; ".join(parts) or waits


def read_speech(payload: Any) -> str:
    """What one attribute of the study says.

    Raises:
        ValueError: It is damaged.
    """
    if not isinstance(payload, Mapping):
        raise ValueError("it is no object")
    return text(payload, "says")


class SpeechRecord:
    """What a pruner has to say of its predictor, by study and step; written when it changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: WeakKeyDictionary[BaseStorage, dict[tuple[int, str], str]]
        self._written = WeakKeyDictionary()

    def waits(self, study: Study, n: int, n_startup_trials: int) -> None:
        """There are too few ended trials to learn from, or all are alike."""
        if n < n_startup_trials:
            says = f"waits until {n_startup_trials} trials have ended with a value"
        else:
            says = f"silent, the {n} trials that have ended do not differ"
        self._note(study, _WAITS, says, n)

    def lacks_lessons(self, study: Study, step: int, n: int, least: int) -> None:
        """Too few trials went past ``step``."""
        says = f"{_TOO_FEW} ({n}, it needs {least})"
        self._note(study, str(step), says, n)

    def has_skill(self, study: Study, step: int, skill: Skill) -> None:
        """How well it predicts at ``step``, which decides whether it speaks."""
        ranks = f"rank correlation {skill.model:.2f} over trials worth {skill.n:.0f} finished ones"
        if skill.speaks:
            says = f"speaks ({ranks})"
        elif skill.lower_bound <= 0.0:
            says = f"silent, its predictions are not yet better than chance ({ranks})"
        else:
            says = (
                f"silent, the reported value alone ranks trials at {skill.baseline:.2f}, its "
                f"predictions at {skill.model:.2f}"
            )
        self._note(study, str(step), says, round(skill.n))

    def _note(self, study: Study, name: str, says: str, n_lessons: int) -> None:
        storage, study_id = study_identity(study)
        # One at a time: the sentence is to be that of the latest.
        with self._lock:
            written = self._written.setdefault(storage, {})
            if written.get((study_id, name)) == says:
                return
            try:
                payload = {"says": says, "lessons": n_lessons}
                write_study_system_attribute(study, f"{SPEECH_PREFIX}{name}", payload)
                write_study_attribute(study, PREDICTOR_KEY, predictor_status(study))
            except Exception as error:  # a storage hiccup must not stop a study
                warn_once(
                    "study attribute not written",
                    f"'{PREDICTOR_KEY}' could not be stored ({type(error).__name__}: {error}).",
                    error,
                )
                return
            written[study_id, name] = says

    def __getstate__(self) -> dict[str, Any]:
        return {"written": None}

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
    return "before training" if step == UNTRAINED_STEP else f"step {step}"
