"""One register tile of a contraction: where it is in the output, and what its sums read.

microkernel.py makes these records in its loops over tiles, and tile_sums.py writes the code of one
tile from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.schedule.contraction.contraction import DepthAxis


@dataclass(frozen=True, eq=False)
class Place:
    """The part of the output that is being computed: one panel of columns, of one matrix of the
    batch.

    `matrix` is the number of the matrix in `b`. `a_base` and `b_base` are the flat offsets in `a`
    of the batch's first row and in `b` of the panel, `column` is the panel's first column, and
    `width` the width of the fragments in columns.
    `tile` is the tile's number in the block; `share` says which part of b's next depth block it
    prefetches.
    """

    batch: tuple[Size, ...]
    matrix: Size
    a_base: Size
    panel: Size
    b_base: Size
    column: Size
    width: int
    tile: Size = 0
    share: Size = 0


@dataclass(frozen=True, eq=False)
class Tile:
    """The rows of a register tile: `offsets` are their distances in `a` from `a_base`, and
    `indices` their indices in the output.

    `first` is the tile's first row in the block's partial sums. `next_base` is the `a_base` of the
    tile that is computed next, over the same steps of the depth; it is used for prefetches.
    """

    a_base: Size
    offsets: tuple[Size, ...]
    indices: tuple[tuple[Size, ...], ...]
    first: Size
    next_base: Size


@dataclass(frozen=True, eq=False)
class DepthBlock:
    """A part of the depth that is summed up at once: its axes, where it begins in `a` (`a_offset`),
    and its first step in the panel (`begin`).

    A step is a group of products. `length` is the number of steps; the prefetches assume that as
    many follow in `b`, in this panel or in the next. `tap` is (axis, index) if the depth block is
    one tap along an axis that is not among `axes`. `is_all`, where only the run knows it, is
    whether the depth has no other block.
    """

    axes: tuple[DepthAxis, ...]
    a_offset: Size
    begin: Size
    length: Size
    tap: tuple[DepthAxis, Size] | None = None
    is_all: Expression | None = None
