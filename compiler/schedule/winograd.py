"""Winograd's F(2x2, 3x3): a 3x3 convolution with 16 products for 4 outputs in place of 36.

    v[p][tile, c] = (B' d B)[p]          d: the 4 x 4 inputs of a tile of 2 x 2 outputs
    m[p][tile, o] = sum over c of v[p][tile, c] * u[p][c, o]        for each of the 16 points p
    y[tile, o]    = A' m A               u = G w G', packed at compile time

The sums are shorter than those of the direct form, so the result is more exact as well.
Where an image is large enough, one kernel does all three steps for a few rows of tiles at a time,
whose v and m stay in the second-level cache; else each step is a kernel of its own.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.ir.types import Array, DType, f32
from bessemer.compiler.schedule.contraction import Contraction, DepthAxis, RowAxis
from bessemer.compiler.schedule.microkernel import write_contraction
from bessemer.compiler.schedule.tiles import Tiling, plan
from bessemer.compiler.targets.machine import Target

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]
Matrix: TypeAlias = tuple[tuple[float, ...], ...]

POINTS = 16
SHARES = 16
"""The most parts, each with working memory of its own, that the threads share."""
_INPUT: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


@dataclass(frozen=True, eq=False)
class Winograd:
    """A 3x3 convolution of stride 1 whose sizes are all known.

    `x(n, row, column, channel)` is an element of the input, with its padding: windows begin at
    row 0, column 0. If the result has an odd number of rows or columns, x must have a value (any
    finite one) one row or column beyond the last window. `outputs` are the result's images, rows
    and columns. `u` is what `transform_weights` gives, packed. `epilogue` is that of a contraction.
    """

    x: Callable[[Size, Size, Size, Size], Expression]
    outputs: tuple[int, int, int]
    channels: int
    columns: int
    u: Buffer
    epilogue: Epilogue

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of 2 x 2 tiles in an image."""
        _, rows, columns = self.outputs
        return -(-rows // 2), -(-columns // 2)


@dataclass(frozen=True, eq=False)
class Stages:
    """The kernel bodies in order, and the working memory `v` and `m` that they share."""

    bodies: tuple[loops.Block, ...]
    operations: tuple[int, ...]
    v: Buffer
    m: Buffer


def transform_weights(w: Array) -> Array:
    """[3, 3, c, o] to [16, c, o], in float64 before the last rounding."""
    g = np.array(_WEIGHTS)
    u: Array = np.einsum("ai,bj,ijco->abco", g, g, w.astype(np.float64)).astype(w.dtype)
    return u.reshape(POINTS, *w.shape[2:])


def pays(outputs: Sequence[Size], channels: Size, columns: Size, dtype: DType) -> bool:
    """Whether the transforms cost less than the products that they save."""
    sizes = [size for size in (*outputs, channels, columns) if isinstance(size, int)]
    if len(sizes) < 5 or dtype is not f32:
        return False
    _, rows, wide, depth, width = sizes
    return min(depth, width) >= 32 and min(rows, wide) >= 6


def lower_winograd(work: Winograd, target: Target, threads: int = 2) -> Stages:
    """The kernels; one if its rows of tiles give every thread enough to do."""
    rows, _ = work.tiles
    block = _block(work, target)
    items = work.outputs[0] * rows // block
    if items >= 4 * threads or items == work.outputs[0] * rows:
        return _one_kernel(work, target, block)
    return _three_kernels(work, target, threads)


def _block(work: Winograd, target: Target) -> int:
    """Rows of tiles whose v and m fill half of the second-level cache; a divisor of all rows."""
    rows, columns = work.tiles
    row_bytes = POINTS * columns * (work.channels + work.columns) * f32.bytes
    most = max(1, target.l2_bytes // 2 // row_bytes)
    return max(size for size in range(1, rows + 1) if rows % size == 0 and size <= most)


def _one_kernel(work: Winograd, target: Target, block: int) -> Stages:
    rows, columns = work.tiles
    blocks = work.outputs[0] * rows // block
    # Each share has its own v and m, and does its blocks one after the other.
    shares = max(size for size in range(1, min(blocks, SHARES) + 1) if blocks % size == 0)
    v, m = _memory(work, shares, block * columns)
    builder = KernelBuilder()
    with builder.loop(shares, "parallel") as share, builder.loop(blocks // shares) as turn:
        first = (share * (blocks // shares) + turn) * block
        with builder.loop(block) as row, builder.loop(columns) as column:
            place = _place(work, first + row, column)
            _transform_input(builder, work, place, v, (share, row * columns + column))
        contraction = _products(work, v, m, share)
        tiling = plan(contraction, target, 1)
        write_contraction(builder, contraction, tiling, target)
        with builder.loop(block) as row, builder.loop(columns) as column:
            place = _place(work, first + row, column)
            _transform_output(builder, work, place, m, (share, row * columns + column))
    operations = 2 * POINTS * block * columns * work.channels * work.columns
    operations *= blocks // shares
    return Stages((builder.block(),), (operations,), v, m)


def _three_kernels(work: Winograd, target: Target, threads: int) -> Stages:
    rows, columns = work.tiles
    count = work.outputs[0] * rows
    v, m = _memory(work, 1, count * columns)
    first, second, third = KernelBuilder(), KernelBuilder(), KernelBuilder()
    with first.loop(count, "parallel") as row, first.loop(columns) as column:
        _transform_input(first, work, _place(work, row, column), v, (0, row * columns + column))
    contraction = _products(work, v, m, 0)
    tiling = plan(contraction, target, threads)
    write_contraction(second, contraction, tiling, target, "parallel")
    with third.loop(count, "parallel") as row, third.loop(columns) as column:
        _transform_output(third, work, _place(work, row, column), m, (0, row * columns + column))
    products = 2 * tiling.block * tiling.height * tiling.panel * work.channels
    costs = (64 * columns * work.channels, products, 64 * columns * work.columns)
    return Stages((first.block(), second.block(), third.block()), costs, v, m)


def winograd_tiling(work: Winograd, target: Target) -> Tiling:
    """What `u` must be packed for."""
    v, m = _memory(work, 1, work.tiles[0] * work.tiles[1])
    return plan(_products(work, v, m, 0), target)


def _memory(work: Winograd, blocks: int, tiles: int) -> tuple[Buffer, Buffer]:
    return (
        Buffer("v", f32, (blocks, POINTS, tiles, work.channels)),
        Buffer("m", f32, (blocks, POINTS, tiles, work.columns)),
    )


def _place(work: Winograd, row: Size, column: Size) -> tuple[Size, Size, Size]:
    """Image, first row and first column of a tile's outputs; `row` counts through all images."""
    rows, _ = work.tiles
    return dims.floordiv(row, rows), 2 * dims.mod(row, rows), 2 * column


def _products(work: Winograd, v: Buffer, m: Buffer, block: Size) -> Contraction:
    """The sixteen matrix products of a block."""
    tiles = v.shape[2]

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[loops.Store, ...]:
        return (loops.Store(m, (block, *row, column), total),)

    rows = (RowAxis(POINTS, tiles * work.channels, 1), RowAxis(tiles, work.channels))
    depth = (DepthAxis(work.channels, 1),)
    base = v.offset((block, 0, 0, 0))
    return Contraction(f32, v, base, rows, depth, work.columns, work.u, epilogue)


def _transform_input(
    builder: KernelBuilder,
    work: Winograd,
    place: tuple[Size, Size, Size],
    v: Buffer,
    at: tuple[Size, Size],
) -> None:
    """All channels of one tile's sixteen inputs."""
    image, top, left = place
    with builder.loop(work.channels, "vector", lanes=0) as channel:
        inputs = [[work.x(image, top + y, left + x, channel) for x in range(4)] for y in range(4)]
        values = _both_sides(builder, _INPUT, inputs)
        for point, value in enumerate(value for row in values for value in row):
            builder.store(v, (at[0], point, at[1], channel), value)


def _transform_output(
    builder: KernelBuilder,
    work: Winograd,
    place: tuple[Size, Size, Size],
    m: Buffer,
    at: tuple[Size, Size],
) -> None:
    """All columns of one tile's four outputs; those outside of the image are left out."""
    image, top, left = place
    _, rows, columns = work.outputs
    with builder.loop(work.columns, "vector", lanes=0) as column:
        inputs = [[m[at[0], 4 * y + x, at[1], column] for x in range(4)] for y in range(4)]
        values = _both_sides(builder, _OUTPUT, inputs)
        for y, x in product(range(2), range(2)):
            inside = less(top + y, rows) & less(left + x, columns)
            with builder.when(inside):
                for store in work.epilogue((image, top + y, left + x), column, values[y][x]):
                    builder.append(store)


def _both_sides(
    builder: KernelBuilder, matrix: Matrix, inputs: Sequence[Sequence[Expression]]
) -> list[list[Expression]]:
    """matrix . inputs . matrix', with every value in a local."""
    held = [[builder.define(value, "d").value for value in row] for row in inputs]
    half = [
        [builder.define(_combine(row, [line[x] for line in held]), "d").value for x in range(4)]
        for row in matrix
    ]
    return [[_combine(row, line) for row in matrix] for line in half]


def _combine(factors: Sequence[float], values: Sequence[Expression]) -> Expression:
    """The sum of the values with factors of 1, 0 and -1, a positive one first."""
    terms = sorted(
        ((factor, value) for factor, value in zip(factors, values) if factor),
        key=lambda term: -term[0],
    )
    total = terms[0][1]
    for factor, value in terms[1:]:
        total = total + value if factor > 0 else total - value
    return total
