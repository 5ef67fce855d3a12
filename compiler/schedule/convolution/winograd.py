"""Writes the kernels of a convolution by Winograd's method F(2, 3), along one spatial axis or both.

A 3x3 convolution takes 16 products per 2 x 2 outputs in place of 36:

    v[p][tile, c] = (B' d B)[p]          d: the 4 x 4 inputs of a tile of 2 x 2 outputs
    m[p][tile, o] = sum over c of v[p][tile, c] * u[p][c, o]        for each of the 16 points p
    y[tile, o]    = A' m A               u = G w G', packed at compile time

The sums are shorter than those of the direct convolution, so float32 results are also more exact.
bfloat16 results are not: rounding u and v makes a layer's error 1.7 times the direct one's.

With a dilation, the outputs of a tile are as far apart as the taps. An axis with one tap stays as
it is. More than three taps are cut into segments of three and two, whose products are added to m
one after the other: a 7x7 convolution takes 100 products in place of 196. A volume counts as one
image for each of its planes, and its sums go over all planes that a window sees, so that v and u
have the channels of all these planes.

If there are many tiles, one kernel does all three steps for a block of tiles at a time, whose v and
m stay in the second-level cache. Otherwise each step is a kernel of its own. winograd_cost.py
decides where the method is used, winograd_work.py describes the work and writes the transforms.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, binary, constant, index_value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    with_group,
)
from bessemer.compiler.schedule.contraction.microkernel import operations, write_contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan
from bessemer.compiler.schedule.convolution import winograd_tiles
from bessemer.compiler.schedule.convolution.winograd_blocks import (
    FEWEST_TILES,
    SHARES,
    block_of,
    column_groups,
    even_block_of,
    goes_in_steps,
    groups_of_share,
    shares_of,
)
from bessemer.compiler.schedule.convolution.winograd_taps import Part
from bessemer.compiler.schedule.convolution.winograd_work import (
    Winograd,
    transform_input,
    transform_output,
)
from bessemer.compiler.targets.machine import Target

DYNAMIC_BLOCK = 42
"""Tiles in a block if only the run knows how many tiles there are."""


@dataclass(frozen=True, eq=False)
class Stages:
    """The kernel bodies in order, with the scalar operations of one parallel iteration of each, and
    the working memory `v` and `m` that they share."""

    bodies: tuple[loops.Block, ...]
    operations: tuple[Size, ...]
    v: Buffer
    m: Buffer


def lower_winograd(work: Winograd, target: Target, threads: int = 2) -> Stages:
    """The kernels: a single one that works by blocks of tiles, or one for each of the three
    steps."""
    most, unit, number = _most_tiles(work, target), FEWEST_TILES, work.dtype.bytes
    if work.on_tiles:
        unit, number = winograd_tiles.ROWS, winograd_tiles.NUMBER_BYTES
    weights = work.points * work.depth * work.columns * number / target.l2_bytes
    of_image = work.tiles[0] * work.tiles[1]
    in_steps = goes_in_steps(work.count, of_image, most, weights, threads, unit)
    if in_steps and work.is_of_threes:
        return _three_kernels(work, target, threads)
    if isinstance(work.count, int) and not work.is_of_threes:
        return _one_kernel(work, target, even_block_of(work.count, most, threads))
    if isinstance(work.count, int):
        return _one_kernel(work, target, block_of(work.count, most, threads, unit))
    # A multiple of the rows of a register tile: 16 rows, two more than one tile has, would take
    # half as long again as 14.
    return _one_kernel(work, target, min(most, DYNAMIC_BLOCK) // FEWEST_TILES * FEWEST_TILES)


def _most_tiles(work: Winograd, target: Target) -> int:
    """The number of tiles whose v and m fill a quarter of the second-level cache; u needs room
    there, too."""
    if work.on_tiles:  # m is a panel wide
        number = winograd_tiles.NUMBER_BYTES
        tile_bytes = work.points * (work.depth * number + winograd_tiles.PANEL * f32.bytes)
        return max(winograd_tiles.ROWS, target.l2_bytes // 2 // tile_bytes)
    tile_bytes = work.points * (work.depth * work.dtype.bytes + work.columns * f32.bytes)
    # For signals (one column), small blocks would read the weights of the segments too often from
    # the third-level cache.
    share = 2 if work.is_in_segments and work.outputs[1] == 1 else 4
    return max(FEWEST_TILES, target.l2_bytes // share // tile_bytes)


def _one_kernel(work: Winograd, target: Target, block: int) -> Stages:
    if work.is_in_segments:
        groups = 1
    elif work.on_tiles:
        groups = work.columns // winograd_tiles.PANEL
    else:
        groups = column_groups(work.count, work.columns, winograd_tiling(work, target).panel)
    blocks = dims.ceildiv(work.count, block)
    # Each share has its own v and m, and computes its blocks one after the other.
    shares, per_share = SHARES, dims.ceildiv(blocks, SHARES)
    if isinstance(blocks, int):
        shares, per_share = shares_of(blocks)
    v, m = _memory(work, shares, block, groups)
    builder = KernelBuilder()
    with builder.loop(shares, "parallel") as share:
        begin, mine = groups_of_share(blocks, groups, share, per_share)
        with builder.loop(mine) as number:
            group = dims.mod(begin + number, groups)
            first = dims.floordiv(begin + number, groups) * block
            tiles = dims.minimum(block, work.count - first)
            tiles = builder.define(index_value(tiles), "tiles").index
            if isinstance(work.count, int):
                tiles = block  # the last block computes some tiles again
            if work.is_in_segments:
                _add_segments(builder, work, v, m, share, (first, tiles), target)
            else:
                # The first group of columns transforms the inputs, for all groups of its block.
                is_new = binary("eq", index_value(number * group), 0)
                needed = builder.when(is_new) if groups > 1 else nullcontext()
                with needed, builder.loop(tiles) as tile:
                    transform_input(builder, work, first + tile, v, (share, tile), work.parts[0])
                if work.on_tiles:
                    winograd_tiles.write_products(builder, v, work.u, m, share, group, target)
                else:
                    contraction = _products(work, v, m, share, tiles, target, (group, groups))
                    write_contraction(builder, contraction, plan(contraction, target, 1), target)
            with builder.loop(tiles) as tile:
                transform_output(builder, work, first + tile, m, (share, tile), group)
    whole = work.count * (2 * work.matrices * work.depth * work.columns)
    return Stages((builder.block(),), (dims.ceildiv(whole, shares),), v, m)


def _add_segments(
    builder: KernelBuilder,
    work: Winograd,
    v: Buffer,
    m: Buffer,
    share: Size,
    block: tuple[Size, Size],
    target: Target,
) -> None:
    """Writes the products of all segments into m; `block` is the block's first tile and its number
    of tiles."""
    first, tiles = block
    begins = work.parts[0].number == 1
    if not begins:
        with (
            builder.loop(work.points) as point,
            builder.loop(tiles) as tile,
            builder.loop(work.columns, "vector", lanes=0) as column,
        ):
            builder.store(m, (share, point, tile, column), constant(0.0, f32))
    for part in work.parts:
        with builder.loop(part.number) as number:
            with builder.loop(tiles) as tile:
                transform_input(builder, work, first + tile, v, (share, tile), part, number)
            adds = part.first > 0 or not begins
            matrix = part.first + number * part.points
            products = _products_of_part(work, part, v, m, share, tiles, matrix, adds)
            products = with_group(products, target)
            write_contraction(builder, products, plan(products, target, 1), target)


def _three_kernels(work: Winograd, target: Target, threads: int) -> Stages:
    rows, columns = work.tiles
    count = work.outputs[0] * rows
    v, m = _memory(work, 1, work.count)
    first, second, third = KernelBuilder(), KernelBuilder(), KernelBuilder()
    with first.loop(count, "parallel") as row, first.loop(columns) as column:
        tile = row * columns + column
        transform_input(first, work, tile, v, (0, tile), work.parts[0])
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
        transform_output(third, work, tile, m, (0, tile))
    costs = (columns * (64 * work.depth), products, columns * (64 * work.columns))
    return Stages((first.block(), second.block(), third.block()), costs, v, m)


def winograd_tiling(work: Winograd, target: Target) -> Tiling:
    """The tiling that `u` must be packed for."""
    v, m = _memory(work, 1, DYNAMIC_BLOCK)
    return plan(_products(work, v, m, 0, DYNAMIC_BLOCK, target), target)


def _memory(work: Winograd, blocks: int, tiles: Size, groups: int = 1) -> tuple[Buffer, Buffer]:
    m = Buffer("m", f32, (blocks, work.points, tiles, work.columns // groups))
    if work.on_tiles:
        return winograd_tiles.parts_memory(blocks, work.points, tiles, work.depth), m
    return Buffer("v", work.dtype, (blocks, work.points, tiles, work.depth)), m


def _products(
    work: Winograd,
    v: Buffer,
    m: Buffer,
    block: Size,
    tiles: Size,
    target: Target,
    part: tuple[Size, int] = (0, 1),
) -> Contraction:
    """The matrix products of the first `tiles` tiles of a block, one product per point.

    `part` is (group, groups): if the columns are dealt in several groups, only the columns of this
    group are computed. Its panels are a packed matrix of their own.
    """
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


def _products_of_part(
    work: Winograd,
    part: Part,
    v: Buffer,
    m: Buffer,
    block: Size,
    tiles: Size,
    matrix: Size,
    adds: bool,
) -> Contraction:
    """The matrix products of a block's tiles for one segment, whose weights begin with packed
    matrix number `matrix`. They are added to m if `adds`, else stored."""
    across = work.taps[1].points

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[loops.Store, ...]:
        y, x, tile = row
        at = (block, y * across + x, tile, column)
        return (loops.Store(m, at, m[at] + total if adds else total),)

    step, wide = v.shape[2] * work.depth, part.across.points
    return Contraction(
        dtype=f32,
        a=v,
        a_base=v.offset((block, 0, 0, 0)),
        rows=(
            RowAxis(part.down.points, wide * step, wide),
            RowAxis(wide, step, 1),
            RowAxis(tiles, work.depth),
        ),
        depth=(DepthAxis(work.depth, 1),),
        columns=work.columns,
        b=work.u,
        epilogue=epilogue,
        b_matrix=matrix,
    )
