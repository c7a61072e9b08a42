"""A note on the page of a trial: what became of it, its spectrum and curve beside the best one's.

A note is written once, when its trial has ended, and never again. One that is there already is
the user's, and stays as it is. The dashboard reads all notes of a study for each of its trials, so
only so many get one; every trial has its verdict, λ₁ and forecast among its user attributes.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.explanation import Explanation
from optuna_aelle.decisions.explanation import explain_one
from optuna_aelle.decisions.text_pictures import printable
from optuna_aelle.decisions.trial_record import TrialRecord
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import trial_identity
from optuna_aelle.trials.storage import write_study_system_attribute
from optuna_aelle.visualization._spectra import squash
from optuna_aelle.visualization._trials import best_numbers

FloatArray = npt.NDArray[np.float64]

# Notes of a study; with more of them the dashboard's first page loads slowly.
MOST_NOTES = 300

_VERSION_KEY = re.compile(r"dashboard:(\d+):note_ver")
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 16
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|&~$])")


def noted_trials(study: optuna.Study) -> set[int]:
    """Numbers of the trials that have a note, whoever wrote it."""
    written = {
        int(found[1])
        for key in study_system_attributes(study)
        if (found := _VERSION_KEY.fullmatch(key))
    }
    return {t.number for t in every_trial(study) if trial_identity(t) in written}


def write_trial_notes(study: optuna.Study, notes: dict[int, str]) -> None:
    """Write notes on trials that have none, by number."""
    by_number = {trial.number: trial for trial in every_trial(study)}
    for number, text in notes.items():
        if number not in by_number:
            continue
        prefix = f"dashboard:{trial_identity(by_number[number])}:"
        # Read again for each: somebody may be writing one just now.
        if f"{prefix}note_ver" in study_system_attributes(study):
            continue
        write_study_system_attribute(study, f"{prefix}note_str:0", text)
        write_study_system_attribute(study, f"{prefix}note_ver", 1)


def make_trial_notes(study: optuna.Study, noted: set[int], most: int) -> dict[int, str]:
    """Notes for at most ``most`` ended trials that have none: of the best, then of the latest."""
    trials = every_trial(study)
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    best = best_numbers(study, ended)
    left = [t for t in ended if t.number not in noted]
    if len(noted) >= MOST_NOTES:
        left = [t for t in left if t.number in best]
    else:
        most = min(most, MOST_NOTES - len(noted))
    left.sort(key=lambda t: (t.number in best, t.number), reverse=True)
    notes = {}
    for trial in left[:most]:
        try:
            notes[trial.number] = note_of(explain_one(study, trial, trials))
        except Exception as error:  # the figures, and the notes of others, are none the worse
            warn_once(
                "no note",
                f"There is no note on trial {trial.number} ({type(error).__name__}: {error}).",
                error,
            )
    return notes


def note_of(explained: Explanation) -> str:
    """The note, in Markdown."""
    trial = explained.trial
    other = None if explained.is_best else explained.best
    records = [trial] if other is None else [trial, other]
    lines = []
    for what, rows in (
        ("spectrum", [(squash(np.array(r.spectrum)), r.spectrum) for r in records]),
        ("curve", _curves(records)),
    ):
        shown = [row for row, _ in rows]
        for row, values, record in zip(_bars(shown), [v for _, v in rows], records, strict=True):
            if len(values) and len(rows[0][1]):
                name = what if record is trial else f"  trial {record.number}"
                ends = f"{values[0]:.4g} to {values[-1]:.4g}"
                lines.append(f"{name:<13}{row:<{_WIDTH}}  {ends}")
    if explained.expected is not None:
        value, low, high = explained.expected
        lines.append(f"{'forecast':<13}{value:.4g}, 80 % between {low:.4g} and {high:.4g}")
    if explained.bar is not None:
        lines.append(f"{'bar':<13}{explained.bar:.4g}")
    parts = [f"**{trial.state}**, {_plain(explained.sentence)}"]
    if explained.continues is not None:
        parts.append(f"It goes on with the network of trial {explained.continues}.")
    if lines:
        parts.append("\n".join(["```text", *lines, "```"]))
    if other is not None:
        parts.append(
            f"Trial {other.number} was the best{explained.of_objective} when this was written."
        )
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text that Markdown, and HTML where somebody allows it, leave as it is."""
    return _MARKDOWN.sub(r"\\\1", printable(text, 400))


def _curves(records: Sequence[TrialRecord]) -> list[tuple[FloatArray, list[float]]]:
    """Of each record its curve at moments that all share, and what it reported."""
    steps = sorted({step for record in records for step in record.curve})
    moments = np.linspace(steps[0], steps[-1], min(_WIDTH, len(steps))).tolist() if steps else []
    found = []
    for record in records:
        reported, values = list(record.curve), list(record.curve.values())
        known = [
            values[bisect(reported, moment) - 1]
            for moment in moments
            if reported and reported[0] <= moment <= reported[-1]
        ]
        found.append((np.array(known), values))
    return found


def _bars(rows: Sequence[FloatArray]) -> list[str]:
    """Rows of numbers as bars, on one scale."""
    finite = [x for row in rows for x in row if math.isfinite(x)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    drawn = []
    for row in rows:
        at = np.linspace(0, max(len(row) - 1, 0), min(_WIDTH, len(row))).round().astype(int)
        drawn.append("".join(_bar(float(row[i]), low, high) for i in at))
    return drawn


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    # Halves: the difference of two numbers may be larger than any number.
    place = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
    return _BLOCKS[min(int(place * len(_BLOCKS)), len(_BLOCKS) - 1)]
