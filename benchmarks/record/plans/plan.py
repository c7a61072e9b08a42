"""How is a table made?"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.record.spaces import Space


@dataclass(frozen=True)
class Plan:
    """How a table is made.

    Attributes:
        task: A name in `TASKS`.
        cell: The second half of the table's name; ``"mixed"`` if the space has several cells.
        space: What is searched.
        n_configs: How many configurations are drawn.
        n_epochs: How long each is trained.
    """

    task: str
    cell: str
    space: Space
    n_configs: int = 200
    n_epochs: int = 27

    @property
    def name(self) -> str:
        """Of the table."""
        return f"{self.task}-{self.cell}"
