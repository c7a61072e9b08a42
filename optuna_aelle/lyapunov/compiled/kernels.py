"""The step loop in compiled code: Jacobian, product, triangular renormalisation, logarithms.

Notation as in `maps.base`: T steps, S systems, k tangent vectors of size N, H hidden units, G
gates. A frame is kept in memory as ``(S, K, W)`` with K and W the next multiples of a tile and of
a vector; what is beyond k and N is zero.

After a renormalisation Z = (P L) U the tangent vector a has a one in its own row p_a, its *pivot*,
and zeros in the pivots of the vectors before it. In the order of the pivots it is a triangle: half
of the next product is known to be zero and is left out.
"""

from __future__ import annotations

import math

import numpy as np

from optuna_aelle.lyapunov.compiled.basics import BYTES
from optuna_aelle.lyapunov.compiled.basics import INNER
from optuna_aelle.lyapunov.compiled.basics import LEAST
from optuna_aelle.lyapunov.compiled.basics import MOST
from optuna_aelle.lyapunov.compiled.basics import ROWS
from optuna_aelle.lyapunov.compiled.basics import TALL
from optuna_aelle.lyapunov.compiled.basics import WIDE
from optuna_aelle.lyapunov.compiled.basics import compiled
from optuna_aelle.lyapunov.compiled.basics import product
from optuna_aelle.lyapunov.compiled.basics import zeros
from optuna_aelle.lyapunov.compiled.elimination import note_triangle
from optuna_aelle.lyapunov.compiled.elimination import renormalize_block
from optuna_aelle.lyapunov.compiled.elimination import take_out
from optuna_aelle.lyapunov.compiled.jacobians import STAGED
from optuna_aelle.lyapunov.compiled.jacobians import form
from optuna_aelle.lyapunov.compiled.tiles import LANES


@compiled(**INNER)
def grow(sums, growth, sizes, n_vectors):  # type: ignore[no-untyped-def]
    """Note the sizes of one step's pivots: ln|pivot| is summed, in as few logarithms as can be."""
    n_outside = 0
    for a in range(n_vectors):
        product = growth[a] * sizes[a]
        outside = not (LEAST < sizes[a] < MOST) or not (LEAST < product < MOST)
        n_outside += outside
    if n_outside:
        for a in range(n_vectors):
            sums[a] += math.log(growth[a])
            sums[a] += math.log(sizes[a])
            growth[a] = 1.0
    else:
        for a in range(n_vectors):
            growth[a] *= sizes[a]


