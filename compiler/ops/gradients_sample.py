"""Gradients of reading an image at moved places: of col2im and grid_sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite import (
    binary,
    broadcast_to,
    cast,
    reshape,
    scalar_like,
    transpose,
)


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


@dataclass(frozen=True, eq=False)
class _Tap:
    """A neighbour along one axis, for every position [N, P]: its index, made safe; whether it is
    in the image; its weight, and that one's slope by the position. None: 1, and 0."""

    place: Value
    is_inside: Value
    weight: Value | None
    slope: Value | None


def grid_sample_gradient(d: Differential) -> Cotangents:
    """Of the modes nearest and linear: every element that was read gets its share, and a position
    what differences of neighbours say."""
    x, grid = d.inputs
    mode = d.attributes.get("mode", "linear")
    if mode == "cubic":
        raise UnsupportedError("No gradient is known for grid_sample of mode cubic.")
    rank, batch, channels = x.type.rank - 2, x.type.shape[0], x.type.shape[-1]
    count = grid.type.numel // (batch * rank) if batch != 0 else 0
    dy = reshape(d.builder, d.dy, (batch, count, channels))
    taps, slopes = _taps_of(d, grid, count)
    dx = scalar_like(d.builder, x, 0)
    totals: list[Value | None] = [None] * rank
    samples = d.apply("iota", shape=(batch, count), axis=0, dtype=i64)
    for chosen in itertools.product(*taps):
        columns = (samples, *(tap.place for tap in chosen))
        columns = tuple(reshape(d.builder, column, (batch, count, 1)) for column in columns)
        places = d.apply("concat", *columns, axis=2)
        inside = chosen[0].is_inside
        for tap in chosen[1:]:
            inside = d.apply("and", inside, tap.is_inside)
        share = _masked(d, dy, inside)
        given = share
        for tap in chosen:
            given = given if tap.weight is None else _scaled(d, given, tap.weight)
        dx = d.apply("scatter_nd", dx, places, given, reduction="add")
        seen = d.apply("gather_nd", x, places, batch_dims=0)
        product = d.apply("reduce_sum", d.apply("mul", seen, share), axes=(2,))
        for axis in range(rank):
            part = _along(d, product, chosen, axis)
            before = totals[axis]
            if part is not None:
                totals[axis] = part if before is None else d.apply("add", before, part)
    return dx, _grid(d, grid, totals, slopes, count)


def _along(d: Differential, product: Value, chosen: Sequence[_Tap], axis: int) -> Value | None:
    """What a corner adds to the derivative by the position along an axis."""
    slope = chosen[axis].slope
    if slope is None:
        return None
    found = d.apply("mul", product, slope)
    for other, tap in enumerate(chosen):
        if other != axis and tap.weight is not None:
            found = d.apply("mul", found, tap.weight)
    return found


def _masked(d: Differential, dy: Value, inside: Value) -> Value:
    mask = reshape(d.builder, inside, (*inside.type.shape, 1))
    mask = broadcast_to(d.builder, mask, dy.type.shape)
    return d.apply("select", mask, dy, scalar_like(d.builder, dy, 0))


def _scaled(d: Differential, dy: Value, weight: Value) -> Value:
    weight = reshape(d.builder, weight, (*weight.type.shape, 1))
    return d.apply("mul", dy, broadcast_to(d.builder, weight, dy.type.shape))


def _grid(
    d: Differential, grid: Value, totals: Sequence[Value | None], slopes: Sequence[Value],
    count: Size,
) -> Value | None:  # fmt: skip
    """The grid has the last axis first."""
    columns = []
    for total, slope in zip(reversed(totals), reversed(slopes), strict=True):
        if total is None:
            return None
        part = cast(d.builder, d.apply("mul", total, slope), grid.type.dtype)
        columns.append(reshape(d.builder, part, (grid.type.shape[0], count, 1)))
    return reshape(d.builder, d.apply("concat", *columns, axis=2), grid.type.shape)


