"""Lines that a tile's epilogue reads and writes, fetched while its sums are added up.

A store to a line that is in no near cache waits for it, and those behind it wait, too: rows are
often a multiple of 4 KiB apart, which is more than the processor fetches ahead by itself. (Measured
on two cores of Zen 4: 1600 x 256 x 1024 4.79 -> 4.32 ms; on one, 3136 x 64 x 256 1.51 -> 1.17. On
one, with what is read: 1024 x 256 x 256 and a residual 1.28 -> 1.15, with the derivative of GELU
behind 1024 x 256 x 1024 5.75 -> 5.06.)
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.epilogue_rows import (
    COLUMN,
    loads_along_columns,
    rows_in_steps,
)
from bessemer.compiler.targets.machine import CACHE_LINE, Target

_LEVEL = 2


def fetch_lines(
    builder: KernelBuilder,
    contraction: Contraction,
    target: Target,
    indices: Sequence[tuple[Size, ...]],
    column: Size,
    width: int,
    turn: Size,
    turns: Size,
) -> None:
    """Asks for what the epilogue of a tile with these row indices reads and writes in columns from
    `column` on, the part of one of so many turns; not for arrays that leave room in the
    second-level cache."""
    rows = rows_in_steps(indices)
    if rows is None:
        return
    each = -(-rows.count // turns) if isinstance(turns, int) else 1
    for near in range(each):
        row = rows.index(dims.minimum(turn * each + near, rows.count - 1))
        for buffer, offset in _places(contraction, row):
            size, item = dims.product(buffer.shape), buffer.dtype.bytes
            if isinstance(size, int) and size * item < target.l2_bytes:
                continue
            for begin in range(0, width, CACHE_LINE // item):
                place = dims.substitute(offset, {COLUMN: column + begin})
                builder.append(Prefetch(buffer, place, _LEVEL))


def _places(contraction: Contraction, row: tuple[Size, ...]) -> dict[tuple[Buffer, Size], None]:
    """What the epilogue touches in a row, by COLUMN: buffers and offsets, each once."""
    found: dict[tuple[Buffer, Size], None] = {}
    for store in contraction.stores_at(row, dims.atom(COLUMN)):
        found |= {(load.buffer, load.indices[0]): None for load in loads_along_columns(store)}
        found[store.buffer, store.buffer.offset(store.indices)] = None
    return found