@compiled(**INNER)
def _step(  # type: ignore[no-untyped-def]
    frame, n_vectors, triangular, jacobian_t, order, work, sums, growth, lift
):
    """F <- P L of J F for one system; ``order`` becomes the pivots."""
    size, height = jacobian_t.shape[0], frame.shape[0]
    columns = (0, -(-size // LANES) * LANES)
    packed, scratch, triangles, triangle, pivots, sizes, at_jacobian, at_rows = work
    start, stride = np.int64(frame.ctypes.data), frame.shape[1] * BYTES
    for i in range(size):
        at_jacobian[i] = np.int64(jacobian_t.ctypes.data) + order[i] * stride
    at_scalars, at_first = np.int64(packed.ctypes.data), np.int64(at_jacobian.ctypes.data)
    for top in range(0, height, TALL):
        bottom = min(top + TALL, height)
        for block in range(top, bottom, ROWS):
            first = min(block, size) if triangular else 0
            place = (block - top) // ROWS
            for i in range(first, size):
                for row in range(ROWS):
                    packed[place, i - first, row] = frame[block + row, order[i]]
        for column in range(0, columns[1], WIDE):
            part = (column, min(column + WIDE, columns[1]))
            for block in range(top, bottom, ROWS):
                first = min(block, size) if triangular else 0
                product(
                    start + block * stride,
                    stride,
                    part,
                    at_scalars + (block - top) * size * BYTES,
                    at_first + first * BYTES,
                    size - first,
                    False,
                )
        for done in range(0, top, TALL):
            of_done = triangles[done // TALL]
            for block in range(top, bottom, ROWS):
                take_out(frame, columns, done, TALL, block, pivots, of_done, at_rows, scratch)
        for block in range(top, bottom, ROWS):
            if block > top:
                n_done = block - top
                note_triangle(frame, top, n_done, pivots, triangle)
                take_out(frame, columns, top, n_done, block, pivots, triangle, at_rows, scratch)
            renormalize_block(
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
            note_triangle(frame, top, TALL, pivots, triangles[top // TALL])
    grow(sums, growth, sizes, n_vectors)
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
        np.empty((TALL // ROWS, size, ROWS)),
        np.empty((TALL, ROWS)),
        np.empty((n_vectors // TALL + 1, TALL, TALL)),
        np.empty((TALL, TALL)),
        np.zeros(n_vectors + ROWS, np.int64),
        np.empty(n_vectors),
        np.empty(size, np.int64),
        np.empty(n_vectors + ROWS, np.int64),
    )


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
            at_rows[row] = np.int64(frame.ctypes.data) + row * width * BYTES
        ready = triangular
        for t in range(n_steps):
            for stage in range(n_stages):
                model = s // per_model
                form(kind, stage, gates_t, model, coefficients, t, s, jacobian_t, lift)
                _step(frame, n_vectors, ready, jacobian_t, order, work, sums[s], growth, lift)
                ready = True
        for a in range(n_vectors):
            sums[s, a] += math.log(growth[a])
            growth[a] = 1.0


@compiled()
def add_log_volumes(frames, systems, n_vectors, size, out):  # type: ignore[no-untyped-def]
    """Add ln|diag R| of some frames to ``out (S, k)``: half of ln diag D of F Fᵀ = L D Lᵀ.

    Returns the largest ratio of a squared length to what of it is new, which the rounding error
    is to be multiplied by; NaN if a frame is lost.
    """
    worst = 1.0
    padded = -(-n_vectors // LANES) * LANES
    height = frames.shape[1]
    # Rows whose starts lie a power of two apart push each other out of the caches.
    width = padded + LANES
    gram, transposed = zeros(height, width), zeros(size, width)
    scratch, pivots, sizes = np.empty((ROWS, ROWS)), np.zeros(height, np.int64), np.ones(height)
    packed = np.zeros((TALL // ROWS, max(size, height), ROWS))
    at_transposed, at_rows = np.empty(size, np.int64), np.empty(height, np.int64)
    nothing = np.empty(0)
    start, stride = np.int64(gram.ctypes.data), width * BYTES
    scalars, gap = np.int64(packed.ctypes.data), packed.shape[1] * ROWS * BYTES
    for i in range(size):
        at_transposed[i] = np.int64(transposed.ctypes.data) + i * stride
    for row in range(height):
        at_rows[row] = start + row * stride
    for s in range(systems[0], systems[1]):
        # Here, since an array is freed after its last use, whoever has its address.
        at_all, at_done = np.int64(at_transposed.ctypes.data), np.int64(at_rows.ctypes.data)
        for first in range(0, size, ROWS):
            for a in range(n_vectors):
                for i in range(first, min(first + ROWS, size)):
                    transposed[i, a] = frames[s, a, i]
        for top in range(0, height, TALL):
            bottom = min(top + TALL, height)
            for block in range(top, bottom, ROWS):
                for i in range(size):
                    for row in range(ROWS):
                        packed[(block - top) // ROWS, i, row] = frames[s, block + row, i]
            # By symmetry, what is left of the diagonal is not needed.
            for column in range(top, padded, WIDE):
                part = (column, min(column + WIDE, padded))
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
            for column in range(top, padded, WIDE):
                part = (column, min(column + WIDE, padded))
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
                    at_done + top * BYTES,
                    block - top,
                    True,
                )
                renormalize_block(
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
            square = 0.0
            for i in range(size):
                square += frames[s, a, i] * frames[s, a, i]
            ratio = square / sizes[a]
            # Not the larger: that of a number and NaN is either.
            worst = worst if ratio <= worst else ratio
    return worst
