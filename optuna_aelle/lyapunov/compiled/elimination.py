"""Triangular renormalisation: Z = (P L) U for a frame of vectors, by blocks of them.

What is eliminated are entries of a vector in the pivots of those before it: a vector of the frame
is a row in memory, so that all loops run along it.
"""

from __future__ import annotations

import numpy as np

from optuna_aelle.lyapunov.compiled.basics import BYTES
from optuna_aelle.lyapunov.compiled.basics import INNER
from optuna_aelle.lyapunov.compiled.basics import ROWS
from optuna_aelle.lyapunov.compiled.basics import compiled
from optuna_aelle.lyapunov.compiled.basics import product
from optuna_aelle.lyapunov.compiled.tiles import LANES
from optuna_aelle.lyapunov.compiled.tiles import largest
from optuna_aelle.lyapunov.compiled.tiles import make_solve

_solve = make_solve(ROWS)


@compiled(**INNER)
def take_out(  # type: ignore[no-untyped-def]
    frame, columns, done, n_done, block, pivots, triangle, at_rows, scratch
):
    """Take the multiples of finished vectors, from ``done`` on, out of the ``ROWS`` of ``block``.

    ``triangle[j, i]`` is what the finished vector j has in the pivot of i.
    """
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * BYTES
    for i in range(n_done):
        pivot = pivots[done + i]
        for row in range(ROWS):
            scratch[i, row] = -frame[block + row, pivot]
    _solve(
        np.int64(scratch.ctypes.data),
        np.int64(triangle.ctypes.data),
        triangle.shape[1] * BYTES,
        n_done,
    )
    product(
        start + block * stride,
        stride,
        columns,
        np.int64(scratch.ctypes.data),
        np.int64(at_rows.ctypes.data) + done * BYTES,
        n_done,
        True,
    )
    for i in range(n_done):
        for row in range(ROWS):
            # What rounding has left there.
            frame[block + row, pivots[done + i]] = 0.0


@compiled(**INNER)
def note_triangle(frame, first, n, pivots, triangle):  # type: ignore[no-untyped-def]
    for j in range(n):
        for i in range(j + 1, n):
            triangle[j, i] = frame[first + j, pivots[first + i]]


@compiled(**INNER)
def renormalize_block(  # type: ignore[no-untyped-def]
    frame, columns, block, n_vectors, size, pivots, fixed, at_rows, scratch, sizes, sums, lift
):
    """Z = (P L) U for the vectors from ``block`` on, from which those before are taken out."""
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * BYTES
    width = columns[1]
    last = min(block + ROWS, n_vectors)
    for a in range(block, last):
        at = a if fixed else largest(start + a * stride, width // LANES)
        pivot = frame[a, at]
        if pivot == 0.0:
            at = free_row(pivots, a, size)
            frame[a, at] = 1.0
        else:
            # Not by its inverse: equal rows are to stay equal, so that what they share is 0 after.
            for i in range(width):
                frame[a, i] /= pivot
        pivots[a] = at
        sizes[a] = abs(pivot)
        if lift.size:
            sums[a] += lift[at]
        if a + 1 == last:
            continue
        for row in range(ROWS):
            scratch[0, row] = -frame[block + row, at] if block + row > a else 0.0
        product(
            start + block * stride,
            stride,
            columns,
            np.int64(scratch.ctypes.data),
            np.int64(at_rows.ctypes.data) + a * BYTES,
            1,
            True,
        )
        for row in range(a + 1, last):
            frame[row, at] = 0.0


@compiled()
def free_row(pivots, n_taken, size):  # type: ignore[no-untyped-def]
    """The first row that is no pivot yet."""
    for row in range(size):
        taken = False
        for a in range(n_taken):
            taken |= pivots[a] == row
        if not taken:
            return row
    return 0
