"""The step loop in compiled code: Jacobian, product, triangular renormalisation, logarithms.

Notation as in `maps.base`: T steps, S systems, k tangent vectors of size N, H hidden units, G
gates. A frame is kept in memory as ``(S, K, W)`` with K and W the next multiples of a tile and of
a vector; what is beyond k and N is zero.

After a renormalisation Z = (P L) U the tangent vector a has a one in its own row p_a, its *pivot*,
and zeros in the pivots of the vectors before it. In the order of the pivots it is a triangle: half
of the next product is known to be zero and is left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from optuna_aelle.lyapunov.compiled.tiles import LANES
from optuna_aelle.lyapunov.compiled.tiles import largest
from optuna_aelle.lyapunov.compiled.tiles import make_solve
from optuna_aelle.lyapunov.compiled.tiles import make_tile

# Rows of a tile: tangent vectors that are worked on together.
ROWS = 8
_BYTES = 8
# Bytes of a line of the cache.
_LINE = 64
_WIDE = 2 * LANES
_wide_tile = make_tile(ROWS, 2)
_tile = make_tile(ROWS, 1)
_solve = make_solve(ROWS)

# How Jacobians are given: as gates to be scaled and summed, as those of an LSTM's (h, c), the same
# in two stages, or whole.
MIXED, LSTM, STAGED, DENSE = 0, 1, 2, 3

# Vectors that are worked on side by side: what leaves the first caches is read once for them.
_TALL = 4 * ROWS
# What the machine code is made of.
_VERSION = hashlib.sha1(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))),
    usedforsecurity=False,
).hexdigest()[:12]
# Growth is multiplied up while the product is far from the limits of float64.
_LEAST, _MOST = 1e-100, 1e100


def compiled(**options: Any) -> Callable[[Any], Any]:
    """`numba.njit` with results as IEEE 754 has them, but for fused products and sums."""

    def decorate(function: Any) -> Any:
        # Machine code is kept by the name: not to be mistaken for that of another version, of
        # which this function may differ in what it calls alone.
        function.__qualname__ += f"_{_VERSION}"
        settings = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, **options}
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError:
            # There is no place where it could be kept.
            return njit(**settings)(function)

    return decorate


@compiled()
def zeros(n_rows, width):  # type: ignore[no-untyped-def]
    """A matrix that starts where a line of the cache does, so that no vector straddles two."""
    memory = np.zeros(n_rows * width + _LINE // _BYTES)
    first = (-np.int64(memory.ctypes.data)) % _LINE // _BYTES
    return memory[first : first + n_rows * width].reshape(n_rows, width)


@compiled(inline="always")
def product(z, stride, columns, a, rows, n, add):  # type: ignore[no-untyped-def]
    """Z = A B, or Z += A B, on ``ROWS`` rows of Z, from the first of ``columns`` to the second."""
    column, n_columns = columns
    while column + _WIDE <= n_columns:
        shift = column * _BYTES
        _wide_tile(z + shift, stride, a, rows, n, shift, add)
        column += _WIDE
    if column < n_columns:
        shift = column * _BYTES
        _tile(z + shift, stride, a, rows, n, shift, add)


@compiled(forceinline=True)
def _take_out(  # type: ignore[no-untyped-def]
    frame, columns, done, n_done, block, pivots, triangle, at_rows, scratch
):
    """Take the multiples of finished vectors, from ``done`` on, out of the ``ROWS`` of ``block``.

    ``triangle[j, i]`` is what the finished vector j has in the pivot of i.
    """
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * _BYTES
    for i in range(n_done):
        pivot = pivots[done + i]
        for row in range(ROWS):
            scratch[i, row] = -frame[block + row, pivot]
    _solve(
        np.int64(scratch.ctypes.data),
        np.int64(triangle.ctypes.data),
        triangle.shape[1] * _BYTES,
        n_done,
    )
    product(
        start + block * stride,
        stride,
        columns,
        np.int64(scratch.ctypes.data),
        np.int64(at_rows.ctypes.data) + done * _BYTES,
        n_done,
        True,
    )
    for i in range(n_done):
        for row in range(ROWS):
            # What rounding has left there.
            frame[block + row, pivots[done + i]] = 0.0


@compiled(forceinline=True)
def _note_triangle(frame, first, n, pivots, triangle):  # type: ignore[no-untyped-def]
    for j in range(n):
        for i in range(j + 1, n):
            triangle[j, i] = frame[first + j, pivots[first + i]]


@compiled(forceinline=True)
def _grow(sums, growth, sizes, n_vectors):  # type: ignore[no-untyped-def]
    """Note the sizes of one step's pivots: ln|pivot| is summed, in as few logarithms as can be."""
    n_outside = 0
    for a in range(n_vectors):
        product = growth[a] * sizes[a]
        outside = not (_LEAST < sizes[a] < _MOST) or not (_LEAST < product < _MOST)
        n_outside += outside
    if n_outside:
        for a in range(n_vectors):
            sums[a] += math.log(growth[a])
            sums[a] += math.log(sizes[a])
            growth[a] = 1.0
    else:
        for a in range(n_vectors):
            growth[a] *= sizes[a]


