"""How many rows of an attention one item of its kernel computes."""

from __future__ import annotations

from math import ceil

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.grouping.attention import Attention

SCORES_BYTES = 40 << 10
"""What a block's scores should take of the first-level cache."""
MOST_TILES = 5
"""Tiles of rows in a block: each reads the keys again, from a cache."""

ROW_TILES, HEAD_BYTES, FEWEST_HEADS = 2, 256 << 10, 8
"""Where that many heads are there for the threads, all rows of one may be a block if they are no
more than so many tiles, and their scores take no more of the second-level cache."""


def is_one_block(rows: Size, keys: Size, score_bytes: int, height: int, heads: Size) -> bool:
    """Whether a block should be all rows of a head, which then reads the keys once."""
    if not isinstance(rows, int) or not isinstance(keys, int):
        return False
    if rows == rows_of_a_block(rows, keys, score_bytes, height):
        return True
    fits = rows <= ROW_TILES * height and rows * keys * score_bytes <= HEAD_BYTES
    return fits and isinstance(heads, int) and heads >= FEWEST_HEADS


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


def bytes_of_a_score(attention: Attention) -> int:
    """What is kept of a score: rounded weights lie beside the scores."""
    weights, result = attention.product.inputs[0], attention.product.output
    return sum(dtype.bytes for dtype in {weights.type.dtype, result.type.dtype})
