"""Winograd's transform of weights: of constant ones, and of those that are known only when the
model runs, as in training.

    u[point, panel, channel, column] = G w G', packed as the products want it (packing.py)

Where the weights' columns are neighbours, vectors go along them. Where the channels are (a
convolution with the weights transposed: an input's gradient), squares of channels and columns are
transformed along the channels, and transposed in the first-level cache (as in transpose.py).
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
    """[taps, taps, c, o] to [matrices, c, o], in float64 before the last rounding; [planes of taps,
    taps, taps, c, o] to [matrices, planes of taps * c, o]. The matrices are those of `parts_of`."""
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
    """The matrix times what lies along the first axis: sums of few large arrays, several times as
    fast as einsum, and the same on every machine, as a BLAS would not be."""
    found = np.zeros((len(matrix), *parts.shape[1:]), parts.dtype)
    for sums, row in zip(found, matrix, strict=True):
        for part, factor in zip(parts, row, strict=True):
            if factor:
                sums += part * factor
    return found


@dataclass(frozen=True, eq=False)
class WeightTransform:
    """`w` by its taps, channel and column, and where its transform goes: u, of shape [points,
    panels, channels, width of a panel]."""

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
        """All of one channel and column, in order."""
        down, across = self.taps
        seen = [
            [self.w(y, x, channel, column) for x in range(across.count)] for y in range(down.count)
        ]
        (part,) = parts_of(self.taps)
        matrices = (part.down.of_weights, part.across.of_weights)
        return [p for row in both_sides(builder, matrices, seen) for p in row]


def lower_weight_transform(work: WeightTransform, lanes: int, along_channels: bool) -> Block:
    """The kernel: panels, or squares of channels in panels, are shared by the threads."""
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
            _turn(builder, squares, first, transposed, lanes)
            with (
                builder.loop(lanes, "unroll") as channel,
                builder.loop(lanes, "vector", lanes) as lane,
            ):
                at = (point, panel, group * lanes + channel, part * lanes + lane)
                builder.store(work.u, at, transposed[channel * lanes + lane])


def _turn(builder: KernelBuilder, source: Buffer, first: Size, target: Buffer, lanes: int) -> None:
    """The square of `source` that begins at `first`, its rows as columns; `target` gets it. A load
    of every fourth element rotates the bits of the indices by two."""
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
