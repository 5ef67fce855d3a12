"""Chooses how many query rows of an attention one item of its kernel computes: the block."""

from __future__ import annotations

from math import ceil

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.grouping.attention import Attention

SCORES_BYTES = 40 << 10
"""The bytes of the first-level cache that a block's scores should take."""
MOST_TILES = 5
"""The most tiles of rows in a block; each of them reads the keys again, from a cache."""

ROW_TILES, HEAD_BYTES, FEWEST_HEADS = 2, 256 << 10, 8
"""All rows of a head may be one block if they are at most ROW_TILES register tiles, their scores
take at most HEAD_BYTES, and there are at least FEWEST_HEADS heads for the threads to share."""


def is_one_block(rows: Size, keys: Size, score_bytes: int, height: int, heads: Size) -> bool:
    """Whether a block should be all rows of a head, which then reads the keys once."""
    if not isinstance(rows, int) or not isinstance(keys, int):
        return False
    if rows == rows_of_a_block(rows, keys, score_bytes, height):
        return True
    fits = rows <= ROW_TILES * height and rows * keys * score_bytes <= HEAD_BYTES
    return fits and isinstance(heads, int) and heads >= FEWEST_HEADS


def rows_of_a_block(rows: Size, keys: Size, score_bytes: int, height: int) -> int:
    """The number of rows of the cheapest block. Rows that are computed twice cost, and so do low
    register tiles; these have at most `height` rows.

    `score_bytes` is the memory for one score, from the first product to the second.
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
    """The memory for one score. If the weights are rounded to another type, they have memory of
    their own beside the scores."""
    weights, result = attention.product.inputs[0], attention.product.output
    return sum(dtype.bytes for dtype in {weights.type.dtype, result.type.dtype})
