"""Which tasks are there? Ten for recurrent networks; a new one is a class and its line here."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.record.tasks.base import Split
from benchmarks.record.tasks.base import Task
from benchmarks.record.tasks.generated import Adding
from benchmarks.record.tasks.generated import Copying
from benchmarks.record.tasks.generated import FourSines
from benchmarks.record.tasks.generated import Lorenz
from benchmarks.record.tasks.generated import Recall
from benchmarks.record.tasks.real import CharLM
from benchmarks.record.tasks.real import Digits
from benchmarks.record.tasks.real import FashionRows
from benchmarks.record.tasks.real import JapaneseVowels
from benchmarks.record.tasks.real import OSULeaf

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
    )
}
