"""Finds the steps of the depth in which a register tile of a banded matrix product has work to do.

A constant mask may make whole bands of a product's operands zero, or leave a part of its result
unread (grouping/diagonal_bands.py finds such bands). A tile then needs to add up only the steps of
the depth where both of its operands may differ from zero:

    rows 28..41 of a left operand that is zero where step > row:            steps 0..41
    columns 32..63 of a right operand that is zero where column > step:     steps from 32 on
    columns 64..95 of rows 28..41 of a result not read where column > row:  no steps

The loop along the depth is unrolled by a few steps. Its first and last iteration may reach over the
edge of the band, where they add zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import Bands


def banded_iterations(
    bands: Bands,
    rows: Sequence[tuple[Size, ...]],
    columns: tuple[Size, int],
    begin: Size,
    length: int,
    count: Size,
) -> tuple[Size, Size]:
    """Returns (first, end): the iterations first <= i < end are those that add something to the
    tile.

    There are `count` iterations of `length` products each, the first of which begins at product
    `begin` of the depth. `rows` are the indices of the tile's rows in the output, of which only the
    last axis is looked at; `columns` is the tile's (first column, width). If there is nothing to
    add up, first equals end.
    """
    lowest, highest = rows[0][-1], rows[-1][-1]
    column, width = columns
    first: Size = 0
    end = count
    if bands.left is not None:
        before, behind = lowest - bands.left.below, highest + bands.left.above + 1
        first = dims.floordiv(dims.maximum(0, before - begin), length)
        end = dims.minimum(end, dims.ceildiv(dims.maximum(0, behind - begin), length))
    if bands.right is not None:
        before, behind = column - bands.right.above, column + width + bands.right.below
        first = dims.maximum(first, dims.floordiv(dims.maximum(0, before - begin), length))
        end = dims.minimum(end, dims.ceildiv(dims.maximum(0, behind - begin), length))
    if bands.sums is not None:
        # Index arithmetic has no conditions: if no column or no row of the tile is in the band,
        # the product is 0, otherwise it is at least `count`, and `end` stays.
        across = dims.maximum(0, highest + bands.sums.above + 1 - column)
        down = dims.maximum(0, column + width + bands.sums.below - lowest)
        end = dims.minimum(end, dims.minimum(across, down) * count)
    return first, dims.maximum(first, end)
