"""How the tiles of a convolution by Winograd's method are dealt to threads, in blocks.

A share is what one thread does with working memory of its own: blocks of tiles, one after the
other. Of a number of tiles that only the run knows there may be a single block: then the columns
are dealt, too, in groups, and every share transforms the inputs of its first block.
"""

from __future__ import annotations

from math import gcd

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size

SHARES = 16
"""The most parts, each with working memory of its own, that the threads share."""
FEWEST_TILES = 14
"""With fewer tiles to a block, u would come too often from the second-level cache."""
_READING = 3
"""As long as the products of so many tiles does it take to read u."""
_LOW = 8
"""Fewer tiles take as long as so many."""
_OFTEN = 4
"""Weights as large as so many second-level caches are read as seldom as can be. (Three layers of
512 channels, 32x32, two threads: 16.5 ms by blocks, 14.6 in steps; 320: 7.1, 6.0; 256: even.)"""
_GROUP_COLUMNS = 128
"""The fewest in a group: transforming the inputs once more takes 5 % of the products of so many."""
_FEW_BLOCKS = 4
"""So few are dealt by groups of columns, more as a whole: an input is then transformed once."""


def column_groups(tiles: Size, columns: int, panel: int) -> int:
    """Into how many groups of whole panels the columns of a block are dealt."""
    if isinstance(tiles, int) or columns % panel:
        return 1
    return gcd(columns // panel, max(1, columns // _GROUP_COLUMNS))


def goes_in_steps(
    tiles: Size, of_image: Size, most: int, weights: float, threads: int, unit: int = FEWEST_TILES
) -> bool:
    """Whether each step is done for all tiles before the next one: blocks would be too few for the
    threads, or read u too often. `of_image` are the tiles of one image, at most `most` a block;
    `weights` is the size of u in second-level caches."""
    if weights > _OFTEN:
        return True
    known = tiles if isinstance(tiles, int) else of_image
    if not isinstance(known, int) or (known is not tiles and weights <= 1):
        return False
    return -(-known // block_of(known, most, threads, unit)) < 4 * threads


def block_of(count: int, most: int, threads: int, unit: int = FEWEST_TILES) -> int:
    """Tiles in a block, such that threads, and products of `unit` tiles, do the least in vain."""

    def waste(block: int) -> float:
        blocks = -(-count // block)
        shares, turns = shares_of(blocks)
        rounds = -(-shares // threads) * turns * threads
        full = -(-block // unit) * unit
        return rounds * full / count

    fewest = min(count, max(unit, most // 2))
    return min(range(min(count, most), fewest - 1, -1), key=waste)


def even_block_of(count: int, most: int, threads: int) -> int:
    """Tiles in a block where all blocks, of about as many tiles, read u anew."""

    def cost(blocks: int) -> float:
        each = -(-count // blocks)
        shares, turns = shares_of(blocks)
        rounds = -(-shares // threads) * turns * threads
        return (rounds + blocks) * (max(each, _LOW) + _READING)

    fewest = -(-count // most)
    return -(-count // min(range(fewest, 2 * fewest + 2 * threads), key=cost))


def shares_of(blocks: int) -> tuple[int, int]:
    """How many shares the blocks are dealt into, and how many blocks a share has at most."""
    turns = -(-blocks // SHARES)
    return -(-blocks // turns), turns


def groups_of_share(blocks: Size, groups: int, share: Size, turns: Size) -> tuple[Size, Size]:
    """The first group of columns of a share, counted through all blocks, and how many it has."""
    if isinstance(blocks, int):
        begin = share * turns
        mine = dims.minimum(turns, dims.maximum(blocks - begin, 0))
        return begin * groups, mine * groups
    # There may be fewer blocks than shares: all of the first ones would be one thread's.
    # 1 or 0: index arithmetic has no conditions.
    is_few = dims.minimum(1, dims.floordiv(_FEW_BLOCKS + 1, blocks + 1))

    def first(number: Size) -> Size:
        of_whole_blocks = groups * dims.floordiv(number * blocks, SHARES)
        if groups == 1:
            return of_whole_blocks
        of_few = dims.floordiv(number * blocks * groups, SHARES)
        return of_whole_blocks + is_few * (of_few - of_whole_blocks)

    return first(share), first(share + 1) - first(share)
