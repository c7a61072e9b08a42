"""Pictures of characters: two curves on one small canvas, for terminals and notes."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]

OWN, OTHER, BOTH = "o", "+", "*"
_WIDTH, _HEIGHT = 48, 9
_LABEL = 9


def compared(
    own: Sequence[Point],
    other: Sequence[Point],
    *,
    squash: Callable[[float], float] = float,
    x_labels: tuple[str, str] = ("", ""),
) -> list[str]:
    """Lines that show ``own`` as o and ``other`` as +, on one scale; none without a point.

    Args:
        own: Points ``(x, y)``. What is not finite is left out.
        other: As ``own``.
        squash: What y is drawn by; labels stay in units of y.
        x_labels: What stands at the left and at the right end below.
    """
    kept = [[p for p in points if all(map(math.isfinite, p))] for points in (own, other)]
    everything = [point for points in kept for point in points]
    if not everything:
        return []
    xs, ys = zip(*((x, squash(y)) for x, y in everything), strict=True)
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    # The other one first: where both meet, both are told.
    for points, mark in ((kept[1], OTHER), (kept[0], OWN)):
        for x, y in points:
            column = _place(x, min(xs), max(xs), _WIDTH)
            row = _HEIGHT - 1 - _place(squash(y), min(ys), max(ys), _HEIGHT)
            canvas[row][column] = mark if canvas[row][column] in (" ", mark) else BOTH
    values = [y for _, y in everything]
    labels = {0: f"{max(values):.4g}", _HEIGHT - 1: f"{min(values):.4g}"}
    lines = [
        f"{labels.get(row, ''):>{_LABEL}} |{''.join(cells).rstrip()}"
        for row, cells in enumerate(canvas)
    ]
    lines.append(f"{'':>{_LABEL}} +{'-' * _WIDTH}")
    left, right = x_labels
    if left or right:
        lines.append(f"{'':>{_LABEL}}  {left}{right:>{_WIDTH - len(left)}}")
    return lines


def printable(text: object, most: int = 200) -> str:
    """Text of others on one line: no control characters, which terminals obey, and no novel."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return line if len(line) <= most else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _place(x: float, low: float, high: float, n: int) -> int:
    if not high > low:
        return n // 2
    # Halves: the difference of two numbers may be larger than any number.
    place = (x / 2 - low / 2) / (high / 2 - low / 2)
    return int(np.clip(round(place * (n - 1)), 0, n - 1))
