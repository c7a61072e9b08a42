"""The figures of a study as optuna-dashboard keeps them; one process may draw, another one keep.

A figure lies whole in one attribute, ``dashboard:plot_data:{id}:0``: whoever reads it meanwhile,
and several processes that write at once, never see pieces of two. optuna-dashboard
itself cuts figures into pieces of 2,045 characters, which databases no longer ask for; where an
earlier version has left such pieces, they are emptied.

``aelle:panels``, a system attribute of the study, says how far it had come when its figures were
drawn: ``{"ended": 57, "seen": 60}``, trials that had ended, and all. Older figures never replace
newer ones.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import TypeVar

import optuna
import plotly.graph_objects as go
from tqdm import tqdm

from optuna_aelle._warnings import warn_once
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_system_attribute
from optuna_aelle.visualization._compute import plot_compute_saved
from optuna_aelle.visualization._forecasts import plot_predictions
from optuna_aelle.visualization._latent_map import draw_latent_map
from optuna_aelle.visualization._note import update_note
from optuna_aelle.visualization._resumed import plot_resumed
from optuna_aelle.visualization._spectra import plot_spectra
from optuna_aelle.visualization._style import empty
from optuna_aelle.visualization._style import escaped
from optuna_aelle.visualization._trial_note import make_trial_notes
from optuna_aelle.visualization._trial_note import noted_trials
from optuna_aelle.visualization._trial_note import write_trial_notes

PANELS_KEY = "aelle:panels"
_PLOT_DATA = "dashboard:plot_data:"

T = TypeVar("T")
Plot = Callable[[optuna.Study], go.Figure]
# No colons: the dashboard splits at them, and ids "a" and "a:b" together are a server error. It
# shows them in an order of its own, which changes when it is started anew: hence the numbers.
PANELS: dict[str, Plot] = {
    "aelle-spectra": plot_spectra,
    "aelle-latent-map": draw_latent_map,
    "aelle-predictions": plot_predictions,
    "aelle-compute-saved": plot_compute_saved,
    "aelle-resumed": plot_resumed,
}


@dataclass(frozen=True)
class Drawn:
    """What is to be seen of a study.

    Attributes:
        progress: How many trials had ended, and how many there were.
        figures: Id to JSON of plotly.
        notes: Number of a trial to its note.
    """

    progress: tuple[int, int]
    figures: Mapping[str, str]
    notes: dict[int, str] = field(default_factory=dict)


def draw(
    study: optuna.Study,
    *,
    latent_map: Plot = draw_latent_map,
    noted: set[int] | None = None,
    most_notes: int,
    show_progress: bool = False,
) -> Drawn:
    """Draw all figures. One that cannot be drawn says so; the others are none the worse for it.

    Args:
        study: Any.
        latent_map: Draws the latent map; by default, without waiting for UMAP.
        noted: Trials that need no note; by default, those that have one.
        most_notes: How many notes to write at once.
        show_progress: Whether a bar tells somebody who waits, on a terminal.
    """
    trials = every_trial(study)
    figures = {}
    plots = (PANELS | {"aelle-latent-map": latent_map}).items()
    shown = patiently(plots, "figures") if show_progress else plots
    for number, (name, plot) in enumerate(shown, 1):
        try:
            figure = plot(study)
        except Exception as error:  # a study must go on, and so must its other pictures
            warn_once(
                f"not drawn:{name}",
                f"The figure '{name}' of '{study.study_name}' could not be drawn "
                f"({type(error).__name__}: {error}).",
                error,
            )
            figure = empty(name, f"Could not be drawn: {escaped(error, 200)}")
        figure.layout.title.text = f"{number} · {figure.layout.title.text}"
        figures[name] = str(figure.to_json())
    notes = make_trial_notes(study, noted_trials(study) if noted is None else noted, most_notes)
    return Drawn((sum(t.state.is_finished() for t in trials), len(trials)), figures, notes)


def patiently(items: Iterable[T], what: str) -> Iterator[T]:
    """With a bar for somebody at a terminal who has waited two seconds."""
    return iter(tqdm(list(items), desc=what, delay=2.0, leave=False, disable=None))


def keep(study: optuna.Study, drawn: Drawn, *, even_if_older: bool = False) -> None:
    """Write what was drawn, unless somebody has drawn the study further on."""
    attributes = study_system_attributes(study)
    if even_if_older or drawn.progress >= _progress(attributes):
        ended, seen = drawn.progress
        write_study_system_attribute(study, PANELS_KEY, {"ended": ended, "seen": seen})
        for name, text in drawn.figures.items():
            prefix = f"{_PLOT_DATA}{name}:"
            write_study_system_attribute(study, f"{prefix}0", text)
            for key, piece in attributes.items():
                if key.startswith(prefix) and key != f"{prefix}0" and piece:
                    write_study_system_attribute(study, key, "")
    write_trial_notes(study, drawn.notes)
    update_note(study)


def _progress(attributes: Mapping[str, Any]) -> tuple[int, int]:
    stored = attributes.get(PANELS_KEY)
    try:
        return int(stored["ended"]), int(stored["seen"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError, OverflowError):
        return -1, -1
