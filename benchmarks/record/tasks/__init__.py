"""Which tasks are there? A new one is a class and its line here."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import Task
from benchmarks.record.tasks.memory import Adding
from benchmarks.record.tasks.memory import Association
from benchmarks.record.tasks.memory import Copying
from benchmarks.record.tasks.memory import Matching
from benchmarks.record.tasks.memory import Recall
from benchmarks.record.tasks.memory import Sorting
from benchmarks.record.tasks.real import MNIST1D
from benchmarks.record.tasks.real import Digits
from benchmarks.record.tasks.real import FashionRows
from benchmarks.record.tasks.real import JapaneseVowels
from benchmarks.record.tasks.real import Laser
from benchmarks.record.tasks.real import Motions
from benchmarks.record.tasks.real import OSULeaf
from benchmarks.record.tasks.real import Power
from benchmarks.record.tasks.sequences import Brackets
from benchmarks.record.tasks.sequences import Counting
from benchmarks.record.tasks.sequences import Integration
from benchmarks.record.tasks.sequences import Modular
from benchmarks.record.tasks.sequences import Parity
from benchmarks.record.tasks.systems import FourSines
from benchmarks.record.tasks.systems import Lorenz
from benchmarks.record.tasks.systems import Maps
from benchmarks.record.tasks.systems import Narma
from benchmarks.record.tasks.systems import Oscillator
from benchmarks.record.tasks.systems import Pendulum
from benchmarks.record.tasks.systems import Teacher
from benchmarks.record.tasks.texts import Bible
from benchmarks.record.tasks.texts import CharLM

__all__ = ["TASKS", "Split", "Task"]

TASKS: dict[str, Callable[[], Task]] = {
    task.name: task
    for task in (
        Digits,
        FashionRows,
        JapaneseVowels,
        OSULeaf,
        CharLM,
        Lorenz,
        Adding,
        Recall,
        Copying,
        FourSines,
        Matching,
        Sorting,
        Association,
        Parity,
        Counting,
        Brackets,
        Integration,
        Modular,
        Teacher,
        Maps,
        Pendulum,
        Oscillator,
        Narma,
        Power,
        Motions,
        MNIST1D,
        Laser,
        Bible,
    )
}
