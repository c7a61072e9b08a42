"""Jᵀ of one system at one step, formed of its coefficients.

Notation as in `maps.base`: T steps, S systems, M models, C coefficients a unit, H hidden units.
"""

from __future__ import annotations

from optuna_aelle.lyapunov.compiled.basics import INNER
from optuna_aelle.lyapunov.compiled.basics import compiled

# How Jacobians are given: as gates to be scaled and summed, as those of an LSTM's (h, c), the same
# in two stages, or whole.
MIXED, LSTM, STAGED, DENSE = 0, 1, 2, 3


@compiled(**INNER)
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


@compiled(**INNER)
def form(kind, stage, gates_t, model, given, t, s, out, lift):  # type: ignore[no-untyped-def]
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
