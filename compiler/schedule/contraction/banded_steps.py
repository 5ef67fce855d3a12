"""The turns along the depth in which a tile of a product with bands has something to add up.

    rows 28..41 of a left operand that is zero where step > row:            steps 0..41 count
    columns 32..63 of a right operand that is zero where column > step:     steps from 32 on
    columns 64..95 of rows 28..41, where nobody reads column > row:         none does

A turn is a few steps; its first and its last may be outside of the band, and add zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import Bands


def banded_turns(
    bands: Bands,
    rows: Sequence[tuple[Size, ...]],
    columns: tuple[Size, int],
    begin: Size,
    length: int,
    turns: Size,
) -> tuple[Size, Size]:
    """The first of so many turns, each of `length` products of the depth from `begin` on, and the
    one behind the last. `rows` are the tile's indices, `columns` its first column and its width."""
    lowest, highest = rows[0][-1], rows[-1][-1]
    column, width = columns
    first: Size = 0
    end = turns
    if bands.left is not None:
        before, behind = lowest - bands.left.below, highest + bands.left.above + 1
        first = dims.floordiv(dims.maximum(0, before - begin), length)
        end = dims.minimum(end, dims.ceildiv(dims.maximum(0, behind - begin), length))
    if bands.right is not None:
        before, behind = column - bands.right.above, column + width + bands.right.below
        first = dims.maximum(first, dims.floordiv(dims.maximum(0, before - begin), length))
        end = dims.minimum(end, dims.ceildiv(dims.maximum(0, behind - begin), length))
    if bands.sums is not None:
        # How many columns, and rows, of the tile reach into the band: at least one, or none.
        across = dims.maximum(0, highest + bands.sums.above + 1 - column)
        down = dims.maximum(0, column + width + bands.sums.below - lowest)
        end = dims.minimum(end, dims.minimum(across, down) * turns)
    return first, dims.maximum(first, end)
