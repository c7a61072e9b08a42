"""The innermost operation of the compiled step loop, written out in vector registers.

A *tile* is R rows by a few vectors of the result of a matrix product, which stays in registers
while all n terms are added up: each loaded vector then serves R multiplications. LLVM does not
find this by itself in plain loops, so the tile is given to it as vector instructions; widths that
a processor lacks are split by it.

Everything is float64. Addresses are in bytes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTES = 8
_INDEX = ir.IntType(64)
_LANE = ir.IntType(32)
_DOUBLE = ir.DoubleType()


def _lanes() -> int:
    """Doubles in the widest vector of this processor, at least 4."""
    features = llvmlite.binding.get_host_cpu_features()
    return 8 if features.get("avx512f") else 4


LANES = _lanes()
_VECTOR = ir.VectorType(_DOUBLE, LANES)


def make_tile(n_rows: int, n_vectors: int) -> Any:
    """A function for compiled code: Z += A B, or Z = A B, on one tile.

    Its arguments: where Z starts; bytes from one row of Z to the next; where A starts, as n times
    R numbers without gaps; where the n addresses of the rows of B are; n; at which byte of these
    rows the tile starts; whether Z is added to.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        typing: Any, z: Any, stride: Any, a: Any, rows: Any, n: Any, shift: Any, add: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            z, stride, a, rows, n, shift, add = arguments
            places = [
                [
                    _at(builder, z, builder.mul(stride, _whole(row)), vector * LANES * _BYTES)
                    for vector in range(n_vectors)
                ]
                for row in range(n_rows)
            ]
            sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in of_row] for of_row in places]
            with builder.if_else(builder.trunc(add, ir.IntType(1))) as (adding, setting):
                with adding:
                    for of_row, at_row in zip(sums, places, strict=True):
                        for total, place in zip(of_row, at_row, strict=True):
                            builder.store(_load(builder, place, _VECTOR), total)
                with setting:
                    for of_row in sums:
                        for total in of_row:
                            builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
            with cgutils.for_range(builder, n) as loop:
                row_of_b = _load(
                    builder, _at(builder, rows, builder.mul(loop.index, _whole(_BYTES))), _INDEX
                )
                vectors = [
                    _load(builder, _at(builder, row_of_b, shift, v * LANES * _BYTES), _VECTOR)
                    for v in range(n_vectors)
                ]
                column = builder.mul(loop.index, _whole(n_rows * _BYTES))
                for i, of_row in enumerate(sums):
                    factor = _load(builder, _at(builder, a, column, i * _BYTES), _DOUBLE)
                    spread = _spread(builder, factor)
                    for vector, total in zip(vectors, of_row, strict=True):
                        found = _fma(builder, spread, vector, builder.load(total))
                        builder.store(found, total)
            for of_row, at_row in zip(sums, places, strict=True):
                for total, place in zip(of_row, at_row, strict=True):
                    pointer = builder.inttoptr(place, _VECTOR.as_pointer())
                    builder.store(builder.load(total), pointer).align = _BYTES
            return context.get_dummy_value()

        number = types.int64
        return types.void(*[number] * 6, types.boolean), emit

    return tile


