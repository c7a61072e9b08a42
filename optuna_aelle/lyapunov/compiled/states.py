"""The state of `nn.RNN`, `nn.GRU` and `nn.LSTM` along its inputs, in compiled code.

Notation as in `maps.base`: T steps, M models of B sequences each, S = M B, H hidden units. What is
computed is what `RecurrentMap.step` computes there, to rounding.
"""

from __future__ import annotations

import math

import numpy as np

from optuna_aelle.lyapunov.compiled.basics import INNER
from optuna_aelle.lyapunov.compiled.basics import LEAST
from optuna_aelle.lyapunov.compiled.basics import MOST
from optuna_aelle.lyapunov.compiled.basics import ROWS
from optuna_aelle.lyapunov.compiled.basics import compiled
from optuna_aelle.lyapunov.compiled.basics import product
from optuna_aelle.lyapunov.compiled.tiles import bits_of
from optuna_aelle.lyapunov.compiled.tiles import from_bits

_BYTES = 8
# From this many sequences on, a tile that is not full is still faster than one after the other.
_FEW = 3
_LOG2_E = 1.0 / math.log(2.0)
# ln 2 in two parts, the first with zeros enough for its multiples to be exact (Cody and Waite).
_LN2_HIGH = 0.693145751953125
_LN2_LOW = 1.42860682030941723212e-6
# Added to a number below 2^51, it leaves the nearest whole number in the last bits.
_TO_WHOLE = 6755399441055744.0
# e^x from here on down is taken for 0.
_LEAST_EXPONENT = -708.0


@compiled(**INNER)
def _expm1(x):  # type: ignore[no-untyped-def]
    """e^x − 1 and e^x for x <= 0, without branches, so that loops over it become vector code."""
    vanishes = x < _LEAST_EXPONENT
    x = max(x, _LEAST_EXPONENT)
    shifted = x * _LOG2_E + _TO_WHOLE
    n = shifted - _TO_WHOLE
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    # Taylor's series of (e^r − 1 − r) / r² on |r| <= ln 2 / 2, its remainder below 1e-17.
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r * r + r
    scale = from_bits((bits_of(shifted) + 1023) << 52)
    return scale * p + (scale - 1.0), 0.0 if vanishes else scale * p + scale


@compiled(**INNER)
def _tanh(y):  # type: ignore[no-untyped-def]
    """tanh y and its derivative."""
    less, decay = _expm1(-2.0 * abs(y))
    both = 1.0 + decay
    return math.copysign(less / both, y), 4.0 * decay / (both * both)


@compiled(**INNER)
def _sigmoid(y):  # type: ignore[no-untyped-def]
    """σ(y) and its derivative."""
    _, decay = _expm1(-abs(y))
    both = 1.0 + decay
    return (1.0 if y >= 0.0 else decay) / both, decay / (both * both)


@compiled()
def _recurrent(h, weight_t, out, scratch, at_weight):  # type: ignore[no-untyped-def]
    """``out (B, G)`` = ``h (B, H)`` times ``weight_t (H, G)``."""
    batch, size = h.shape
    width = weight_t.shape[1]
    n = out.shape[1]
    if batch < _FEW:
        for s in range(batch):
            for j in range(n):
                out[s, j] = 0.0
            for i in range(0, size - 3, 4):
                a, b, c, d = h[s, i], h[s, i + 1], h[s, i + 2], h[s, i + 3]
                for j in range(n):
                    out[s, j] += (
                        a * weight_t[i, j]
                        + b * weight_t[i + 1, j]
                        + c * weight_t[i + 2, j]
                        + d * weight_t[i + 3, j]
                    )
            for i in range(size - size % 4, size):
                for j in range(n):
                    out[s, j] += h[s, i] * weight_t[i, j]
        return
    packed, rows = scratch
    start, stride = np.int64(weight_t.ctypes.data), width * _BYTES
    for i in range(size):
        at_weight[i] = start + i * stride
    for first in range(0, batch, ROWS):
        n_rows = min(ROWS, batch - first)
        for i in range(size):
            for row in range(n_rows):
                packed[i, row] = h[first + row, i]
        product(
            np.int64(rows.ctypes.data),
            stride,
            (0, width),
            np.int64(packed.ctypes.data),
            np.int64(at_weight.ctypes.data),
            size,
            False,
        )
        for row in range(n_rows):
            for j in range(n):
                out[first + row, j] = rows[row, j]


@compiled(**INNER)
def _scratch(size, width):  # type: ignore[no-untyped-def]
    return (np.zeros((size, ROWS)), np.empty((ROWS, width))), np.empty(size, np.int64)


@compiled()
def sum_of_logs(values, out):  # type: ignore[no-untyped-def]
    """Σ ln|v| of each row of ``values (R, H)`` to ``out (R,)``; returns the smallest |v|."""
    smallest = np.inf
    for row in range(len(values)):
        total, product = 0.0, 1.0
        for j in range(values.shape[1]):
            size = abs(values[row, j])
            smallest = min(smallest, size)
            # Few logarithms of products instead of many.
            if not LEAST < size < MOST:
                total += math.log(size)
            else:
                product *= size
                if not LEAST < product < MOST:
                    total += math.log(product)
                    product = 1.0
        out[row] = total + math.log(product)
    return smallest


