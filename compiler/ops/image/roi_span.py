"""Boxes of an image and their cells, in locals of a kernel: between elements, as roi_align wants
them, and of whole elements, as max_roi_pool does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    as_index,
    binary,
    constant,
    convert,
    index_value,
    select,
    unary,
)
from bessemer.compiler.ir.types import Array, DType, i64


@dataclass(frozen=True)
class Span:
    """The cells of a box along one axis, in locals."""

    builder: KernelBuilder
    start: Local
    cell: Local
    samples: Local

    def neighbours(self, position: Expression, size: Size) -> Neighbours:
        """What a sample at a position is made of."""
        working = position.dtype
        last = index_value(size - 1)
        inside = (position >= -1) & (position <= convert(index_value(size), working))
        bounded = binary("max", position, 0)
        low = self.builder.define(binary("min", convert(bounded, i64), last), "low").value
        fraction = select(low < last, bounded - convert(low, working), 0)
        share = self.builder.define(fraction, "share").value
        high = self.builder.define(binary("min", low + 1, last), "high").value
        slope = select((position > 0) & (low < last), constant(1, working), 0)
        return Neighbours(inside, as_index(low), as_index(high), share, slope)

    def sample(self, cell: Size, number: Size) -> Expression:
        """The position of a sample in a cell."""
        working = self.start.dtype
        inside = convert(index_value(number), working) + 0.5
        count = convert(self.samples.value, working)
        offset = self.cell.value * inside / count
        return self.start.value + convert(index_value(cell), working) * self.cell.value + offset


@dataclass(frozen=True)
class Neighbours:
    """Along one axis; a sample that is far outside has none."""

    inside: Expression
    low: Size
    high: Size
    share: Expression  # of the higher one
    slope: Expression  # of that share, by the position

    def weighted(self) -> tuple[tuple[Size, Expression], ...]:
        """Both, with their weights."""
        return (self.low, 1 - self.share), (self.high, self.share)


def span(
    builder: KernelBuilder,
    start: Expression,
    end: Expression,
    scale: float,
    cells: int,
    samples: int,
    half_pixel: bool,
) -> Span:
    """From the two sides of a box, and the numbers of its cells and of samples (0: as needed)."""
    shift = 0.5 if half_pixel else 0.0
    first = builder.define(start * scale - shift, "start")
    length = end * scale - shift - first.value
    if not half_pixel:
        length = binary("max", length, 1)
    cell = builder.define(length / cells, "cell")
    fitting = convert(unary("ceil", cell.value), i64)
    count = builder.define(constant(samples, i64) if samples else fitting, "samples")
    return Span(builder, first, cell, count)


def _nearest(value: Expression) -> Expression:
    """Rounded to an i64, halves away from zero."""
    up, down = unary("floor", value + 0.5), unary("ceil", value - 0.5)
    return convert(select(value >= 0, up, down), i64)


def bounds(
    builder: KernelBuilder, start: Local, cell: Local, number: Size, size: Size
) -> tuple[Local, Local]:
    """The first element of a cell and the one behind its last, as locals."""
    working = cell.dtype
    extent = index_value(size)

    def bounded(value: Expression) -> Expression:
        return binary("min", binary("max", value + start.value, 0), extent)

    first = unary("floor", cell.value * convert(index_value(number), working))
    last = unary("ceil", cell.value * convert(index_value(number + 1), working))
    return (
        builder.define(bounded(convert(first, i64)), "first"),
        builder.define(bounded(convert(last, i64)), "end"),
    )


def whole_spans(
    builder: KernelBuilder, boxes: Buffer, box: Size, shape: tuple[int, int], scale: float,
    working: DType,
) -> tuple[tuple[Local, Local], ...]:  # fmt: skip
    """The first element of a numbered box along each axis, and the length of its cells there."""
    found = []
    for axis in range(2):
        start, end = (
            _nearest(convert(boxes[box, side - axis], working) * scale) for side in (2, 4)
        )
        first = builder.define(start, "start")
        length = binary("max", end - first.value + 1, 1)
        found.append((first, builder.define(convert(length, working) / shape[axis], "cell")))
    return tuple(found)


def whole_cell(
    box: Array, cell: tuple[int, int], shape: tuple[int, int], scale: float, sizes: tuple[int, ...]
) -> list[Array]:
    """The reference of `whole_spans` and `bounds`: along each axis a cell's first element, and the
    one behind its last."""
    found = []
    for axis, number in enumerate(cell):
        scaled = box[[2 - axis, 4 - axis]].astype(np.float64) * scale
        start, end = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled).astype(int)
        length = max(end - start + 1, 1)
        first = start + number * length // shape[axis]
        behind = start - (-(number + 1) * length // shape[axis])
        found.append(np.clip([first, behind], 0, sizes[axis]))
    return found