def make_solve(n_rows: int) -> Any:
    """A function for compiled code: X <- X (I + U)⁻¹ for R rows at once, in place.

    Its arguments: where the n columns of X start, each of R numbers without gaps; where the n
    rows of U start, whose entries right of the diagonal are read; bytes from one to the next; n.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def solve(typing: Any, x: Any, triangle: Any, stride: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, triangle, stride, n = arguments
            pieces = range(0, n_rows * _BYTES, LANES * _BYTES)
            with cgutils.for_range(builder, n) as outer:
                at_column = _at(builder, x, builder.mul(outer.index, _whole(n_rows * _BYTES)))
                done = [
                    builder.fneg(_load(builder, _at(builder, at_column, _whole(piece)), _VECTOR))
                    for piece in pieces
                ]
                at_row = _at(builder, triangle, builder.mul(outer.index, stride))
                following = builder.add(outer.index, _whole(1))
                with cgutils.for_range_slice(builder, following, n, _whole(1)) as (i, _):
                    share = _load(
                        builder, _at(builder, at_row, builder.mul(i, _whole(_BYTES))), _DOUBLE
                    )
                    spread = _spread(builder, share)
                    at_other = _at(builder, x, builder.mul(i, _whole(n_rows * _BYTES)))
                    for piece, vector in zip(pieces, done, strict=True):
                        place = _at(builder, at_other, _whole(piece))
                        left = _fma(builder, spread, vector, _load(builder, place, _VECTOR))
                        pointer = builder.inttoptr(place, _VECTOR.as_pointer())
                        builder.store(left, pointer).align = _BYTES
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return solve


@intrinsic  # type: ignore[untyped-decorator]
def largest(typing: Any, start: Any, n_vectors: Any) -> Any:
    """The position of the largest absolute value of ``n_vectors`` vectors from ``start`` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, n_vectors = arguments
        positions = ir.VectorType(_INDEX, LANES)
        best = cgutils.alloca_once(builder, _VECTOR)
        found = cgutils.alloca_once(builder, positions)
        builder.store(ir.Constant(_VECTOR, [-1.0] * LANES), best)
        builder.store(ir.Constant(positions, [0] * LANES), found)
        with cgutils.for_range(builder, n_vectors) as loop:
            place = _at(builder, start, builder.mul(loop.index, _whole(LANES * _BYTES)))
            sizes = builder.call(_named(builder, "fabs", 1), [_load(builder, place, _VECTOR)])
            here = _spread(builder, loop.index, positions)
            size, place = _larger(builder, sizes, here, builder.load(best), builder.load(found))
            builder.store(size, best)
            builder.store(place, found)
        sizes, places = builder.load(best), builder.load(found)
        lanes = ir.Constant(positions, list(range(LANES)))
        places = builder.add(builder.mul(places, ir.Constant(positions, [LANES] * LANES)), lanes)
        half = LANES // 2
        while half > 1:
            lower, upper = list(range(half)), list(range(half, 2 * half))
            sizes, places = _larger(
                builder,
                *(
                    _part(builder, vector, lanes)
                    for lanes in (upper, lower)
                    for vector in (sizes, places)
                ),
            )
            half //= 2
        ends = [
            builder.extract_element(vector, ir.Constant(_LANE, lane))
            for lane in (1, 0)
            for vector in (sizes, places)
        ]
        _, position = _larger(builder, *ends)
        return position

    return types.int64(types.int64, types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def bits_of(typing: Any, number: Any) -> Any:
    """The 64 bits of a float64 as a whole number."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _INDEX)

    return types.int64(types.float64), emit


@intrinsic  # type: ignore[untyped-decorator]
def from_bits(typing: Any, bits: Any) -> Any:
    """The float64 of these 64 bits."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _DOUBLE)

    return types.float64(types.int64), emit


def _part(builder: Any, vector: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)
    return builder.shuffle_vector(vector, vector, mask)


def _larger(builder: Any, size: Any, place: Any, or_size: Any, or_place: Any) -> tuple[Any, Any]:
    """The larger size with its place; of equal ones the second."""
    larger = builder.fcmp_ordered(">", size, or_size)
    return builder.select(larger, size, or_size), builder.select(larger, place, or_place)


def _whole(number: int) -> Any:
    return ir.Constant(_INDEX, number)


def _at(builder: Any, start: Any, offset: Any, more: int = 0) -> Any:
    return builder.add(builder.add(start, offset), _whole(more))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = _BYTES
    return loaded


def _spread(builder: Any, scalar: Any, kind: Any = _VECTOR) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(_LANE, 0))
    zeros = ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES)
    return builder.shuffle_vector(single, undefined, zeros)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.call(_named(builder, "fma", 3), [a, b, c])


def _named(builder: Any, name: str, n_arguments: int) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * n_arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
