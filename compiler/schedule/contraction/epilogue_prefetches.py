"""Prefetches, while a tile's sums are added up, the cache lines that its epilogue will touch.

A store to a line that is in no cache of the core has to wait for it, and so do the stores after it.
The hardware prefetcher does not fetch these lines, because rows are often a multiple of 4 KiB
apart. Measured without and with prefetches, in ms, products of rows x depth x columns on Zen 4:

    1600 x 256 x 1024, two cores                               4.79 -> 4.32
    3136 x 64 x 256, one core                                  1.51 -> 1.17
    1024 x 256 x 256 + residual, one core                      1.28 -> 1.15
    1024 x 256 x 1024 * derivative of GELU, one core           5.75 -> 5.06
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.epilogue_rows import (
    COLUMN,
    loads_along_columns,
    rows_in_steps,
)
from bessemer.compiler.schedule.contraction.tile import Place, Tile
from bessemer.compiler.targets.machine import CACHE_LINE, Target

_LEVEL = 2


@dataclass(frozen=True, eq=False)
class Iteration:
    """An iteration of the loop along the depth: its number, and how many iterations there are."""

    number: Size
    count: Size


def epilogue_prefetches(
    contraction: Contraction, target: Target, place: Place, tile: Tile, iteration: Iteration
) -> Iterator[Prefetch]:
    """The prefetches for this iteration of the loop along the depth: an even share of the lines
    that the tile's epilogue reads and writes.

    There are none for arrays that leave room in the second-level cache, nor for tiles whose rows
    are not evenly spaced.
    """
    rows = rows_in_steps(tile.indices)
    if rows is None:
        return
    each = -(-rows.count // iteration.count) if isinstance(iteration.count, int) else 1
    for number in range(each):
        row = rows.index(dims.minimum(iteration.number * each + number, rows.count - 1))
        for buffer, offset in _touched(contraction, row):
            size, item = dims.product(buffer.shape), buffer.dtype.bytes
            if isinstance(size, int) and size * item < target.l2_bytes:
                continue
            for begin in range(0, place.width, CACHE_LINE // item):
                at = dims.substitute(offset, {COLUMN: place.column + begin})
                yield Prefetch(buffer, at, _LEVEL)


def _touched(contraction: Contraction, row: tuple[Size, ...]) -> dict[tuple[Buffer, Size], None]:
    """The buffers and flat offsets that the epilogue reads and writes in a row, without duplicates;
    the offsets contain the symbol COLUMN."""
    found: dict[tuple[Buffer, Size], None] = {}
    for store in contraction.stores_at(row, dims.atom(COLUMN)):
        found |= {(load.buffer, load.indices[0]): None for load in loads_along_columns(store)}
        found[store.buffer, store.buffer.offset(store.indices)] = None
    return found
