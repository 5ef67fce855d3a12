"""How the work of a recurrence is cut, and how its weights lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, constant, less
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell
from bessemer.compiler.targets.machine import CACHE_LINE

MOST_SUMS = 8
"""Vectors of sums at once: enough to keep two multiply-add units busy, and few enough for AVX2."""
TEAM_OPERATIONS = 1 << 16
"""Operations of a product from which a team pays: the barrier behind it takes about as long as
20,000."""


_SETS_BYTES = 4096
"""Lines so far apart share a set of the first-level cache, on all machines that we know."""


def padded_columns(columns: Size, element: int) -> Size:
    """The length of rows of so many columns whose lines do not all lie in one or two sets of the
    first-level cache: a tile reads the same column of more rows than a set has room for."""
    if not isinstance(columns, int) or columns * element % (_SETS_BYTES // 2):
        return columns
    return columns + CACHE_LINE // element


@dataclass(frozen=True, eq=False)
class Layout:
    """How the work is cut. `rows` is the most that share a load.

    `packed` has each product's weights as [panels, H, gates, width], with as many panels as it
    takes; the vector loops over a panel have these lanes. Without it the weights are read as they
    came, in one panel. `blocked` products have a gate after the other (recurrence_blocks.py), and
    weights as [panels, gates, H, width]. Where an instruction multiplies a `group` of numbers,
    weights are packed as [panels, H / group, gates, width, group]: those of bytes, which come with
    the `totals` of their columns, and pairs of bfloat16 (recurrence_pairs.py). With `packs` the
    kernel of a team packs them itself. `block_rows` rows may be a block that a member of a small
    team computes by itself. `far` weights are more than the second-level cache holds.
    """

    rows: int = 1
    packed: tuple[Buffer, ...] = ()
    width: int = 0
    lanes: int = 0
    team: bool = False
    totals: Buffer | None = None
    packs: bool = False
    blocked: bool = False
    group: int = 1
    block_rows: int = 0
    far: bool = False


def pack_panels(
    builder: KernelBuilder, cell: Cell, layout: Layout, first: Size, count: Size
) -> None:
    """Packs the weights of `count` panels, from `first` on."""
    hidden, width = cell.h.shape[1], layout.width
    for product, packed in zip(cell.products, layout.packed, strict=True):
        depth = packed.shape[2 if layout.blocked else 1]
        with builder.loop(count) as i, builder.loop(depth) as k:
            panel = first + i
            for gate, number in enumerate(product.gates):
                with builder.loop(width, "vector", lanes=layout.lanes) as j:
                    column = panel * width + j
                    inside = None if hidden % width == 0 else less(column, hidden)
                    place = (product.first + k, number * hidden + column)
                    value = expr.load(cell.recurrent, place, inside)
                    if inside is not None:
                        value = expr.select(inside, value, constant(0, value.dtype))
                    at = (gate, k) if layout.blocked else (k, gate)
                    builder.store(packed, (panel, *at, j), value)