@compiled()
def run_vanilla(weights_t, drive, relu, h, y, slope):  # type: ignore[no-untyped-def]
    """``h (T + 1, S, H)``, whose first is given, pre-activations ``y`` and φ' ``(T, S, H)``."""
    n_steps, n_systems, size = y.shape
    batch = n_systems // len(weights_t)
    scratch, at_weight = _scratch(size, weights_t.shape[2])
    for m in range(len(weights_t)):
        first, last = m * batch, (m + 1) * batch
        for t in range(n_steps):
            _recurrent(h[t, first:last], weights_t[m], y[t, first:last], scratch, at_weight)
            for s in range(first, last):
                for j in range(size):
                    y[t, s, j] += drive[t, s, j]
                if relu:
                    for j in range(size):
                        h[t + 1, s, j] = max(y[t, s, j], 0.0)
                        slope[t, s, j] = 1.0 if y[t, s, j] > 0.0 else 0.0
                else:
                    for j in range(size):
                        h[t + 1, s, j], slope[t, s, j] = _tanh(y[t, s, j])


@compiled()
def run_gru(  # type: ignore[no-untyped-def]
    weights_t, bias, drive, h, y_rz, y_n, q, d_r, d_z, d_n, keep
):
    """As `run_vanilla`: ``y_rz (T, S, 2H)``, ``y_n`` and ``q = Uₙ h + bₙ (T, S, H)``.

    And, ``(T, S, H)`` each, the coefficients of the Jacobian that `GRUMap.linearize` returns.
    """
    n_steps, n_systems, size = y_n.shape
    batch = n_systems // len(weights_t)
    scratch, at_weight = _scratch(size, weights_t.shape[2])
    u = np.empty((batch, 3 * size))
    for m in range(len(weights_t)):
        first, last = m * batch, (m + 1) * batch
        for t in range(n_steps):
            _recurrent(h[t, first:last], weights_t[m], u, scratch, at_weight)
            for s in range(first, last):
                for j in range(2 * size):
                    y_rz[t, s, j] = drive[t, s, j] + (u[s - first, j] + bias[m, j])
                for j in range(size):
                    q[t, s, j] = u[s - first, 2 * size + j] + bias[m, 2 * size + j]
                    r, slope = _sigmoid(y_rz[t, s, j])
                    y_n[t, s, j] = drive[t, s, 2 * size + j] + r * q[t, s, j]
                    d_n[t, s, j], d_r[t, s, j] = r, q[t, s, j] * slope
                for j in range(size):
                    keep[t, s, j], d_z[t, s, j] = _sigmoid(y_rz[t, s, size + j])
                for j in range(size):
                    # 1 − z without cancellation.
                    renew, _ = _sigmoid(-y_rz[t, s, size + j])
                    n, slope = _tanh(y_n[t, s, j])
                    apart = h[t, s, j] - n
                    h[t + 1, s, j] = n + keep[t, s, j] * apart
                    d_z[t, s, j] *= apart
                    d_n[t, s, j] *= renew * slope
                    d_r[t, s, j] *= renew * slope


@compiled()
def run_lstm(  # type: ignore[no-untyped-def]
    weights_t, drive, h, c, o, y, d_i, d_f, d_g, d_o, forget, slope
):
    """As `run_vanilla`: hidden and cell state, output gate, ``y (T, S, 4H)``; no projection.

    And, ``(T, S, H)`` each, what `LSTMMap` makes Jacobians of; D = o sech² c of the first and all
    following states ``slope (T + 1, S, H)``.
    """
    n_steps, n_systems, width = y.shape
    size = width // 4
    batch = n_systems // len(weights_t)
    scratch, at_weight = _scratch(size, weights_t.shape[2])
    for s in range(n_systems):
        for j in range(size):
            slope[0, s, j] = o[0, s, j] * _tanh(c[0, s, j])[1]
    for m in range(len(weights_t)):
        first, last = m * batch, (m + 1) * batch
        for t in range(n_steps):
            _recurrent(h[t, first:last], weights_t[m], y[t, first:last], scratch, at_weight)
            for s in range(first, last):
                for j in range(width):
                    y[t, s, j] += drive[t, s, j]
                for j in range(size):
                    i, i_slope = _sigmoid(y[t, s, j])
                    g, g_slope = _tanh(y[t, s, 2 * size + j])
                    c[t + 1, s, j] = i * g
                    d_i[t, s, j], d_g[t, s, j] = g * i_slope, i * g_slope
                for j in range(size):
                    f, f_slope = _sigmoid(y[t, s, size + j])
                    c[t + 1, s, j] += f * c[t, s, j]
                    forget[t, s, j], d_f[t, s, j] = f, c[t, s, j] * f_slope
                for j in range(size):
                    o[t + 1, s, j], d_o[t, s, j] = _sigmoid(y[t, s, 3 * size + j])
                for j in range(size):
                    squashed, c_slope = _tanh(c[t + 1, s, j])
                    h[t + 1, s, j] = o[t + 1, s, j] * squashed
                    d_o[t, s, j] *= squashed
                    slope[t + 1, s, j] = o[t + 1, s, j] * c_slope
