"""What all compiled functions are made with: the compiler, and products of rows with a matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from optuna_aelle.lyapunov.compiled.tiles import LANES
from optuna_aelle.lyapunov.compiled.tiles import make_tile

# Rows of a tile: tangent vectors that are worked on together.
ROWS = 8
# Vectors that are worked on side by side: what leaves the first caches is read once for them.
TALL = 4 * ROWS
BYTES = 8
WIDE = 2 * LANES
# Numbers whose logarithms are summed are multiplied up while the product is far from the limits of
# float64.
LEAST, MOST = 1e-100, 1e100
# Bytes of a line of the cache.
_LINE = 64
_wide_tile = make_tile(ROWS, 2)
_tile = make_tile(ROWS, 1)
# Options of functions that are called by compiled ones alone, and become part of them.
INNER = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# What the machine code is made of.
_VERSION = hashlib.sha1(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))),
    usedforsecurity=False,
).hexdigest()[:12]


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
    memory = np.zeros(n_rows * width + _LINE // BYTES)
    first = (-np.int64(memory.ctypes.data)) % _LINE // BYTES
    return memory[first : first + n_rows * width].reshape(n_rows, width)


@compiled(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def product(z, stride, columns, a, rows, n, add):  # type: ignore[no-untyped-def]
    """Z = A B, or Z += A B, on ``ROWS`` rows of Z, from the first of ``columns`` to the second."""
    column, n_columns = columns
    while column + WIDE <= n_columns:
        shift = column * BYTES
        _wide_tile(z + shift, stride, a, rows, n, shift, add)
        column += WIDE
    if column < n_columns:
        shift = column * BYTES
        _tile(z + shift, stride, a, rows, n, shift, add)
