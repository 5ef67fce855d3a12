"""The sums of blocks of rows, of which sums over all but the channels are made (channel_sums.py).

channel_moment_parts    [blocks, rows, channels] -> the mean of each block's rows, and the sum of
                        the squares of their distances to it
channel_product_parts   the sums of dy, and of dy * (x - mean), of each block

The totals of a block are in memory while its rows go by, and a block is small enough for the
first-level cache. Blocks are shared by the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert, index_value
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, f64, type_of
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.example_arrays import ramp
from bessemer.compiler.ops.reductions.channel_sums import products_of, require_channels
from bessemer.compiler.ops.reductions.reduce import accumulator

_INTERLEAVE = 4
"""Vectors of channels at once: as many sums are under way."""
_ROWS = 4
"""Rows of a block that are added to its totals at once, if they are near: in the first-level cache,
or of fewer channels than `_WIDE`. Wide ones are read one after the other, as they lie: processors
foresee that. (25,088 rows of 256 channels from memory: 14 to 17 GB/s; a few channels of some or of
all rows, then the next channels: 8 to 9.)"""
_WIDE = 64
"""From so many channels on, a block has few enough rows to be added up in float32."""

Terms: TypeAlias = Callable[[Size], Sequence[Expression]]
"""What a row adds to each total of a channel."""


@contextmanager
def _each_channel(builder: KernelBuilder, channels: Size) -> Iterator[Size]:
    """The channels, some vectors at once."""
    with builder.loop(channels, "vector", lanes=0, interleave=_INTERLEAVE) as channel:
        yield channel


def _add_rows(
    builder: KernelBuilder,
    parts: Buffer,
    block: Size,
    places: Sequence[int],
    rows: Size,
    together: int,
    terms: Callable[[Size], Terms],
) -> None:
    """Sets the totals of a block, those at `places`, to the sums of what its rows add to them, so
    many rows together, whose own sum is made first: it is rounded less than the total is."""
    channels = parts.shape[2]

    def add(first: Size, count: int) -> None:
        with _each_channel(builder, channels) as channel:
            of_row = terms(channel)
            sums = [builder.define(term, "sum") for term in of_row(first)]
            for row in range(1, count):
                for local, term in zip(sums, of_row(first + row), strict=True):
                    local.set(local.value + term)
            for place, local in zip(places, sums, strict=True):
                total = parts[block, place, channel] + convert(local.value, parts.dtype)
                builder.store(parts, (block, place, channel), total)

    with _each_channel(builder, channels) as channel:
        for place in places:
            builder.store(parts, (block, place, channel), constant(0, parts.dtype))
    groups = dims.floordiv(rows, together)
    with builder.loop(groups) as group:
        add(group * together, together)
    with builder.loop(rows - groups * together) as row:
        add(groups * together + row, 1)


def _is_wide(channels: Size) -> bool:
    return not isinstance(channels, int) or channels >= _WIDE


def _together(channels: Size) -> int:
    """How many rows that come from memory are added at once."""
    return 1 if _is_wide(channels) else _ROWS


def _part_type(x: TensorType) -> TensorType:
    """[blocks, rows, channels] -> [blocks, 2, channels] of totals. Those of many rows are f64: what
    blocks sum up to often cancels, as cotangents do that a normalization has centered."""
    blocks, _, channels = x.shape
    return TensorType(accumulator(x.dtype) if _is_wide(channels) else f64, (blocks, 2, channels))


def _moment_parts_infer(x: TensorType) -> TensorType:
    """[blocks, rows, channels] -> [blocks, 2, channels]: the mean of each block's rows, and the sum
    of the squares of their distances to it."""
    require_dtype("channel_moment_parts", x, FLOATS)
    require(x.rank == 3, f"channel_moment_parts wants [blocks, rows, channels], not {x}.")
    return _part_type(x)


def _moment_parts_reference(x: Array) -> Array:
    wide = x.astype(np.float64)
    found = np.stack([wide.mean(axis=1), wide.var(axis=1) * x.shape[1]], axis=1)
    return found.astype(_part_type(type_of(x)).dtype.numpy)


def _moment_parts_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    (x,), (parts,) = inputs, outputs
    blocks, rows, channels = x.shape
    near = accumulator(x.dtype)

    def elements(channel: Size) -> Terms:
        return lambda row: [convert(x[block, row, channel], near)]

    def squares(channel: Size) -> Terms:
        mean = builder.define(convert(parts[block, 0, channel], near), "mean").value

        def of_row(row: Size) -> Sequence[Expression]:
            element = convert(x[block, row, channel], near)
            distance = builder.define(element - mean, "distance").value
            return [distance * distance]

        return of_row

    with builder.loop(blocks, "parallel") as block:
        _add_rows(builder, parts, block, (0,), rows, _together(channels), elements)
        with _each_channel(builder, channels) as channel:
            mean = parts[block, 0, channel] / convert(index_value(rows), parts.dtype)
            builder.store(parts, (block, 0, channel), mean)
        _add_rows(builder, parts, block, (1,), rows, _ROWS, squares)


register(
    Operator(
        "channel_moment_parts",
        _moment_parts_infer,
        _moment_parts_reference,
        statements=_moment_parts_statements,
        examples=(
            Example(((3, 5, 4),)),
            Example(((2, 8, 67),)),
            Example((ramp((2, 5, 3), f64),), {}, 1e-12),
        ),
    )
)


def _product_parts_infer(dy: TensorType, x: TensorType, mean: TensorType) -> TensorType:
    """[blocks, rows, channels] of both -> [blocks, 2, channels], to be added up."""
    require_channels("channel_product_parts", x, mean)
    fits = dy == x and x.rank == 3
    require(fits, f"channel_product_parts wants [blocks, rows, channels] twice, not {dy}, {x}.")
    return _part_type(x)


def _product_parts_reference(dy: Array, x: Array, mean: Array) -> Array:
    wide = dy.astype(np.float64)
    products = wide * (x.astype(np.float64) - mean.astype(np.float64))
    found = np.stack([wide.sum(axis=1), products.sum(axis=1)], axis=1)
    return found.astype(_part_type(type_of(x)).dtype.numpy)


def _product_parts_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    dy, x, mean = inputs
    (parts,) = outputs
    blocks, rows, channels = x.shape

    def products(channel: Size) -> Terms:
        center = builder.define(convert(mean[channel], accumulator(x.dtype)), "mean").value

        def of_row(row: Size) -> Sequence[Expression]:
            at = (block, row, channel)
            return products_of(builder, dy[at], x[at], center)

        return of_row

    with builder.loop(blocks, "parallel") as block:
        _add_rows(builder, parts, block, (0, 1), rows, _together(channels), products)


register(
    Operator(
        "channel_product_parts",
        _product_parts_infer,
        _product_parts_reference,
        statements=_product_parts_statements,
        examples=(
            Example(((3, 5, 4), (3, 5, 4), (4,))),
            Example(((2, 8, 67), (2, 8, 67), (67,))),
            Example(tuple(ramp(shape, f64) for shape in ((2, 5, 3), (2, 5, 3), (3,))), {}, 1e-12),
        ),
    )
)