@compiled(forceinline=True)
def _renormalize_block(  # type: ignore[no-untyped-def]
    frame, columns, block, n_vectors, size, pivots, fixed, at_rows, scratch, sizes, sums, lift
):
    """Z = (P L) U for the vectors from ``block`` on, from which those before are taken out."""
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * _BYTES
    width = columns[1]
    last = min(block + ROWS, n_vectors)
    for a in range(block, last):
        at = a if fixed else largest(start + a * stride, width // LANES)
        pivot = frame[a, at]
        if pivot == 0.0:
            at = _free_row(pivots, a, size)
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
            np.int64(at_rows.ctypes.data) + a * _BYTES,
            1,
            True,
        )
        for row in range(a + 1, last):
            frame[row, at] = 0.0


@compiled()
def _free_row(pivots, n_taken, size):  # type: ignore[no-untyped-def]
    """The first row that is no pivot yet."""
    for row in range(size):
        taken = False
        for a in range(n_taken):
            taken |= pivots[a] == row
        if not taken:
            return row
    return 0


@compiled(forceinline=True)
def _step(  # type: ignore[no-untyped-def]
    frame, n_vectors, triangular, jacobian_t, order, work, sums, growth, lift
):
    """F <- P L of J F for one system; ``order`` becomes the pivots."""
    size, height = jacobian_t.shape[0], frame.shape[0]
    columns = (0, -(-size // LANES) * LANES)
    packed, scratch, triangles, triangle, pivots, sizes, at_jacobian, at_rows = work
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * _BYTES
    for i in range(size):
        at_jacobian[i] = np.int64(jacobian_t.ctypes.data) + order[i] * stride
    at_scalars, at_first = np.int64(packed.ctypes.data), np.int64(at_jacobian.ctypes.data)
    for top in range(0, height, _TALL):
        bottom = min(top + _TALL, height)
        for block in range(top, bottom, ROWS):
            first = min(block, size) if triangular else 0
            place = (block - top) // ROWS
            for i in range(first, size):
                for row in range(ROWS):
                    packed[place, i - first, row] = frame[block + row, order[i]]
        for column in range(0, columns[1], _WIDE):
            part = (column, min(column + _WIDE, columns[1]))
            for block in range(top, bottom, ROWS):
                first = min(block, size) if triangular else 0
                product(
                    start + block * stride,
                    stride,
                    part,
                    at_scalars + (block - top) * size * _BYTES,
                    at_first + first * _BYTES,
                    size - first,
                    False,
                )
        for done in range(0, top, _TALL):
            of_done = triangles[done // _TALL]
            for block in range(top, bottom, ROWS):
                _take_out(frame, columns, done, _TALL, block, pivots, of_done, at_rows, scratch)
        for block in range(top, bottom, ROWS):
            if block > top:
                n_done = block - top
                _note_triangle(frame, top, n_done, pivots, triangle)
                _take_out(frame, columns, top, n_done, block, pivots, triangle, at_rows, scratch)
            _renormalize_block(
                frame,
                columns,
                block,
                n_vectors,
                size,
                pivots,
                False,
                at_rows,
                scratch,
                sizes,
                sums,
                lift,
            )
        if bottom < height:
            _note_triangle(frame, top, _TALL, pivots, triangles[top // _TALL])
    _grow(sums, growth, sizes, n_vectors)
    _complete(pivots, n_vectors, order)


@compiled()
def _complete(pivots, n_vectors, order):  # type: ignore[no-untyped-def]
    """``order``: the pivots, then the rows that are none."""
    for a in range(n_vectors):
        order[a] = pivots[a]
    at = n_vectors
    if at == len(order):
        return
    taken = np.zeros(len(order), np.bool_)
    for a in range(n_vectors):
        taken[pivots[a]] = True
    for row in range(len(order)):
        if not taken[row]:
            order[at] = row
            at += 1


@compiled()
def _work(n_vectors, size):  # type: ignore[no-untyped-def]
    """Memory of `_step`: scalars of a product and of an elimination, what vectors have in each
    other's pivots, pivots, their sizes, addresses of the rows of J and of F."""
    return (
        np.empty((_TALL // ROWS, size, ROWS)),
        np.empty((_TALL, ROWS)),
        np.empty((n_vectors // _TALL + 1, _TALL, _TALL)),
        np.empty((_TALL, _TALL)),
        np.zeros(n_vectors + ROWS, np.int64),
        np.empty(n_vectors),
        np.empty(size, np.int64),
        np.empty(n_vectors + ROWS, np.int64),
    )


@compiled(forceinline=True)
def _mix(gates_t, model, first, n_gates, scales, t, s, out, at):  # type: ignore[no-untyped-def]
    """Σ diag(d) U of some gates, transposed, into the columns of ``out`` from ``at`` on."""
    size = scales.shape[3]
    g, h, i, j = first, first + 1, first + 2, first + 3
    for row in range(size):
        if n_gates == 1:
            for column in range(size):
                out[row, at + column] = gates_t[model, g, row, column] * scales[t, s, g, column]
        elif n_gates == 2:
            for column in range(size):
                out[row, at + column] = (
                    gates_t[model, g, row, column] * scales[t, s, g, column]
                    + gates_t[model, h, row, column] * scales[t, s, h, column]
                )
        elif n_gates == 3:
            for column in range(size):
                out[row, at + column] = (
                    gates_t[model, g, row, column] * scales[t, s, g, column]
                    + gates_t[model, h, row, column] * scales[t, s, h, column]
                    + gates_t[model, i, row, column] * scales[t, s, i, column]
                )
        else:
            for column in range(size):
                out[row, at + column] = (
                    gates_t[model, g, row, column] * scales[t, s, g, column]
                    + gates_t[model, h, row, column] * scales[t, s, h, column]
                    + gates_t[model, i, row, column] * scales[t, s, i, column]
                    + gates_t[model, j, row, column] * scales[t, s, j, column]
                )


@compiled(forceinline=True)
def _form(kind, stage, gates_t, model, given, t, s, out, lift):  # type: ignore[no-untyped-def]
    """Jᵀ of system s at step t, from its coefficients ``given (T, S, C, H)``."""
    n_given, size = given.shape[2:]
    if kind == DENSE:
        for i in range(size):
            for j in range(size):
                out[i, j] = given[t, s, i, j]
    elif kind == MIXED:
        n_gates = gates_t.shape[1]
        _mix(gates_t, model, 0, n_gates, given, t, s, out, 0)
        if n_given > n_gates:
            for i in range(size):
                out[i, i] += given[t, s, n_gates, i]
    elif kind == LSTM:
        # u' = diag(o) Uₒ (u + D dc), dc' = A (u + D dc) + f dc.
        _mix(gates_t, model, 3, 1, given, t, s, out, 0)
        _mix(gates_t, model, 0, 3, given, t, s, out, size)
        for i in range(size):
            slope = given[t, s, 5, i]
            for j in range(2 * size):
                out[size + i, j] = slope * out[i, j]
            out[size + i, size + i] += given[t, s, 4, i]
    else:
        for i in range(2 * size):
            for j in range(2 * size):
                out[i, j] = 0.0
        if stage == 0:
            # dh = u + D dc, and f dc.
            for i in range(size):
                out[i, i] = 1.0
                out[size + i, i] = given[t, s, 5, i]
                out[size + i, size + i] = given[t, s, 4, i]
                lift[i], lift[size + i] = 0.0, given[t, s, 6, i]
        else:
            # u' = diag(o) Uₒ dh, dc' = A dh + f dc.
            _mix(gates_t, model, 3, 1, given, t, s, out, 0)
            _mix(gates_t, model, 0, 3, given, t, s, out, size)
            for i in range(size):
                out[size + i, size + i] = 1.0
                lift[i], lift[size + i] = given[t, s, 7, i], 0.0


@compiled()
def carry(  # type: ignore[no-untyped-def]
    kind, gates_t, coefficients, systems, frames, orders, triangular, n_vectors, size, sums
):
    """Carry frames along T steps, renormalised at each; add ln|diag R| to ``sums (S, k)``.

    ``gates_t (M, G, H, H)``, ``coefficients (T, S, C, H)``; of the ``systems`` from the first to
    before the second, ``frames (S, K, W)``, ``orders (S, N)`` and ``sums`` are changed in place.
    ``triangular`` says whether the frames come from a renormalisation.
    """
    n_steps, n_systems = coefficients.shape[:2]
    per_model = n_systems // len(gates_t)
    width = frames.shape[2]
    n_stages = 2 if kind == STAGED else 1
    jacobian_t = zeros(size, width)
    work = _work(n_vectors, size)
    at_rows = work[7]
    lift = np.zeros(size if kind == STAGED else 0)
    growth = np.ones(n_vectors)
    for s in range(systems[0], systems[1]):
        frame, order = frames[s], orders[s]
        for row in range(n_vectors):
            at_rows[row] = np.int64(frame.ctypes.data) + row * width * _BYTES
        ready = triangular
        for t in range(n_steps):
            for stage in range(n_stages):
                model = s // per_model
                _form(kind, stage, gates_t, model, coefficients, t, s, jacobian_t, lift)
                _step(frame, n_vectors, ready, jacobian_t, order, work, sums[s], growth, lift)
                ready = True
        for a in range(n_vectors):
            sums[s, a] += math.log(growth[a])
            growth[a] = 1.0


@compiled()
def add_log_volumes(frames, systems, n_vectors, size, out):  # type: ignore[no-untyped-def]
    """Add ln|diag R| of some frames to ``out (S, k)``: half of ln diag D of F Fᵀ = L D Lᵀ."""
    padded = -(-n_vectors // LANES) * LANES
    height = frames.shape[1]
    # Rows whose starts lie a power of two apart push each other out of the caches.
    width = padded + LANES
    gram, transposed = zeros(height, width), zeros(size, width)
    scratch, pivots, sizes = np.empty((ROWS, ROWS)), np.zeros(height, np.int64), np.ones(height)
    packed = np.zeros((_TALL // ROWS, max(size, height), ROWS))
    at_transposed, at_rows = np.empty(size, np.int64), np.empty(height, np.int64)
    nothing = np.empty(0)
    start, stride = np.int64(gram.ctypes.data), width * _BYTES
    scalars, gap = np.int64(packed.ctypes.data), packed.shape[1] * ROWS * _BYTES
    for i in range(size):
        at_transposed[i] = np.int64(transposed.ctypes.data) + i * stride
    for row in range(height):
        at_rows[row] = start + row * stride
    at_all, at_done = np.int64(at_transposed.ctypes.data), np.int64(at_rows.ctypes.data)
    for s in range(systems[0], systems[1]):
        for first in range(0, size, ROWS):
            for a in range(n_vectors):
                for i in range(first, min(first + ROWS, size)):
                    transposed[i, a] = frames[s, a, i]
        for top in range(0, height, _TALL):
            bottom = min(top + _TALL, height)
            for block in range(top, bottom, ROWS):
                for i in range(size):
                    for row in range(ROWS):
                        packed[(block - top) // ROWS, i, row] = frames[s, block + row, i]
            # By symmetry, what is left of the diagonal is not needed.
            for column in range(top, padded, _WIDE):
                part = (column, min(column + _WIDE, padded))
                for block in range(top, bottom, ROWS):
                    place = start + block * stride
                    at = scalars + (block - top) // ROWS * gap
                    product(place, stride, part, at, at_all, size, False)
            # Nor is it to be solved for what is taken out: that stands in the rows that are done.
            for block in range(top, bottom, ROWS):
                for done in range(top):
                    for row in range(min(ROWS, n_vectors - block)):
                        share = -sizes[done] * gram[done, block + row]
                        packed[(block - top) // ROWS, done, row] = share
            for column in range(top, padded, _WIDE):
                part = (column, min(column + _WIDE, padded))
                for block in range(top, bottom, ROWS):
                    place = start + block * stride
                    at = scalars + (block - top) // ROWS * gap
                    product(place, stride, part, at, at_done, top, True)
            for block in range(top, bottom, ROWS):
                for done in range(top, block):
                    for row in range(min(ROWS, n_vectors - block)):
                        packed[0, done - top, row] = -sizes[done] * gram[done, block + row]
                product(
                    start + block * stride,
                    stride,
                    (top, padded),
                    scalars,
                    at_done + top * _BYTES,
                    block - top,
                    True,
                )
                _renormalize_block(
                    gram,
                    (0, padded),
                    block,
                    n_vectors,
                    n_vectors,
                    pivots,
                    True,
                    at_rows,
                    scratch,
                    sizes,
                    nothing,
                    nothing,
                )
        for a in range(n_vectors):
            out[s, a] += 0.5 * math.log(sizes[a])
