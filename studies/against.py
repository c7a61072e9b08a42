"""One search beside another: the best value so far against the epochs spent."""

from __future__ import annotations

import math
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import optuna
from optuna.trial import TrialState

from optuna_aelle.trials.cost import trained_steps

if TYPE_CHECKING:
    from studies.training import Task


def compare(task: Task, study: optuna.Study, rival: optuna.Study, label: str = "AeLLE") -> str:
    """Draw both into one figure, and say which needs how much to come how far."""
    courses = {name: _course(s) for name, s in ((label, study), ("Optuna's defaults", rival))}
    path = Path(f"{quote(study.study_name, safe=' ')}-against-defaults.png")
    try:
        _draw(task, courses, path)
        drawn = f"Drawn in {path}"
    except OSError as error:  # both searches have been run for what is said below
        drawn = f"Not drawn ({error})"
    (_, ours), (spent, theirs) = courses.values()
    sign = 1.0 if task.direction == "maximize" else -1.0
    lines = [
        f"{name:<18} {best[-1]:.4g} after {epochs[-1]} epochs"
        for name, (epochs, best) in courses.items()
        if best
    ]
    if ours and theirs:
        reached = [
            epochs
            for epochs, value in zip(*courses[label], strict=True)
            if sign * value >= sign * theirs[-1]
        ]
        lines.append(
            f"{label} has what the defaults end with after {reached[0]} epochs "
            f"({reached[0] / spent[-1]:.0%} of theirs)"
            if reached
            else f"{label} does not reach what the defaults end with"
        )
        # As many trials may be very unlike numbers of epochs.
        equal = min(epochs[-1] for epochs, _ in courses.values())
        had = ", ".join(f"{name} {_at(equal, *course)}" for name, course in courses.items())
        lines.append(f"After {equal} epochs: {had}")
    return "\n".join([*lines, drawn])


def _at(equal: int, epochs: list[int], best: list[float]) -> str:
    """The best value after so many epochs."""
    position = bisect_right(epochs, equal)
    return f"{best[position - 1]:.4g}" if position else "nothing"


def _course(study: optuna.Study) -> tuple[list[int], list[float]]:
    """Epochs so far and best finished value, a row an ended trial, from the first finished on."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    better = max if study.direction == optuna.study.StudyDirection.MAXIMIZE else min
    spent, best = 0, math.nan
    epochs, values = [], []
    for trial, steps in zip(ended, trained_steps(ended), strict=True):
        spent += steps
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            best = trial.value if math.isnan(best) else better(best, trial.value)
        if not math.isnan(best):
            epochs.append(spent)
            values.append(best)
    return epochs, values


def _draw(task: Task, courses: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    # Imported late: the searches themselves draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for (name, (epochs, best)), color in zip(courses.items(), ("#d81b60", "#1e88e5"), strict=True):
        axis.step(epochs, best, where="post", color=color, label=name, linewidth=2)
    axis.set_xlabel("epochs spent")
    axis.set_ylabel(f"best {task.metric} so far")
    axis.set_title(task.name)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=130)
