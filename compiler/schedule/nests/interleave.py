"""Interleave factors: how many vectors the loops over a row handle side by side, to hide the
latency of arithmetic."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size

SUM_INTERLEAVE = 4
"""Accumulators of a reduction, because each addition to one waits for the last."""
COLUMN_INTERLEAVE = 8
"""Vectors of columns that are summed up at once: neighbours, so that whole blocks of a row are
read before the next one."""
PASS_INTERLEAVE = 4
"""The same where functions are computed, whose chains of operations are long."""

UNROLLED_STEPS = 32
"""Reductions of at most this many steps inside a vector loop are unrolled."""


def fitting(most: int, extent: Size, lanes: int) -> int:
    """The number of vectors to handle side by side, at most `most`, that leaves no remainder."""
    while most > 1 and isinstance(extent, int) and extent % (most * lanes):
        most //= 2
    return most
