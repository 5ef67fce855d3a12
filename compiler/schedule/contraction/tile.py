"""One register tile of a contraction: where it is in the output, and what its sums read.

microkernel.py makes these records in its loops over tiles, and tile_sums.py writes the code of one
tile from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import DepthAxis


@dataclass(frozen=True, eq=False)
class Place:
    """The part of the output at work: a panel's columns for the rows of a batch.

    `tile` is its number in the block, and `share` says which part of b's next stretch it
    prefetches; `width` is that of the fragments, in columns.
    """

    batch: tuple[Size, ...]
    a_base: Size
    panel: Size
    b_base: Size
    column: Size
    width: int
    tile: Size = 0
    share: Size = 0


@dataclass(frozen=True, eq=False)
class Tile:
    """The rows of a tile: their offsets from its base in `a`, and their indices.

    `first` is the tile's first row in the block's partial sums. `next_base` is the base of the tile
    that is summed after this one, over the same steps.
    """

    a_base: Size
    offsets: tuple[Size, ...]
    indices: tuple[tuple[Size, ...], ...]
    first: Size
    next_base: Size


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of the depth: its axes, and where it begins in `a` and in the panel's steps.

    A step is a group of products. `length` is the number of steps; as many follow in b (or the
    next panel's do).
    """

    axes: tuple[DepthAxis, ...]
    a_offset: Size
    begin: Size
    length: Size
