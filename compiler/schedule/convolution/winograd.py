"""Winograd's F(2, 3), along one axis or both: a 3x3 convolution with 16 products in place of 36.

    v[p][tile, c] = (B' d B)[p]          d: the 4 x 4 inputs of a tile of 2 x 2 outputs
    m[p][tile, o] = sum over c of v[p][tile, c] * u[p][c, o]        for each of the 16 points p
    y[tile, o]    = A' m A               u = G w G', packed at compile time

The sums are shorter than those of the direct form, so the result is more exact as well. Not so of
bf16: rounding u and v makes a layer's error 1.7 times the direct form's. With a dilation, the
outputs of a tile are as far apart as the taps. An axis of one tap stays as it is. A volume is one
image for each of its planes, and its sums go over all planes that a window sees: v and u have as
many times the channels.
Where there are many tiles, one kernel does all three steps for some of them at a time, whose v and
m stay in the second-level cache; else each step is a kernel of its own.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, binary, convert, index_value, less
from bessemer.compiler.ir.types import DType, bf16, f32
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    with_group,
)
from bessemer.compiler.schedule.contraction.microkernel import operations, write_contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan
from bessemer.compiler.schedule.convolution import winograd_tiles
from bessemer.compiler.schedule.convolution.depthwise_plan import Planes
from bessemer.compiler.schedule.convolution.winograd_blocks import (
    FEWEST_TILES,
    SHARES,
    block_of,
    column_groups,
    goes_in_steps,
    groups_of_share,
    shares_of,
)
from bessemer.compiler.schedule.convolution.winograd_taps import (
    INPUT,
    OUTPUT,
    Taps,
    both_sides,
)
from bessemer.compiler.targets.machine import Target

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]

FEWEST_PIXELS = 256
"""For so many, transforming the weights takes half of the time that it saves."""
_FEWEST_CHANNELS_BF16 = 32
"""Of twice as fast products the transforms, which stay f32, are a larger part."""
DYNAMIC_BLOCK = 42
"""Tiles in a block of an unknown number of them."""


@dataclass(frozen=True, eq=False)
class Winograd:
    """A convolution of stride 1 whose numbers of channels and columns are known.

    `x(n, row, column, channel)` is an element of the input, with its padding: windows begin at
    row 0, column 0. `outputs` are the result's images, rows and columns, `taps` those along rows
    and columns. `u` is what `transform_weights` gives, packed. `epilogue` is that of a contraction.
    `dtype` is that of what is multiplied, u and v; everything else is f32. Of volumes, which have
    `planes`, `n` counts the planes of all. Where the products are `on_tiles` of a matrix unit, u
    and v are the parts of f32 numbers (winograd_tiles.py), and the number of tiles is known.
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
        """Products an output is made of."""
        return self.taps[0].points * self.taps[1].points

    @property
    def depth(self) -> int:
        """Numbers in a sum: the channels of all planes that a window sees."""
        return self.channels * (self.planes.taps if self.planes else 1)

    def images_seen(self, image: Size) -> list[Size]:
        """The images of the input that are summed into one of the result."""
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
        """Tiles in all images."""
        return self.outputs[0] * self.tiles[0] * self.tiles[1]


@dataclass(frozen=True, eq=False)
class Stages:
    """The kernel bodies in order, and the working memory `v` and `m` that they share."""

    bodies: tuple[loops.Block, ...]
    operations: tuple[Size, ...]
    v: Buffer
    m: Buffer


def pays(
    outputs: Sequence[Size],
    channels: Size,
    columns: Size,
    dtype: DType,
    taps: tuple[Taps, Taps] = (Taps(), Taps()),
    constant: bool = True,
) -> bool:
    """Whether the transforms cost less than the products that they save; that of weights which are
    no `constant` among them."""
    if dtype not in (f32, bf16) or not isinstance(channels, int) or not isinstance(columns, int):
        return False
    if dtype is bf16 and not (constant and min(channels, columns) >= _FEWEST_CHANNELS_BF16):
        return False
    threes = [axis.count == 3 for axis in taps]
    if not any(threes) or min(channels, columns) < (16 if all(threes) else 64):
        return False
    known = prod(size for size in outputs if isinstance(size, int))
    if not constant and known < FEWEST_PIXELS:
        return False
    for axis, size in zip(taps, outputs[1:]):
        if isinstance(size, int) and axis.count == 3:
            tiles = axis.tiles(size)
            assert isinstance(tiles, int)
            if (size < 6 and known < FEWEST_PIXELS) or tiles * 2 > 1.25 * size:
                return False
    return True


