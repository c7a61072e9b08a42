"""The step loop for small states: one system to each lane of a vector.

A vector of a small frame has fewer numbers than there are in a few vectors of the processor, and
each step of its elimination waits for the one before. Side by side, systems keep it busy. Notation
as in `kernels`; what is there a number is here one of each system.
"""

from __future__ import annotations

import math

import numpy as np

from optuna_aelle.lyapunov.compiled.basics import BYTES
from optuna_aelle.lyapunov.compiled.basics import INNER
from optuna_aelle.lyapunov.compiled.basics import compiled
from optuna_aelle.lyapunov.compiled.basics import zeros
from optuna_aelle.lyapunov.compiled.elimination import free_row
from optuna_aelle.lyapunov.compiled.kernels import grow
from optuna_aelle.lyapunov.compiled.tiles import LANES
from optuna_aelle.lyapunov.compiled.tiles import add_products
from optuna_aelle.lyapunov.compiled.tiles import divide
from optuna_aelle.lyapunov.compiled.tiles import largest_of_lanes
from optuna_aelle.lyapunov.compiled.tiles import make_combination
from optuna_aelle.lyapunov.compiled.tiles import take_out_of_lanes

# Columns of a product that are added up side by side.
_COLUMNS = 4
_VECTOR_BYTES = LANES * BYTES
_combination = make_combination(_COLUMNS)


@compiled(**INNER)
def _renormalize(frame, width, n_vectors, size, places, pivots, sizes, taken):  # type: ignore[no-untyped-def]
    """Z = (P L) U in each lane of ``frame (k W, LANES)``.

    To ``places``, ``pivots`` and ``sizes (k, LANES)`` go where the pivot of each vector is, its
    value and its size; ``taken (k,)`` is memory.
    """
    start, row_bytes = np.int64(frame.ctypes.data), width * _VECTOR_BYTES
    at_places, at_pivots = np.int64(places.ctypes.data), np.int64(pivots.ctypes.data)
    for a in range(n_vectors):
        at_a = start + a * row_bytes
        largest_of_lanes(at_a, size, at_pivots + a * _VECTOR_BYTES, at_places + a * _VECTOR_BYTES)
        n_dead = 0
        for lane in range(LANES):
            sizes[a, lane] = abs(pivots[a, lane])
            n_dead += pivots[a, lane] == 0.0
        for lane in range(LANES if n_dead else 0):
            if pivots[a, lane] == 0.0:
                for b in range(a):
                    taken[b] = places[b, lane]
                places[a, lane] = free_row(taken, a, size)
                pivots[a, lane] = frame[a * width + places[a, lane], lane] = 1.0
        divide(at_a, at_pivots + a * _VECTOR_BYTES, width)
        for b in range(a + 1, n_vectors):
            take_out_of_lanes(start + b * row_bytes, at_a, at_places + a * _VECTOR_BYTES, width)


@compiled()
def carry_lanes(gates_t, coefficients, systems, frames, n_vectors, size, sums):  # type: ignore[no-untyped-def]
    """As `kernels.carry` for small states whose Jacobians are mixed of gates.

    ``gates_t (M, G, N, N)``, ``coefficients (T, S, C, N)``; the frames need not be triangular, and
    are not known to be afterwards.
    """
    n_steps, n_systems, n_given = coefficients.shape[:3]
    n_gates, per_model = gates_t.shape[1], n_systems // len(gates_t)
    width = -(-size // _COLUMNS) * _COLUMNS
    frame, carried = zeros(n_vectors * width, LANES), zeros(n_vectors * width, LANES)
    jacobian_t, scales = zeros(size * width, LANES), zeros(n_given * width, LANES)
    gates = zeros(n_gates * size * width, LANES)
    growth, sizes = np.ones((n_vectors, LANES)), np.empty((n_vectors, LANES))
    added, pivots = np.zeros((n_vectors, LANES)), zeros(n_vectors, LANES)
    places, taken = np.zeros((n_vectors, LANES), np.int64), np.zeros(n_vectors, np.int64)
    row_bytes = width * _VECTOR_BYTES
    for first in range(systems[0], systems[1], LANES):
        n_lanes = min(LANES, systems[1] - first)
        for lane in range(LANES):
            # Lanes to spare do what another one does.
            s = first + min(lane, n_lanes - 1)
            for a in range(n_vectors):
                for i in range(size):
                    frame[a * width + i, lane] = frames[s, a, i]
            for g in range(n_gates):
                for i in range(size):
                    for j in range(size):
                        row = (g * size + i) * width
                        gates[row + j, lane] = gates_t[s // per_model, g, i, j]
        added[:], growth[:] = 0.0, 1.0
        for t in range(n_steps):
            for lane in range(LANES):
                s = first + min(lane, n_lanes - 1)
                for c in range(n_given):
                    for j in range(size):
                        scales[c * width + j, lane] = coefficients[t, s, c, j]
            jacobian_t[:] = 0.0
            at_jacobian, at_scales = np.int64(jacobian_t.ctypes.data), np.int64(scales.ctypes.data)
            at_gates = np.int64(gates.ctypes.data)
            for i in range(size):
                for g in range(n_gates):
                    add_products(
                        at_jacobian + i * row_bytes,
                        at_gates + (g * size + i) * row_bytes,
                        at_scales + g * row_bytes,
                        width,
                    )
                for lane in range(LANES if n_given > n_gates else 0):
                    jacobian_t[i * width + i, lane] += scales[n_gates * width + i, lane]
            at_frame, at_carried = np.int64(frame.ctypes.data), np.int64(carried.ctypes.data)
            for a in range(n_vectors):
                for column in range(0, width, _COLUMNS):
                    _combination(
                        at_carried + a * row_bytes + column * _VECTOR_BYTES,
                        at_frame + a * row_bytes,
                        at_jacobian + column * _VECTOR_BYTES,
                        row_bytes,
                        size,
                    )
            _renormalize(carried, width, n_vectors, size, places, pivots, sizes, taken)
            grow(added.reshape(-1), growth.reshape(-1), sizes.reshape(-1), n_vectors * LANES)
            frame, carried = carried, frame
        for lane in range(n_lanes):
            s = first + lane
            for a in range(n_vectors):
                sums[s, a] += added[a, lane] + math.log(growth[a, lane])
                for i in range(size):
                    frames[s, a, i] = frame[a * width + i, lane]
