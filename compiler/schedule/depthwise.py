"""Depthwise convolution, channels last: no sum over channels, so no micro-kernel.

    parallel item in images x tiles of rows
      for tile of columns
        for channel                            vectors
          every input of the tile's windows is loaded once and goes to all outputs that it is in

Pixels outside, channels inside: the memory is read in order, and a tile's weights come from the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.schedule.tiles import split
from bessemer.compiler.targets.machine import Target

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]


@dataclass(frozen=True, eq=False)
class Depthwise:
    """One depthwise convolution with one filter a channel.

    `x(n, row, column, channel)` is an element of the input, with its padding: windows begin at
    row 0, column 0. `weights` is [kernel rows, kernel columns, channels]. `outputs` is the number
    of images, rows and columns of the result. `epilogue((n, row, column), channel, total)` gives
    the stores of one element.
    """

    x: Callable[[Size, Size, Size, Size], Expression]
    weights: Buffer
    strides: tuple[int, int]
    dilations: tuple[int, int]
    outputs: tuple[Size, Size, Size]
    channels: Size
    epilogue: Epilogue
    start: Callable[[Size], Expression] | None = None

    @property
    def kernel(self) -> tuple[int, int]:
        """The taps along rows and columns, which are always known."""
        rows, columns, _ = self.weights.shape
        assert isinstance(rows, int) and isinstance(columns, int)
        return rows, columns


@dataclass(frozen=True)
class TileSize:
    """Outputs in a tile."""

    rows: int
    columns: int


def plan_depthwise(work: Depthwise, target: Target) -> TileSize:
    """The tile that needs fewest loads an output, of those whose sums and weights fit registers."""
    taps = work.kernel[0] * work.kernel[1]
    # Few registers hold the sums only; then every product reads its input from memory.
    weights = taps if target.vector_registers - taps >= 16 else 1
    room = max(1, target.vector_registers - weights - 2)
    best, best_cost = TileSize(1, 1), float("inf")
    for rows, columns in product(range(1, 5), range(1, 9)):
        if rows * columns > room:
            continue
        cost = _loads(work, rows, columns)
        if cost < best_cost:
            best, best_cost = TileSize(rows, columns), cost
    return best


def _loads(work: Depthwise, rows: int, columns: int) -> float:
    """Loads an output, with what uneven cuts add; more tile shapes cost code."""
    height = (rows - 1) * work.strides[0] + work.kernel[0]
    width = (columns - 1) * work.strides[1] + work.kernel[1]
    taps = work.kernel[0] * work.kernel[1]
    cost = (height * width + taps) / (rows * columns)
    for extent, size in zip(work.outputs[1:], (rows, columns)):
        if not isinstance(extent, int):
            cost *= 1.0 + 0.1 * (size > 1)
            continue
        cut = split(extent, size)
        if cut.tall != cut.count:
            cost *= 1.25
        if cut.height < size:
            cost *= 2.0  # the same tile is there under its own size
    return cost


def lower_depthwise(work: Depthwise, tile: TileSize) -> loops.Block:
    """The kernel body: one parallel loop over the images' tiles of rows."""
    builder = KernelBuilder()
    images, rows, columns = work.outputs
    cut = split(rows, tile.rows)
    with builder.loop(images * cut.count, "parallel") as item:
        image, along = dims.floordiv(item, cut.count), dims.mod(item, cut.count)
        for begin, height in _choose(builder, cut.tall, rows, along, cut.height):
            across = split(columns, tile.columns)
            with builder.loop(across.tall) as at:
                left = at * across.height
                _tile(builder, work, (image, begin, left), TileSize(height, across.height))
            done = across.tall * across.height
            smaller = across.height - 1 if across.rest == 0 else 1
            with _loop_if_any(builder, columns - done, smaller) as at_rest:
                if at_rest is not None:
                    left = done + at_rest * smaller
                    _tile(builder, work, (image, begin, left), TileSize(height, smaller))
    return builder.block()


def _choose(
    builder: KernelBuilder, tall: Size, rows: Size, along: Size, height: int
) -> Iterator[tuple[Size, int]]:
    """The first row and the height of tile number `along`, in the branches for each height."""
    if tall * height == rows:
        yield along * height, height
        return
    with builder.when(less(along, tall)):
        yield along * height, height
    with builder.otherwise():
        if isinstance(rows, int):
            yield along * (height - 1) + tall, height - 1
        else:
            begin = tall * height
            with builder.loop(rows - begin) as row:
                yield begin + row, 1


@contextmanager
def _loop_if_any(builder: KernelBuilder, extent: Size, step: int) -> Iterator[Size | None]:
    """A loop over the steps in an extent; none is written for no steps."""
    if extent == 0:
        yield None
        return
    with builder.loop(dims.floordiv(extent, step)) as index:
        yield index


def _tile(builder: KernelBuilder, work: Depthwise, begin: Sequence[Size], tile: TileSize) -> None:
    """All channels of one tile of outputs."""
    image, top, left = begin
    with builder.loop(work.channels, "vector", lanes=0) as channel:
        for row, column, total in _totals(builder, work, begin, tile, channel):
            at = (image, top + row, left + column)
            for store in work.epilogue(at, channel, total):
                builder.append(store)


def _totals(
    builder: KernelBuilder, work: Depthwise, begin: Sequence[Size], tile: TileSize, channel: Size
) -> Iterator[tuple[int, int, Expression]]:
    """(row, column, sum) of a tile's outputs, each as soon as its last input has been used."""
    image, top, left = begin
    taps = list(product(range(work.kernel[0]), range(work.kernel[1])))
    weights = {tap: builder.define(work.weights[*tap, channel], "w").value for tap in taps}
    sums: dict[tuple[int, int], Local] = {}
    counts: dict[tuple[int, int], int] = {}
    uses = _uses(work, tile)
    for (y, x), outputs in uses.items():
        row = top * work.strides[0] + y
        column = left * work.strides[1] + x
        value = builder.define(work.x(image, row, column, channel), "x").value
        for output, tap in outputs:
            term = value * weights[tap]
            if output in sums:
                sums[output].accumulate("add", term)
            elif work.start is None:
                sums[output] = builder.define(term, "sum")
            else:
                sums[output] = builder.define(work.start(channel), "sum")
                sums[output].accumulate("add", term)
            counts[output] = counts.get(output, 0) + 1
            if counts[output] == len(taps):
                yield *output, sums[output].value


Uses: TypeAlias = dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]]


def _uses(work: Depthwise, tile: TileSize) -> Uses:
    """For every input of a tile, in order: the outputs that it goes to, and under which tap."""
    found: dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]] = {}
    for output in product(range(tile.rows), range(tile.columns)):
        for tap in product(range(work.kernel[0]), range(work.kernel[1])):
            y, x = (
                o * stride + t * dilation
                for o, t, stride, dilation in zip(output, tap, work.strides, work.dilations)
            )
            found.setdefault((y, x), []).append((output, tap))
    return dict(sorted(found.items()))