def lower_winograd(work: Winograd, target: Target, threads: int = 2) -> Stages:
    """The kernels: one that goes by blocks of tiles, or one for each step."""
    most, unit, number = _most_tiles(work, target), FEWEST_TILES, work.dtype.bytes
    if work.on_tiles:
        unit, number = winograd_tiles.ROWS, winograd_tiles.NUMBER_BYTES
    weights = work.points * work.depth * work.columns * number / target.l2_bytes
    if goes_in_steps(work.count, work.tiles[0] * work.tiles[1], most, weights, threads, unit):
        return _three_kernels(work, target, threads)
    if isinstance(work.count, int):
        return _one_kernel(work, target, block_of(work.count, most, threads, unit))
    # Whole register tiles: two rows more, of 16, would take half as long again.
    return _one_kernel(work, target, min(most, DYNAMIC_BLOCK) // FEWEST_TILES * FEWEST_TILES)


def _most_tiles(work: Winograd, target: Target) -> int:
    """Tiles whose v and m fill a quarter of the second-level cache: u must have room, too."""
    if work.on_tiles:  # m is a panel wide
        number = winograd_tiles.NUMBER_BYTES
        tile_bytes = work.points * (work.depth * number + winograd_tiles.PANEL * f32.bytes)
        return max(winograd_tiles.ROWS, target.l2_bytes // 2 // tile_bytes)
    tile_bytes = work.points * (work.depth * work.dtype.bytes + work.columns * f32.bytes)
    return max(FEWEST_TILES, target.l2_bytes // 4 // tile_bytes)


def _one_kernel(work: Winograd, target: Target, block: int) -> Stages:
    if work.on_tiles:
        groups = work.columns // winograd_tiles.PANEL
    else:
        groups = column_groups(work.count, work.columns, winograd_tiling(work, target).panel)
    blocks = dims.ceildiv(work.count, block)
    # Each share has its own v and m, and does its blocks one after the other.
    shares, turns = SHARES, dims.ceildiv(blocks, SHARES)
    if isinstance(blocks, int):
        shares, turns = shares_of(blocks)
    v, m = _memory(work, shares, block, groups)
    builder = KernelBuilder()
    with builder.loop(shares, "parallel") as share:
        begin, mine = groups_of_share(blocks, groups, share, turns)
        with builder.loop(mine) as turn:
            group = dims.mod(begin + turn, groups)
            first = dims.floordiv(begin + turn, groups) * block
            tiles = dims.minimum(block, work.count - first)
            tiles = builder.define(index_value(tiles), "tiles").index
            if isinstance(work.count, int):
                tiles = block  # the last block computes some tiles again
            # What a block's first group has transformed is there for the others of its share.
            is_new = binary("eq", index_value(turn * group), 0)
            needed = builder.when(is_new) if groups > 1 else nullcontext()
            with needed, builder.loop(tiles) as tile:
                _transform_input(builder, work, first + tile, v, (share, tile))
            if work.on_tiles:
                winograd_tiles.write_products(builder, v, work.u, m, share, group, target)
            else:
                contraction = _products(work, v, m, share, tiles, target, (group, groups))
                write_contraction(builder, contraction, plan(contraction, target, 1), target)
            with builder.loop(tiles) as tile:
                _transform_output(builder, work, first + tile, m, (share, tile), group)
    whole = work.count * (2 * work.points * work.depth * work.columns)
    return Stages((builder.block(),), (dims.ceildiv(whole, shares),), v, m)


def _three_kernels(work: Winograd, target: Target, threads: int) -> Stages:
    rows, columns = work.tiles
    count = work.outputs[0] * rows
    v, m = _memory(work, 1, work.count)
    first, second, third = KernelBuilder(), KernelBuilder(), KernelBuilder()
    with first.loop(count, "parallel") as row, first.loop(columns) as column:
        tile = row * columns + column
        _transform_input(first, work, tile, v, (0, tile))
    products: Size
    if work.on_tiles:
        products = winograd_tiles.write_products(second, v, work.u, m, 0, 0, target, "parallel")
    else:
        contraction = _products(work, v, m, 0, work.count, target)
        tiling = plan(contraction, target, threads)
        write_contraction(second, contraction, tiling, target, "parallel")
        products = operations(contraction, tiling)
    with third.loop(count, "parallel") as row, third.loop(columns) as column:
        tile = row * columns + column
        _transform_output(third, work, tile, m, (0, tile))
    costs = (columns * (64 * work.depth), products, columns * (64 * work.columns))
    return Stages((first.block(), second.block(), third.block()), costs, v, m)


def winograd_tiling(work: Winograd, target: Target) -> Tiling:
    """What `u` must be packed for."""
    v, m = _memory(work, 1, DYNAMIC_BLOCK)
    return plan(_products(work, v, m, 0, DYNAMIC_BLOCK, target), target)


def _memory(work: Winograd, blocks: int, tiles: Size, groups: int = 1) -> tuple[Buffer, Buffer]:
    m = Buffer("m", f32, (blocks, work.points, tiles, work.columns // groups))
    if work.on_tiles:
        return winograd_tiles.parts_memory(blocks, work.points, tiles, work.depth), m
    return Buffer("v", work.dtype, (blocks, work.points, tiles, work.depth)), m


def _place(builder: KernelBuilder, work: Winograd, tile: Size) -> tuple[Size, Size, Size]:
    """Image, first row and first column of a tile's outputs; `tile` counts through all images.

    A number beyond the last tile is that of the last one, which is then computed again.
    """
    rows, columns = work.tiles
    known = builder.define(index_value(dims.minimum(tile, work.count - 1)), "tile").index
    row = builder.define(index_value(dims.floordiv(known, columns)), "row").index
    top = work.taps[0].first(dims.mod(row, rows))
    return dims.floordiv(row, rows), top, work.taps[1].first(known - row * columns)


def _products(
    work: Winograd,
    v: Buffer,
    m: Buffer,
    block: Size,
    tiles: Size,
    target: Target,
    part: tuple[Size, int] = (0, 1),
) -> Contraction:
    """The matrix products of a block's first tiles, one a point; of one among some groups of
    columns, whose panels are a matrix of their own."""
    group, groups = part

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[loops.Store, ...]:
        return (loops.Store(m, (block, *row, column), total),)

    rows = (RowAxis(work.points, v.shape[2] * work.depth, groups), RowAxis(tiles, work.depth))
    depth = (DepthAxis(work.depth, 1),)
    base = v.offset((block, 0, 0, 0))
    columns = work.columns // groups
    made = Contraction(
        dtype=f32,
        a=v,
        a_base=base,
        rows=rows,
        depth=depth,
        columns=columns,
        b=work.u,
        epilogue=epilogue,
        b_matrix=group,
    )
    return with_group(made, target)


def _transform_input(
    builder: KernelBuilder,
    work: Winograd,
    tile: Size,
    v: Buffer,
    at: tuple[Size, Size],
) -> None:
    """All channels of one tile's inputs."""
    image, top, left = _place(builder, work, tile)
    _, rows, columns = work.outputs
    ys = work.taps[0].inputs(builder, top, rows)
    xs = work.taps[1].inputs(builder, left, columns)

    def points(seen: Size, channel: Size) -> list[Expression]:
        inputs = [[convert(work.x(seen, y, x, channel), f32) for x in xs] for y in ys]
        return [p for row in both_sides(builder, work.taps, INPUT, inputs) for p in row]

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


def _transform_output(
    builder: KernelBuilder,
    work: Winograd,
    tile: Size,
    m: Buffer,
    at: tuple[Size, Size],
    group: Size = 0,
) -> None:
    """All columns of m, a group, of one tile's outputs; those outside of the image are left out."""
    image, top, left = _place(builder, work, tile)
    _, rows, columns = work.outputs
    down, across = work.taps
    begin = group * m.shape[-1]
    with builder.loop(m.shape[-1], "vector", lanes=0) as column:
        inputs = [
            [m[at[0], across.points * y + x, at[1], column] for x in range(across.points)]
            for y in range(down.points)
        ]
        values = both_sides(builder, work.taps, OUTPUT, inputs)
        for y, x in product(range(down.outputs), range(across.outputs)):
            row, place = top + y * down.dilation, left + x * across.dilation
            with builder.when(less(row, rows) & less(place, columns)):
                for store in work.epilogue((image, row, place), begin + column, values[y][x]):
                    builder.append(store)
