"""Gradients of reading an image at moved places: of col2im and grid_sample."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.ops.composite.composite import (
    binary,
    cast,
    reshape,
    scalar_like,
    size_as,
    transpose,
)
from bessemer.compiler.ops.image.gradients_neighbours import Taps, reading, taps_of


def col2im_gradient(d: Differential) -> Cotangents:
    """Every block reads what it was added to."""
    rank = len(d["image"])
    shape = d.x.type.shape
    found = d.dy
    for axis in range(rank):
        blocks, taps = shape[1 + axis], shape[1 + rank + axis]
        stride, dilation = d["strides"][axis], d["dilations"][axis]
        if not isinstance(blocks, int) or not isinstance(taps, int):
            raise UnsupportedError(f"No gradient is known for col2im of blocks of shape {shape}.")
        places = np.arange(blocks)[:, None] * stride + np.arange(taps) * dilation
        # Axes that are done have become two.
        at = 1 + 2 * axis
        low: list[Size] = [0] * found.type.rank
        high: list[Size] = [0] * found.type.rank
        low[at] = d["low"][axis]
        high[at] = int(places.max(initial=-1)) + 1 - d["low"][axis] - d["image"][axis]
        found = d.apply("pad", found, low=tuple(low), high=tuple(high), mode="constant", value=0)
        found = d.apply("gather", found, d.builder.constant(places), axis=at)
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return (transpose(d.builder, found, order),)


def grid_sample_gradient(d: Differential) -> Cotangents:
    """Every element that was read gets its share, and a position what its neighbours' values and
    the slopes of their weights say; the nearest element says nothing about it."""
    x, grid = d.inputs
    b = d.builder
    working = f64 if grid.type.dtype is f64 else f32
    rank, batch, channels = x.type.rank - 2, x.type.shape[0], x.type.shape[-1]
    count = product(grid.type.shape[1:-1])
    rows = reshape(b, cast(b, grid, working), (batch, count, rank))
    axes = [_axis(d, _column(d, rows, rank - 1 - k), x.type.shape[1 + k]) for k in range(rank)]
    read = reading(b, cast(b, x, working), [taps for taps, _ in axes])
    dx, along = read.back(reshape(b, cast(b, d.dy, working), (batch, count, channels)))
    dx = cast(b, dx, x.type.dtype)
    if d.attributes.get("mode", "linear") == "nearest":
        return dx, None
    parts = [d.apply("mul", part, slope) for part, (_, slope) in zip(along, axes, strict=True)]
    # A position has the coordinate of the last axis first.
    columns = [reshape(b, part, (batch, count, 1)) for part in reversed(parts)]
    found = d.apply("concat", *columns, axis=2) if rank > 1 else columns[0]
    return dx, reshape(b, cast(b, found, grid.type.dtype), grid.type.shape)


def _column(d: Differential, rows: Value, number: int) -> Value:
    shape = rows.type.shape[:2]
    column = d.apply("slice", rows, starts=(0, 0, number), shape=(*shape, 1), steps=(1, 1, 1))
    return reshape(d.builder, column, shape)


def _axis(d: Differential, coordinate: Value, size: Size) -> tuple[Taps, Value]:
    """The neighbours along an axis, and the slope of the position by the coordinate."""
    b, mode = d.builder, d.attributes.get("mode", "linear")
    number = size_as(b, size, coordinate.type.dtype, coordinate.type.shape)
    whole = binary(b, "add", coordinate, 1.0)
    if d.attributes.get("align_corners", False):
        number = binary(b, "sub", number, 1.0)
        position = binary(b, "mul", d.apply("mul", whole, number), 0.5)
    else:
        position = binary(b, "mul", binary(b, "sub", d.apply("mul", whole, number), 1.0), 0.5)
    slope = binary(b, "mul", number, 0.5)
    if mode == "nearest":
        position = d.apply("round", position)
    if mode != "cubic":
        position, turn = _brought_inside(d, position, size)
        slope = d.apply("mul", slope, turn)
    if d.attributes.get("padding", "zeros") == "zeros":
        return taps_of(b, position, size, mode), slope
    return taps_of(b, position, size, mode, lambda at: _brought_inside(d, at, size)[0]), slope


def _brought_inside(d: Differential, position: Value, size: Size) -> tuple[Value, Value]:
    """As the operator has it; and 1, -1 or 0 as the result goes along, back, or stands still."""
    b = d.builder
    one = scalar_like(b, position, 1)
    number = size_as(b, size, position.type.dtype, position.type.shape)
    less = d.apply("sub", number, one)
    match d.attributes.get("padding", "zeros"):
        case "border":
            kept = d.apply("min", binary(b, "max", position, 0.0), less)
            is_same = d.apply("eq", kept, position)
            return kept, d.apply("select", is_same, one, scalar_like(b, one, 0))
        case "reflection":
            corners = d.attributes.get("align_corners", False)
            low, span = (0.0, d.apply("max", less, one)) if corners else (-0.5, number)
            from_low = binary(b, "sub", position, low)
            distance = d.apply("abs", from_low)
            turns = d.apply("floor", d.apply("div", distance, span))
            rest = d.apply("sub", distance, d.apply("mul", turns, span))
            is_even = d.apply("eq", binary(b, "mod", turns, 2.0), scalar_like(b, turns, 0))
            back = d.apply("sub", span, rest)
            kept = binary(b, "add", d.apply("select", is_even, rest, back), low)
            minus = d.apply("neg", one)
            rises = d.apply("xor", is_even, d.apply("lt", from_low, scalar_like(b, one, 0)))
            return kept, d.apply("select", rises, one, minus)
        case _:
            return position, one
