"""How many rows of an attention one item of its kernel computes."""

from __future__ import annotations

from math import ceil

from bessemer.compiler.ir.dims import Size

SCORES_BYTES = 40 << 10
"""What a block's scores should take of the first-level cache."""
MOST_TILES = 5
"""Tiles of rows in a block: each reads the keys again, from a cache."""


def rows_of_a_block(rows: Size, keys: Size, score_bytes: int, height: int) -> int:
    """As few rows computed twice as possible, in tiles as high as possible: `height` rows at most.

    `score_bytes` is what is kept of a score, from the first product to the second.
    """
    most = MOST_TILES
    if isinstance(keys, int):
        most = max(1, min(most, SCORES_BYTES // (keys * score_bytes * (height - 1))))
    if not isinstance(rows, int):
        return most * height
    best, best_cost = 1, float("inf")
    for tiles in range(1, most + 1):
        blocks = ceil(rows / (tiles * height))
        block = ceil(rows / blocks)
        tallest = block / ceil(block / height)
        cost = blocks * block * (1 + 1 / tallest)
        if cost <= best_cost:
            best, best_cost = block, cost
    return best
