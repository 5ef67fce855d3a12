"""Describes a convolution by Winograd's method (winograd.py), and writes the transforms of a tile's
inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert, index_value, less
from bessemer.compiler.ir.types import DType, f32
from bessemer.compiler.schedule.convolution import winograd_tiles
from bessemer.compiler.schedule.convolution.depthwise_plan import Planes
from bessemer.compiler.schedule.convolution.winograd_taps import Part, Taps, both_sides, parts_of

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]


@dataclass(frozen=True, eq=False)
class Winograd:
    """A convolution of stride 1 with known numbers of channels and columns.

    `x(n, row, column, channel)` is an element of the padded input: windows begin at row 0, column
    0. `outputs` is (images, rows, columns) of the result, `taps` those along rows and columns. `u`
    is the packed result of `transform_weights`, `epilogue` as in a contraction. `dtype` is the type
    of the numbers that are multiplied, u and v; everything else is f32. If there are `planes`, the
    input consists of volumes, and `n` counts the planes of all of them. If `on_tiles`, a matrix
    unit multiplies: u and v are parts of f32 numbers (winograd_tiles.py), and the number of tiles
    is known.
    """

    x: Callable[[Size, Size, Size, Size], Expression]
    outputs: tuple[Size, Size, Size]
    channels: int
    columns: int
    u: Buffer
    epilogue: Epilogue
    taps: tuple[Taps, Taps] = (Taps(), Taps())
    dtype: DType = f32
    planes: Planes | None = None
    on_tiles: bool = False

    @property
    def points(self) -> int:
        """The products from which the outputs of a tile are made."""
        return self.taps[0].points * self.taps[1].points

    @property
    def parts(self) -> tuple[Part, ...]:
        """The combinations of segments of the taps; a single one where no axis has more than three
        taps."""
        return parts_of(self.taps)

    @property
    def matrices(self) -> int:
        """The number of matrices of transformed weights: the points of all segments."""
        return self.parts[-1].end

    @property
    def is_of_threes(self) -> bool:
        """Whether the taps along each axis are three or one."""
        return all(axis.count in (1, 3) for axis in self.taps)

    @property
    def is_in_segments(self) -> bool:
        """Whether products of several segments are added up."""
        return self.matrices > self.points

    @property
    def depth(self) -> int:
        """The length of a sum: the channels of all planes that a window sees."""
        return self.channels * (self.planes.taps if self.planes else 1)

    def images_seen(self, image: Size) -> list[Size]:
        """The input images (planes) that are summed into one image of the result."""
        if self.planes is None:
            return [image]
        volume, plane = (
            dims.floordiv(image, self.planes.outputs),
            dims.mod(image, self.planes.outputs),
        )
        first = volume * self.planes.inputs + plane * self.planes.stride
        return [first + tap * self.planes.dilation for tap in range(self.planes.taps)]

    @property
    def tiles(self) -> tuple[Size, Size]:
        """Rows and columns of tiles in an image."""
        _, rows, columns = self.outputs
        return self.taps[0].tiles(rows), self.taps[1].tiles(columns)

    @property
    def count(self) -> Size:
        """The number of tiles in all images."""
        return self.outputs[0] * self.tiles[0] * self.tiles[1]


def transform_input(
    builder: KernelBuilder,
    work: Winograd,
    tile: Size,
    v: Buffer,
    at: tuple[Size, Size],
    part: Part,
    number: Size = 0,
) -> None:
    """Stores all channels of the inputs of one tile that a segment sees, transformed, in v; `at` is
    (share, place of the tile)."""
    image, top, left = _place(builder, work, tile)
    _, rows, columns = work.outputs
    down, across = part.down, part.across
    i, j = dims.floordiv(number, across.number), dims.mod(number, across.number)
    ys = work.taps[0].inputs(builder, top, rows, down, i)
    xs = work.taps[1].inputs(builder, left, columns, across, j)

    def points(seen: Size, channel: Size) -> list[Expression]:
        inputs = [[convert(work.x(seen, y, x, channel), f32) for x in xs] for y in ys]
        matrices = (down.of_inputs, across.of_inputs)
        return [p for row in both_sides(builder, matrices, inputs) for p in row]

    for number, seen in enumerate(work.images_seen(image)):
        first = number * work.channels
        if work.on_tiles:
            with winograd_tiles.channel_loops(builder, work.channels) as channel:
                values = points(seen, channel)
                winograd_tiles.store_parts(builder, v, at, first + channel, values)
            continue
        with builder.loop(work.channels, "vector", lanes=0) as channel:
            for point, value in enumerate(points(seen, channel)):
                builder.store(v, (at[0], point, at[1], first + channel), value)


def transform_output(
    builder: KernelBuilder,
    work: Winograd,
    tile: Size,
    m: Buffer,
    at: tuple[Size, Size],
    group: Size = 0,
) -> None:
    """Transforms and stores the outputs of one tile, for all columns that m has, which are those of
    a group. Outputs outside of the image are left out."""
    image, top, left = _place(builder, work, tile)
    _, rows, columns = work.outputs
    down, across = work.taps
    begin = group * m.shape[-1]
    with builder.loop(m.shape[-1], "vector", lanes=0) as column:
        inputs = [
            [m[at[0], across.points * y + x, at[1], column] for x in range(across.points)]
            for y in range(down.points)
        ]
        values = both_sides(builder, (down.of_outputs, across.of_outputs), inputs)
        for y, x in product(range(down.outputs), range(across.outputs)):
            row, place = top + y * down.dilation, left + x * across.dilation
            with builder.when(less(row, rows) & less(place, columns)):
                for store in work.epilogue((image, row, place), begin + column, values[y][x]):
                    builder.append(store)


def _place(builder: KernelBuilder, work: Winograd, tile: Size) -> tuple[Size, Size, Size]:
    """The image, first row and first column of a tile's outputs; `tile` counts through all images.

    A number beyond the last tile stands for the last one, which is then computed again.
    """
    rows, columns = work.tiles
    known = builder.define(index_value(dims.minimum(tile, work.count - 1)), "tile").index
    row = builder.define(index_value(dims.floordiv(known, columns)), "row").index
    top = work.taps[0].first(dims.mod(row, rows))
    return dims.floordiv(row, rows), top, work.taps[1].first(known - row * columns)
