"""Decides how many threads compute a row, and how many there are in a block."""

from __future__ import annotations

from bessemer.compiler.ir.device import WARP, ThreadMapping
from bessemer.compiler.ir.dims import Size

THREADS = 256
"""Threads of a block in which each works alone."""
LONGEST_OF_WARP = 1024
"""Elements of the longest row that one warp computes."""
ELEMENTS = 16
"""Elements of a row for each thread of a block that computes it."""
MOST_THREADS = 1024


def power_above(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << max(0, number - 1).bit_length()


def mapping_of_rows(extent: Size, rows: Size, processors: int) -> ThreadMapping:
    """The threads for `rows` rows of `extent` elements: a warp or a block computes each.

    A warp takes short rows, since its threads need no barriers. If there are few rows, a block
    takes each, so that all processors have work.
    """
    if not isinstance(extent, int):
        return ThreadMapping(THREADS, THREADS)
    few = isinstance(rows, int) and rows < 4 * processors
    if extent <= LONGEST_OF_WARP // 4 or (extent <= LONGEST_OF_WARP and not few):
        return ThreadMapping(4 * WARP, WARP)
    threads = min(MOST_THREADS, max(2 * WARP, power_above(extent // ELEMENTS)))
    return ThreadMapping(threads, threads)


def other_mappings(extent: Size, chosen: ThreadMapping) -> tuple[ThreadMapping, ...]:
    """Other mappings that may be faster for rows of this extent, for a tuner to try."""
    if not isinstance(extent, int):
        return ()
    found = [ThreadMapping(4 * WARP, WARP)] if extent <= 2 * LONGEST_OF_WARP else []
    sizes = (2 * WARP, 4 * WARP, 8 * WARP, 16 * WARP, MOST_THREADS)
    found += [ThreadMapping(n, n) for n in sizes if 2 * n <= extent <= 4 * ELEMENTS * n]
    return tuple(mapping for mapping in found if mapping != chosen)
