"""Winograd's products on a matrix unit, which multiplies a float32 number as three bfloat16 parts.

The transformed inputs are stored as their parts, in blocks of 32 channels as in
matrix_tiles_layout.py. The rows of a matrix unit's tile are tiles of the image, which thus are
neighbours in memory:

    v[block, point, channel // 32, part, tile, channel % 32]

The columns are multiplied one panel at a time, for all points, so that the last transform finds a
panel's sums in a near cache. For this the weights lie panel by panel, and point by point in a
panel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.loops import LoopKind, Store
from bessemer.compiler.ir.types import Array, bf16, f32
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis, RowAxis
from bessemer.compiler.schedule.matrix_tiles import matrix_tiles_plan
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles import write_on_tiles
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    COLUMNS,
    SPLIT,
    Runs,
    pack,
    packed_shape,
    split_parts,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import (
    STORE_PARTS,
    MatrixTiling,
    plan_tiles,
)
from bessemer.compiler.schedule.nests.nests import flat
from bessemer.compiler.targets.machine import Target

PANEL = 2 * COLUMNS
"""Columns that are multiplied together."""
ROWS = 32
"""Tiles of the image that are multiplied at once each time a panel of weights is read."""
NUMBER_BYTES = SPLIT.parts * bf16.bytes
_CHANNELS = SPLIT.depth
_SMALL_WEIGHTS = 400 << 10
"""Weights of up to this many bytes stay in the second-level cache."""


def fits(channels: int, columns: int) -> bool:
    """Whether the channels are whole blocks, and the columns whole panels."""
    return channels % _CHANNELS == 0 and columns % PANEL == 0


def parts_memory(blocks: int, points: int, tiles: Size, channels: int) -> Buffer:
    """The buffer for the transformed inputs of `blocks` blocks of `tiles` tiles."""
    return Buffer("v", bf16, (blocks, points, channels // _CHANNELS, SPLIT.parts, tiles, _CHANNELS))


@contextmanager
def channel_loops(builder: KernelBuilder, channels: int) -> Iterator[Size]:
    """Opens loops over all channels, as vectors that each lie in one block of channels."""
    with (
        builder.loop(channels // _CHANNELS) as block,
        builder.loop(_CHANNELS, "vector", lanes=0) as within,
    ):
        yield block * _CHANNELS + within


def store_parts(
    builder: KernelBuilder,
    v: Buffer,
    at: tuple[Size, Size],
    channel: Size,
    values: Iterable[Expression],
) -> None:
    """Stores all points of one channel of a tile, as parts; `at` is (block, tile in the block)."""
    block, within = dims.floordiv(channel, _CHANNELS), dims.mod(channel, _CHANNELS)
    for point, value in enumerate(values):
        number = builder.define(value, "v").value
        for part, piece in enumerate(split_parts(number)):
            builder.store(v, (at[0], point, block, part, at[1], within), piece)


def pack_points(u: Array) -> Array:
    """Packs transformed weights [points, channels, columns] in the order in which the products read
    them."""
    points, channels, columns = u.shape
    panels = u.reshape(points, channels, columns // PANEL, PANEL).transpose(2, 0, 1, 3)
    return pack(panels.reshape(-1, channels, PANEL), SPLIT, _runs(channels), PANEL)


def points_shape(points: int, channels: int, columns: int) -> tuple[Size, ...]:
    """The shape of what `pack_points` returns."""
    return packed_shape(SPLIT, _runs(channels), points * (columns // PANEL), PANEL, PANEL)


def _runs(channels: int) -> Runs:
    return Runs(channels // _CHANNELS, _CHANNELS, _CHANNELS)


def is_faster(points: int, tiles: int, channels: int, columns: int, target: Target) -> bool:
    """Whether the model predicts that the matrix unit multiplies faster than the vector unit."""
    v, u = parts_memory(1, points, tiles, channels), Buffer("u", bf16, (1,))
    m = Buffer("m", f32, (1, points, tiles, columns))
    products = _products(v, u, m, 0, 0, columns // PANEL)
    tiling = _tiling(products, v, points * channels * columns * NUMBER_BYTES, target)
    numbers = Buffer("v", f32, (points, tiles, channels))
    return matrix_tiles_plan.is_faster(tiling, replace(products, a=numbers), STORE_PARTS)


def write_products(
    builder: KernelBuilder,
    v: Buffer,
    u: Buffer,
    m: Buffer,
    block: Size,
    panel: Size,
    target: Target,
    kind: LoopKind = "serial",
) -> int:
    """Writes the sums of a block into a kernel, for as many panels as m has room for, from `panel`
    on. Returns the operations of an item."""
    width = m.shape[-1]
    assert isinstance(width, int)
    products = _products(v, u, m, block, panel, width // PANEL)
    tiling = _tiling(products, v, dims.product(u.shape) * bf16.bytes, target)
    write_on_tiles(builder, products, tiling, target, kind)
    return tiling.operations()


def _products(
    v: Buffer, u: Buffer, m: Buffer, block: Size, panel: Size, panels: int
) -> Contraction:
    """The sums of `panels` panels of a block's tiles, from `panel` on. `m` has room for these
    panels only."""
    _, points, blocks, parts, tiles, _ = v.shape
    assert isinstance(points, int) and isinstance(tiles, int)

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        place, point, tile = row
        return (Store(m, (block, point, tile, place * PANEL + column), total),)

    run = DepthAxis(_CHANNELS, 1)
    along = DepthAxis(blocks, parts * tiles * _CHANNELS)
    rows = (
        RowAxis(panels, 0, points),
        RowAxis(points, blocks * parts * tiles * _CHANNELS, 1),
        RowAxis(tiles, _CHANNELS),
    )
    base = v.offset((block, 0, 0, 0, 0, 0))
    return Contraction(
        dtype=f32,
        a=flat(v),
        a_base=base,
        rows=rows,
        depth=(along, run),
        columns=PANEL,
        b=flat(u),
        epilogue=epilogue,
        b_matrix=panel * points,
    )


def _tiling(products: Contraction, v: Buffer, weights: Size, target: Target) -> MatrixTiling:
    """The tiling for the matrix unit; `weights` is the number of bytes of all weights."""
    tiling = plan_tiles(products, SPLIT, target, v.shape[-2] * _CHANNELS)
    assert tiling is not None
    return replace(tiling, prefetch=not isinstance(weights, int) or weights > _SMALL_WEIGHTS)
