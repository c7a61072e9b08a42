"""What is recorded for each table: its space, how many configurations, and for how long.

The first tables share one kind of space and have no plan of their own here. The later ones differ
from them and from each other in all that people's searches differ in: centres and widths of
ranges, sizes, batch sizes, what is not searched at all, the length of a training.
"""

from __future__ import annotations

from benchmarks.record.plans.development import DEVELOPMENT_PLANS
from benchmarks.record.plans.plan import Plan
from benchmarks.record.plans.report import REPORT_PLANS
from benchmarks.record.spaces import first_space

__all__ = ["DEVELOPMENT_PLANS", "REPORT_PLANS", "Plan", "plan_of"]

_BY_NAME = {plan.name: plan for plan in (*DEVELOPMENT_PLANS, *REPORT_PLANS)}


def plan_of(table: str) -> Plan:
    """The plan of a table, ``task-cell``; one that none was made for is as the first tables.

    Example:
        >>> plan_of("recall-gru").n_epochs
        27
    """
    task, cell = table.rsplit("-", 1)
    return _BY_NAME.get(table) or Plan(task, cell, first_space(cell))
