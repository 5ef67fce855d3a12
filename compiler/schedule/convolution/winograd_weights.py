"""Winograd's transform of weights, both of constants at compile time and, as in training, when the
model runs.

    u[point, panel, channel, column] = G w G', packed as the products read it (packing.py)

Where the weights' columns are neighbours in memory, vectors go along the columns. Where the
channels are (the convolution of an input's gradient has the weights transposed), squares of
channels and columns are transformed along the channels, and then transposed in the first-level
cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.types import Array, f32
from bessemer.compiler.schedule.convolution.winograd_taps import (
    Part,
    Segments,
    Taps,
    both_sides,
    parts_of,
)

Weight: TypeAlias = Callable[[int, int, Size, Size], Expression]
"""An element of the weights by its taps, channel and column."""


def transform_weights(w: Array) -> Array:
    """Transforms [taps, taps, c, o] to [matrices, c, o], or [planes of taps, taps, taps, c, o] to
    [matrices, planes of taps * c, o]. The matrices are those of `parts_of`. Computed in float64 and
    rounded once at the end."""
    if w.ndim == 5:
        w = np.moveaxis(w, 0, 2).reshape(*w.shape[1:3], -1, w.shape[-1])
    parts = parts_of((Taps(w.shape[0]), Taps(w.shape[1])))
    u = np.empty((parts[-1].end, *w.shape[2:]), w.dtype)
    for part in parts:
        for number, (i, j) in enumerate(np.ndindex(part.down.number, part.across.number)):
            first = part.first + number * part.points
            rows, columns = _taps_of(part.down, i), _taps_of(part.across, j)
            _transform_segment(part, w[rows, columns], u[first : first + part.points])
    return u


def _taps_of(segments: Segments, number: int) -> slice:
    begin = segments.first + number * segments.count
    return slice(begin, begin + segments.count)


def _transform_segment(part: Part, w: Array, u: Array) -> None:
    """Writes the transform of [taps, taps, c, o] to u, [points, c, o]."""
    row, column = np.array(part.down.of_weights), np.array(part.across.of_weights)
    u = u.reshape(len(row), len(column), *w.shape[2:])
    for first in range(0, w.shape[2], 16):  # so many channels stay in the cache
        channels = slice(first, first + 16)
        transposed = _combined(row, w[:, :, channels].astype(np.float64)).swapaxes(0, 1)
        u[:, :, channels] = _combined(column, transposed).swapaxes(0, 1)


def _combined(matrix: Array, parts: Array) -> Array:
    """The matrix times `parts` along its first axis. As sums of a few large arrays this is several
    times as fast as einsum; and unlike a BLAS, it gives the same bits on every machine."""
    found = np.zeros((len(matrix), *parts.shape[1:]), parts.dtype)
    for sums, row in zip(found, matrix, strict=True):
        for part, factor in zip(parts, row, strict=True):
            if factor:
                sums += part * factor
    return found


@dataclass(frozen=True, eq=False)
class WeightTransform:
    """A transform when the model runs: from `w`, a function of taps, channel and column, to `u`, of
    shape [points, panels, channels, width of a panel]."""

    w: Weight
    taps: tuple[Taps, Taps]
    channels: int
    columns: int
    u: Buffer

    @property
    def width(self) -> int:
        """Columns of a panel."""
        width = self.u.shape[-1]
        assert isinstance(width, int)
        return width

    @property
    def panels(self) -> int:
        """Panels of a matrix."""
        return -(-self.columns // self.width)

    def points(self, channel: Size, column: Size, builder: KernelBuilder) -> list[Expression]:
        """The points of one channel and column, in order."""
        down, across = self.taps
        seen = [
            [self.w(y, x, channel, column) for x in range(across.count)] for y in range(down.count)
        ]
        (part,) = parts_of(self.taps)
        matrices = (part.down.of_weights, part.across.of_weights)
        return [p for row in both_sides(builder, matrices, seen) for p in row]


def lower_weight_transform(work: WeightTransform, lanes: int, along_channels: bool) -> Block:
    """The kernel. Its parallel items are channels of a panel or, where the channels are neighbours
    (`along_channels`), squares of channels and columns."""
    builder = KernelBuilder()
    fits = work.channels % lanes == 0 and work.columns % work.width == 0
    if along_channels and fits:
        _transposed(builder, work, lanes)
    else:
        _straight(builder, work)
    return builder.block()


def _straight(builder: KernelBuilder, work: WeightTransform) -> None:
    with builder.loop(work.panels * work.channels, "parallel") as item:
        channel = dims.mod(item, work.channels)
        panel = dims.floordiv(item, work.channels)
        with builder.loop(work.width, "vector", lanes=0) as place:
            column = panel * work.width + place
            inside = less(column, work.columns)
            for point, value in enumerate(work.points(channel, column, builder)):
                at = (point, panel, channel, place)
                builder.store(work.u, at, guarded(inside, value, 0))


def _transposed(builder: KernelBuilder, work: WeightTransform, lanes: int) -> None:
    points = work.taps[0].points * work.taps[1].points
    groups, parts = work.channels // lanes, work.width // lanes
    with builder.loop(work.panels * groups * parts, "parallel") as item:
        part, rest = dims.mod(item, parts), dims.floordiv(item, parts)
        group, panel = dims.mod(rest, groups), dims.floordiv(rest, groups)
        squares = builder.allocate(f32, (points * lanes * lanes,))
        with builder.loop(lanes) as row, builder.loop(lanes, "vector", lanes) as lane:
            column = panel * work.width + part * lanes + row
            values = work.points(group * lanes + lane, column, builder)
            for number, value in enumerate(values):
                place = (number * lanes + row) * lanes + lane
                builder.store(squares, (place,), value)
        transposed = builder.allocate(f32, (lanes * lanes,))
        with builder.loop(points) as point:
            first = (point * lanes) * lanes
            _transpose_square(builder, squares, first, transposed, lanes)
            with (
                builder.loop(lanes, "unroll") as channel,
                builder.loop(lanes, "vector", lanes) as lane,
            ):
                at = (point, panel, group * lanes + channel, part * lanes + lane)
                builder.store(work.u, at, transposed[channel * lanes + lane])


def _transpose_square(
    builder: KernelBuilder, source: Buffer, first: Size, target: Buffer, lanes: int
) -> None:
    """Transposes the square of `source` that begins at `first` into `target`. The method: a load of
    every fourth element rotates the bits of an element's index by two."""
    bits = lanes.bit_length() - 1
    shifts = [2] * (bits // 2) + [1] * (bits % 2)
    between = builder.allocate(f32, (lanes * lanes,))
    begin = first
    for number, shift in enumerate(shifts):
        last = number == len(shifts) - 1
        step, group = 1 << shift, lanes >> shift
        goal = target if (len(shifts) - 1 - number) % 2 == 0 else between
        with (
            builder.loop(step) as high,
            builder.loop(group, "unroll") as low,
            builder.loop(lanes, "vector", lanes) as lane,
        ):
            value = source[begin + (low * lanes + lane) * step + high]
            builder.store(goal, ((high * group + low) * lanes + lane,), value)
        source, begin = goal, 0
        assert not last or goal is target
