"""The study's note in optuna-dashboard: how to read the figures, where the predictor speaks.

The note is the user's. Our part lies between two lines that the dashboard does not show, and only
what is between them is ever replaced. Whoever deletes them has said that they do not want it:
``aelle:note``, a system attribute of the study, remembers that it was there.
"""

from __future__ import annotations

import optuna

from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_system_attribute

NOTE_KEY = "aelle:note"

# Link definitions of Markdown, which show nowhere; the dashboard shows comments of HTML.
_BEGIN = "[//]: # (optuna-aelle: replaced with the figures; delete it and it stays away)"
_END = "[//]: # (optuna-aelle: end)"

_GUIDE = """\
### How to read the spectra (optuna-aelle)

1. **Spectra**: one line a trial, dark is good. Above 0, neighbouring states of the network drift
   apart; near 0, it remembers; far below, it forgets at once.
2. **Latent space**: near points have similar spectra. Where dark points lie together, spectra tell
   good networks from bad ones. An orange cross was pruned, good or bad. Groups are named by cell,
   size N of the state (middle half) and median value.
3. **Forecasts against ends**: on the dashed line they came true; bars hold four in five if the
   forecasts are right, and the title counts.
4. **Compute**: steps trained, and those that Optuna's default pruner would have taken on the same
   networks. How far it would have trained what was stopped here nobody knows: hence the band.
5. **Went on**: networks that were stopped and resumed; a diamond where they paused.

In the table of trials, on the page of the parallel coordinates: `aelle:lambda_1`, the largest
exponent; `aelle:predicted_final`, the latest forecast; `aelle:decision`, why it was stopped. A
trial's page has a note with its spectrum and curve beside the best one's.
More: `optuna-aelle explain`."""


def update_note(study: optuna.Study) -> None:
    """Bring our part of the study's note up to date, if the user wants it."""
    from optuna_dashboard import get_note
    from optuna_dashboard import save_note

    note = get_note(study)
    before, begin, rest = note.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        if NOTE_KEY in study_system_attributes(study):
            return
        before, after = f"{note.rstrip()}\n\n" if note.strip() else "", ""
    new = f"{before}{_BEGIN}\n\n{_text(study)}\n\n{_END}{after}"
    # Who is editing the note meanwhile is told of a conflict: only for a reason.
    if new != note:
        save_note(study, new)
    if NOTE_KEY not in study_system_attributes(study):
        write_study_system_attribute(study, NOTE_KEY, True)


def _text(study: optuna.Study) -> str:
    status = predictor_status(study)
    if status is None:
        return _GUIDE
    return f"{_GUIDE}\n\nWhere the predictor speaks:\n\n- " + status.replace("; ", "\n- ")
