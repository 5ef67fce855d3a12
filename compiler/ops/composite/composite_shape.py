"""Compositions that move elements or count: squeezing, splitting, stacking, triangles, ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import (
    Dim,
    Size,
    ceildiv,
    divide_exactly,
    format_size,
    maximum,
    product,
    total,
)
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_to,
    cast,
    normal_axes,
    normal_axis,
    reshape,
    scalar_like,
    transpose,
    where,
)


def squeeze(b: GraphBuilder, x: Value, axes: Sequence[int] | None = None) -> Value:
    """x without the axes, which have size 1; without all such axes if none are named."""
    if axes is None:
        axes = [axis for axis, size in enumerate(x.type.shape) if size == 1]
    removed = normal_axes(axes, x.type.rank)
    for axis in removed:
        if isinstance(x.type.shape[axis], int) and x.type.shape[axis] != 1:
            raise CompileError(f"squeeze of axis {axis} of {x.type}: its size is not 1.")
    shape = [size for axis, size in enumerate(x.type.shape) if axis not in removed]
    return reshape(b, x, shape)


def unsqueeze(b: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    """x with new axes of size 1; `axes` are places in the result."""
    rank = x.type.rank + len(axes)
    added = normal_axes(axes, rank)
    old = iter(x.type.shape)
    return reshape(b, x, [1 if axis in added else next(old) for axis in range(rank)])


def expand_dims(b: GraphBuilder, x: Value, axis: int) -> Value:
    """x with one new axis of size 1."""
    return unsqueeze(b, x, (axis,))


def flatten(b: GraphBuilder, x: Value, axis: int = 1) -> Value:
    """x as a matrix: the axes before `axis` are rows, the others columns."""
    start = axis if axis == x.type.rank else normal_axis(axis, x.type.rank)
    return reshape(b, x, (product(x.type.shape[:start]), product(x.type.shape[start:])))


def slice_axis(
    b: GraphBuilder, x: Value, axis: int, start: Size, size: Size, step: int = 1
) -> Value:
    """`size` elements along one axis, from `start` by `step`."""
    place = normal_axis(axis, x.type.rank)
    starts: list[Size] = [0] * x.type.rank
    shape = list(x.type.shape)
    steps = [1] * x.type.rank
    starts[place], shape[place], steps[place] = start, size, step
    if start == 0 and step == 1 and tuple(shape) == x.type.shape:
        return x
    return b.apply("slice", x, starts=tuple(starts), shape=tuple(shape), steps=tuple(steps))


def flip(b: GraphBuilder, x: Value, axis: int) -> Value:
    """x with the order along an axis reversed."""
    size = x.type.shape[normal_axis(axis, x.type.rank)]
    return slice_axis(b, x, axis, maximum(size - 1, 0), size, -1)


def split(b: GraphBuilder, x: Value, sizes: Sequence[Size], axis: int) -> tuple[Value, ...]:
    """x cut along an axis into pieces of these sizes, which add up to its size."""
    place = normal_axis(axis, x.type.rank)
    if total(sizes) != x.type.shape[place]:
        listing = ", ".join(map(format_size, sizes))
        raise CompileError(
            f"split of axis {place} of {x.type} into {listing}: the pieces have "
            f"{format_size(total(sizes))} elements together."
        )
    starts = [total(sizes[:count]) for count in range(len(sizes))]
    return tuple(slice_axis(b, x, place, start, size) for start, size in zip(starts, sizes))


def split_evenly(b: GraphBuilder, x: Value, count: int, axis: int) -> tuple[Value, ...]:
    """x cut along an axis into `count` pieces of equal size; the last is smaller if need be."""
    size = x.type.shape[normal_axis(axis, x.type.rank)]
    piece = divide_exactly(size, count)
    if piece is None:
        piece = ceildiv(size, count)
    last = size - piece * (count - 1)
    if isinstance(last, int) and last < 0:
        raise CompileError(
            f"split of axis {axis} of {x.type} into {count} pieces: there are fewer."
        )
    return split(b, x, [*[piece] * (count - 1), last], axis)


def concat(b: GraphBuilder, values: Sequence[Value], axis: int) -> Value:
    """The values one after the other along an axis; one value alone is itself."""
    if len(values) == 1:
        return values[0]
    return b.apply("concat", *values, axis=normal_axis(axis, values[0].type.rank))


def stack(b: GraphBuilder, values: Sequence[Value], axis: int = 0) -> Value:
    """The values, of one type, along a new axis."""
    place = normal_axis(axis, values[0].type.rank + 1)
    return concat(b, [expand_dims(b, value, place) for value in values], place)


def tile(b: GraphBuilder, x: Value, repeats: Sequence[Size]) -> Value:
    """x repeated whole along each axis."""
    if len(repeats) != x.type.rank:
        raise CompileError(f"tile of {x.type} wants {x.type.rank} counts, but got {len(repeats)}.")
    pairs = list(zip(x.type.shape, repeats))
    spread = reshape(b, x, [entry for size, _ in pairs for entry in (1, size)])
    wide = broadcast_to(b, spread, [entry for size, count in pairs for entry in (count, size)])
    return reshape(b, wide, [size * count for size, count in pairs])


def to_channels_last(b: GraphBuilder, x: Value) -> Value:
    """[N, C, *spatial] as [N, *spatial, C]."""
    return transpose(b, x, (0, *range(2, x.type.rank), 1))


def from_channels_last(b: GraphBuilder, x: Value) -> Value:
    """[N, *spatial, C] as [N, C, *spatial]."""
    return transpose(b, x, (0, x.type.rank - 1, *range(1, x.type.rank - 1)))


def _diagonal_offsets(b: GraphBuilder, rows: Size, columns: Size) -> Value:
    """column - row of every place of a matrix: 0 on the diagonal, positive above."""
    across = b.apply("iota", shape=(rows, columns), axis=1, dtype=i64)
    return binary(b, "sub", across, b.apply("iota", shape=(rows, columns), axis=0, dtype=i64))


def trilu(b: GraphBuilder, x: Value, k: Value | int = 0, upper: bool = True) -> Value:
    """x with zeros below (upper) or above the k-th diagonal of its last two axes."""
    if x.type.rank < 2:
        raise CompileError(f"trilu wants matrices, but its input is {x.type}.")
    if isinstance(k, Value):
        k = cast(b, reshape(b, k, ()), i64)
    offsets = _diagonal_offsets(b, *x.type.shape[-2:])
    return where(b, binary(b, "ge" if upper else "le", offsets, k), x, 0)


def eye(b: GraphBuilder, rows: Size, columns: Size, k: int, dtype: DType) -> Value:
    """Ones on the k-th diagonal of a matrix, zeros elsewhere."""
    return cast(b, binary(b, "eq", _diagonal_offsets(b, rows, columns), k), dtype)


def arange(b: GraphBuilder, start: Value, limit: Value, delta: Value) -> Value:
    """start, start + delta, ... up to limit (not included), from scalars of one type."""
    dtype = start.type.dtype
    count = _known_count(b, start, limit, delta)
    if count is None:
        (count,) = b.bind(_computed_count(b, start, limit, delta), "range")
    steps = b.apply("iota", shape=(count,), axis=0, dtype=dtype)
    scaled = binary(b, "mul", steps, reshape(b, delta, ()))
    return binary(b, "add", scaled, reshape(b, start, ()))


def _known_count(b: GraphBuilder, start: Value, limit: Value, delta: Value) -> Size | None:
    constants = [b.constants.get(value) for value in (start, limit, delta)]
    first, last, step = (None if c is None else c.reshape(()) for c in constants)
    if first is not None and last is not None and step is not None and step != 0:
        if first.dtype.kind in "iu":
            return max(-((int(first) - int(last)) // int(step)), 0)
        return max(math.ceil((float(last) - float(first)) / float(step)), 0)
    sizes = [b.known_sizes(value) for value in (start, limit, delta)]
    if any(size is None for size in sizes):
        return None
    ((begin,), (end,), (by,)) = (size or () for size in sizes)
    if isinstance(by, Dim) or by == 0:
        return None
    distance = end - begin if by > 0 else begin - end
    return maximum(ceildiv(distance, abs(by)), 0)


def _computed_count(b: GraphBuilder, start: Value, limit: Value, delta: Value) -> Value:
    distance = binary(b, "sub", reshape(b, limit, ()), reshape(b, start, ()))
    step = reshape(b, delta, ())
    if start.type.dtype.is_integer:
        # -(-distance // step) rounds up, whatever the signs; `div` rounds down.
        count = b.apply("neg", binary(b, "div", b.apply("neg", distance), step))
    else:
        count = b.apply("ceil", binary(b, "div", distance, step))
    whole = cast(b, count, i64)
    return binary(b, "max", whole, scalar_like(b, whole, 0))
