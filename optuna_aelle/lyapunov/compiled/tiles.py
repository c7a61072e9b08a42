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
_POSITIONS = ir.VectorType(_INDEX, LANES)


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
                    _store(builder, builder.load(total), place)
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
                        _store(builder, left, place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return solve


@intrinsic  # type: ignore[untyped-decorator]
def largest(typing: Any, start: Any, n_vectors: Any) -> Any:
    """The position of the largest absolute value of ``n_vectors`` vectors from ``start`` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, n_vectors = arguments
        best = cgutils.alloca_once(builder, _VECTOR)
        found = cgutils.alloca_once(builder, _POSITIONS)
        builder.store(ir.Constant(_VECTOR, [-1.0] * LANES), best)
        builder.store(ir.Constant(_POSITIONS, [0] * LANES), found)
        with cgutils.for_range(builder, n_vectors) as loop:
            place = _at(builder, start, builder.mul(loop.index, _whole(LANES * _BYTES)))
            sizes = builder.call(_named(builder, "fabs", 1), [_load(builder, place, _VECTOR)])
            here = _spread(builder, loop.index, _POSITIONS)
            size, place = _larger(builder, sizes, here, builder.load(best), builder.load(found))
            builder.store(size, best)
            builder.store(place, found)
        sizes, places = builder.load(best), builder.load(found)
        lanes = ir.Constant(_POSITIONS, list(range(LANES)))
        places = builder.add(builder.mul(places, ir.Constant(_POSITIONS, [LANES] * LANES)), lanes)
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


def make_combination(n_columns: int) -> Any:
    """A function for compiled code: Σᵢ aᵢ B[i], lane by lane, for rows of ``n_columns`` vectors.

    Its arguments: where the result goes; where the n vectors a start; where the first row of B
    starts; bytes from one row to the next; n.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def combination(typing: Any, out: Any, a: Any, b: Any, stride: Any, n: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out, a, b, stride, n = arguments
            sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(n_columns)]
            for total in sums:
                builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
            with cgutils.for_range(builder, n) as loop:
                factor = _load(builder, _vector_at(builder, a, loop.index), _VECTOR)
                at_row = _at(builder, b, builder.mul(loop.index, stride))
                for column, total in enumerate(sums):
                    other = _load(builder, _vector_at(builder, at_row, _whole(column)), _VECTOR)
                    builder.store(_fma(builder, factor, other, builder.load(total)), total)
            for column, total in enumerate(sums):
                _store(builder, builder.load(total), _vector_at(builder, out, _whole(column)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), emit

    return combination


@intrinsic  # type: ignore[untyped-decorator]
def add_products(typing: Any, out: Any, a: Any, b: Any, n: Any) -> Any:
    """``out[i] += a[i] b[i]`` for n vectors each."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, a, b, n = arguments
        with cgutils.for_range(builder, n) as loop:
            of_a, of_b, total = (
                _load(builder, _vector_at(builder, start, loop.index), _VECTOR)
                for start in (a, b, out)
            )
            place = _vector_at(builder, out, loop.index)
            _store(builder, _fma(builder, of_a, of_b, total), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@intrinsic  # type: ignore[untyped-decorator]
def take_out_of_lanes(typing: Any, out: Any, a: Any, places: Any, n: Any) -> Any:
    """``out[i] -= f a[i]`` for n vectors, where f is in each lane what ``out`` has at its place.

    ``a`` has a one there, and ``out`` has a zero there afterwards, whatever rounding does.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, a, places, n = arguments
        at = _load(builder, places, _POSITIONS)
        minus = cgutils.alloca_once(builder, _VECTOR)
        builder.store(ir.Constant(_VECTOR, [0.0] * LANES), minus)
        with cgutils.for_range(builder, n) as loop:
            is_here = builder.icmp_signed("==", at, _spread(builder, loop.index, _POSITIONS))
            value = builder.fneg(_load(builder, _vector_at(builder, out, loop.index), _VECTOR))
            builder.store(builder.select(is_here, value, builder.load(minus)), minus)
        factor = builder.load(minus)
        with cgutils.for_range(builder, n) as loop:
            is_here = builder.icmp_signed("==", at, _spread(builder, loop.index, _POSITIONS))
            place = _vector_at(builder, out, loop.index)
            of_a = _load(builder, _vector_at(builder, a, loop.index), _VECTOR)
            left = _fma(builder, of_a, factor, _load(builder, place, _VECTOR))
            zeros = ir.Constant(_VECTOR, [0.0] * LANES)
            _store(builder, builder.select(is_here, zeros, left), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@intrinsic  # type: ignore[untyped-decorator]
def divide(typing: Any, out: Any, divisor: Any, n: Any) -> Any:
    """``out[i] /= divisor`` for n vectors and one vector of divisors."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, divisor, n = arguments
        by = _load(builder, divisor, _VECTOR)
        with cgutils.for_range(builder, n) as loop:
            place = _vector_at(builder, out, loop.index)
            _store(builder, builder.fdiv(_load(builder, place, _VECTOR), by), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit


@intrinsic  # type: ignore[untyped-decorator]
def largest_of_lanes(typing: Any, start: Any, n: Any, values: Any, places: Any) -> Any:
    """In each lane of n vectors the value of the largest size, and where; NaN only if all are."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, n, values, places = arguments
        largest, best, found = (
            cgutils.alloca_once(builder, kind) for kind in (_VECTOR, _VECTOR, _POSITIONS)
        )
        # Where all are NaN, so is what is found.
        builder.store(_load(builder, start, _VECTOR), largest)
        builder.store(ir.Constant(_VECTOR, [-1.0] * LANES), best)
        builder.store(ir.Constant(_POSITIONS, [0] * LANES), found)
        with cgutils.for_range(builder, n) as loop:
            value = _load(builder, _vector_at(builder, start, loop.index), _VECTOR)
            size = builder.call(_named(builder, "fabs", 1), [value])
            larger = builder.fcmp_ordered(">", size, builder.load(best))
            here = _spread(builder, loop.index, _POSITIONS)
            for new, old in ((value, largest), (size, best), (here, found)):
                builder.store(builder.select(larger, new, builder.load(old)), old)
        _store(builder, builder.load(largest), values)
        _store(builder, builder.load(found), places)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


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


def _vector_at(builder: Any, start: Any, number: Any) -> Any:
    return _at(builder, start, builder.mul(number, _whole(LANES * _BYTES)))


def _store(builder: Any, vector: Any, address: Any) -> None:
    pointer = builder.inttoptr(address, vector.type.as_pointer())
    builder.store(vector, pointer).align = _BYTES


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
