"""Priors that a task has been left out of, each learned once and kept in a folder."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from benchmarks.race.forest import load
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle.prediction import network
from optuna_aelle.prediction import training
from optuna_aelle.prediction import traits
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.training import Lessons
from optuna_aelle.prediction.training import Settings
from optuna_aelle.prediction.training import train_network

CACHE = Path("cache") / "priors"
# Half of what the shipped one is given: there are as many as tasks.
SETTINGS = Settings(steps=2000)


def task_of(table: str) -> str:
    """Of a table's name."""
    return table.rsplit("-", 1)[0]


def every_lesson(without: str | None = None) -> dict[str, list[Lessons]]:
    """The lessons of all recorded tables by task, but those of one."""
    lessons: dict[str, list[Lessons]] = {}
    for name in (*DEVELOPMENT_TABLES, *REPORT_TABLES):
        if task_of(name) != without:
            lessons.setdefault(task_of(name), []).append(_lessons(name))
    return lessons


@lru_cache(maxsize=8)
def prior_without(task: str, settings: Settings = SETTINGS) -> Prior:
    """A prior that has seen nothing of a task."""
    path = CACHE / f"{task}-{_digest(settings)}.npz"
    if path.exists():
        return Prior.load(path)
    lessons = every_lesson(task)
    prior = Prior(train_network(lessons, settings), tasks=lessons)
    path.parent.mkdir(parents=True, exist_ok=True)
    prior.save(path)
    return prior


@lru_cache(maxsize=64)
def _lessons(name: str) -> Lessons:
    return Lessons.of(load(name))


def _digest(settings: Settings) -> str:
    """Of all that decides what is learned: the code, the settings and the tables."""
    parts = [repr(settings)]
    for module in (network, training, traits):
        parts.append(Path(str(module.__file__)).read_text())
    from benchmarks.environment import TABLES

    parts += [f"{p.name} {os.path.getsize(p)}" for p in sorted(TABLES.glob("*.npz"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
