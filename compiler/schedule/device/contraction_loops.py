"""The loop over the tiles of a contraction, on GPUs: one tile of one part of the depth a block.

    parallel block:  contract batch, rows, columns and depth of this block, with its stores

Few rows of tiles at a time are computed column by column, so that what they read stays in the
cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Index
from bessemer.compiler.ir.loops import Block, Contract, Store
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.device.contraction_tiles import Choice, part_of_depth
from bessemer.compiler.targets.nvptx import DeviceTarget

_ROWS_TOGETHER = 8
"""The number of rows of tiles that are computed column by column."""

Stores: TypeAlias = Callable[[Index, Size, Size, Size], tuple[Store, ...]]
"""The stores of a sum, given the batch indices, the row, the column and the part of the depth."""


def tile_loops(draft: Contract, batch_extents: Index, choice: Choice, stores: Stores) -> Block:
    """The body of the kernel: `draft`, the contraction without a tile, cut into the chosen tiles
    and parts of the depth."""
    tile = choice.tile
    builder = KernelBuilder()
    rows, columns = draft.row.extent or 0, draft.column.extent or 0
    down, across = dims.ceildiv(rows, tile.rows), dims.ceildiv(columns, tile.columns)
    tiles = down * across
    per_batch = tiles * choice.split
    with builder.loop(dims.product(batch_extents) * per_batch, "parallel") as block:
        batch = unravel(dims.floordiv(block, per_batch), batch_extents)
        inside = dims.mod(block, per_batch)
        part = dims.floordiv(inside, tiles)
        at = _place(dims.mod(inside, tiles), down, across)
        row, column = builder.index(rows), builder.index(columns)
        begin, end = part_of_depth(part, choice, draft)
        contract = replace(
            draft,
            batch=batch,
            row=row,
            row_begin=at[0] * tile.rows,
            column=column,
            column_begin=at[1] * tile.columns,
            depth_begin=begin,
            depth_end=end,
            stores=stores(batch, dims.atom(row), dims.atom(column), part),
            tile=tile,
        )
        builder.append(contract)
    return builder.block()


def _place(tile: Size, down: Size, across: Size) -> tuple[Size, Size]:
    """The row and column of the tile with this number. Where it can be done, _ROWS_TOGETHER rows of
    tiles are counted column by column."""
    together = _ROWS_TOGETHER
    if not isinstance(down, int) or down % together or across == 1:
        return dims.floordiv(tile, across), dims.mod(tile, across)
    band = dims.floordiv(tile, together * across)
    inside = dims.mod(tile, together * across)
    return band * together + dims.mod(inside, together), dims.floordiv(inside, together)


def threads_of(tile: Tile, target: DeviceTarget) -> ThreadMapping:
    """The threads of a block. Blocks of wgmma tiles are persistent, so their number is given too:
    one for each processor."""
    if tile.level != "wgmma":
        count = tile.warps[0] * tile.warps[1] * 32
        return ThreadMapping(count, count)
    count = 128 * (tile.warps[0] + 1)
    return ThreadMapping(count, count, target.processors)