def _taps_of(d: Differential, grid: Value, count: Size) -> tuple[list[list[_Tap]], list[Value]]:
    """The neighbours along every axis, and the slopes of positions by coordinates."""
    x = d.x
    rank = x.type.rank - 2
    rows = reshape(d.builder, cast(d.builder, grid, x.type.dtype), (x.type.shape[0], count, rank))
    taps, slopes = [], []
    for axis in range(rank):
        start = (0, 0, rank - 1 - axis)
        shape = (*rows.type.shape[:2], 1)
        column = d.apply("slice", rows, starts=start, shape=shape, steps=(1, 1, 1))
        found, slope = _axis(d, reshape(d.builder, column, shape[:2]), x.type.shape[1 + axis])
        taps.append(found)
        slopes.append(slope)
    return taps, slopes


def _axis(d: Differential, coordinate: Value, size: Size) -> tuple[list[_Tap], Value]:
    if not isinstance(size, int):
        raise UnsupportedError(f"No gradient is known for grid_sample of an image {d.x.type}.")
    b, mode = d.builder, d.attributes.get("mode", "linear")
    corners = d.attributes.get("align_corners", False)
    scale = (size - 1) / 2 if corners else size / 2
    middle = (size - 1) / 2
    position = binary(b, "add", binary(b, "mul", coordinate, scale), middle)
    if mode == "nearest":
        position = d.apply("round", position)
    position, turn = _brought_inside(d, position, size)
    slope = binary(b, "mul", turn, scale)
    if mode == "nearest":
        return [_tap(d, position, size, None, None)], slope
    floor = d.apply("floor", position)
    fraction = d.apply("sub", position, floor)
    one = scalar_like(b, fraction, 1)
    lower = _tap(d, floor, size, d.apply("sub", one, fraction), d.apply("neg", one))
    upper = _tap(d, binary(b, "add", floor, 1.0), size, fraction, one)
    return [lower, upper], slope


def _tap(
    d: Differential, position: Value, size: int, weight: Value | None, slope: Value | None
) -> _Tap:
    b = d.builder
    if d.attributes.get("padding", "zeros") != "zeros":
        position, _ = _brought_inside(d, position, size)
    place = cast(b, position, i64)
    first, last = scalar_like(b, place, 0), scalar_like(b, place, size - 1)
    safe = d.apply("min", d.apply("max", place, first), last)
    inside = d.apply("eq", place, safe)
    if d.attributes.get("padding", "zeros") != "zeros":
        inside = d.apply("eq", place, place)
    return _Tap(safe, inside, weight, slope)


def _brought_inside(d: Differential, position: Value, size: int) -> tuple[Value, Value]:
    """As the operator has it; and 1, -1 or 0 as the result goes along, back, or stands still."""
    b = d.builder
    one = scalar_like(b, position, 1)
    match d.attributes.get("padding", "zeros"):
        case "border":
            kept = d.apply("clip", position, minimum=0.0, maximum=float(size - 1))
            is_same = d.apply("eq", kept, position)
            return kept, d.apply("select", is_same, one, scalar_like(b, one, 0))
        case "reflection":
            corners = d.attributes.get("align_corners", False)
            low, span = (0.0, max(size - 1.0, 1.0)) if corners else (-0.5, float(size))
            from_low = binary(b, "sub", position, low)
            way = d.apply("abs", from_low)
            turns = d.apply("floor", binary(b, "div", way, span))
            rest = d.apply("sub", way, binary(b, "mul", turns, span))
            is_even = d.apply("eq", binary(b, "mod", turns, 2.0), scalar_like(b, turns, 0))
            back = binary(b, "sub", span, rest)
            kept = binary(b, "add", d.apply("select", is_even, rest, back), low)
            minus = d.apply("neg", one)
            rises = d.apply("xor", is_even, d.apply("lt", from_low, scalar_like(b, one, 0)))
            return kept, d.apply("select", rises, one, minus)
        case _:
            return position, one
