"""Cuts the tiles of a convolution by Winograd's method into blocks, and deals these to the threads.

A share is one iteration of the parallel loop: some blocks of tiles, one after the other, with
working memory of its own. If only the run knows the number of tiles, there may be a single block.
Then the columns are dealt, too, in groups, and each share transforms the inputs of its first block
again.
"""

from __future__ import annotations

from math import gcd

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size

SHARES = 16
"""The most shares that the threads divide among them, each with working memory of its own."""
FEWEST_TILES = 14
"""With fewer tiles in a block, u would be read too often from the second-level cache."""
_READING = 3
"""To read u takes as long as the products of this many tiles."""
_LOW = 8
"""A block of fewer tiles takes as long as one of this many."""
_OFTEN = 4
"""Weights larger than this many second-level caches are read as rarely as possible: step by step.
(Three layers, 32x32, two threads, by blocks and by steps: 512 channels 16.5 and 14.6 ms, 320
channels 7.1 and 6.0, 256 channels equal.)"""
_GROUP_COLUMNS = 128
"""The fewest columns in a group. To transform the inputs again takes 5 % of the time that the
products for this many columns take."""
_FEW_BLOCKS = 4
"""Up to this many blocks are dealt by groups of columns. More are dealt as a whole, so that each
input is transformed once."""


def column_groups(tiles: Size, columns: int, panel: int) -> int:
    """The number of groups of whole panels in which the columns of a block are dealt."""
    if isinstance(tiles, int) or columns % panel:
        return 1
    return gcd(columns // panel, max(1, columns // _GROUP_COLUMNS))


def goes_in_steps(
    tiles: Size, of_image: Size, most: int, weights: float, threads: int, unit: int = FEWEST_TILES
) -> bool:
    """Whether each of the three steps is done for all tiles before the next step begins. That is
    better where there would be too few blocks for the threads, or where blocks would read u too
    often.

    `of_image` is the number of tiles in one image, `most` the most tiles in a block, and `weights`
    the size of u in units of the second-level cache.
    """
    if weights > _OFTEN:
        return True
    known = tiles if isinstance(tiles, int) else of_image
    if not isinstance(known, int) or (known is not tiles and weights <= 1):
        return False
    return -(-known // block_of(known, most, threads, unit)) < 4 * threads


def block_of(count: int, most: int, threads: int, unit: int = FEWEST_TILES) -> int:
    """The number of tiles in a block with the least waste: threads without work, and rows of the
    `unit` rows of a register tile that stay empty."""

    def waste(block: int) -> float:
        blocks = -(-count // block)
        shares, per_share = shares_of(blocks)
        rounds = -(-shares // threads) * per_share * threads
        full = -(-block // unit) * unit
        return rounds * full / count

    fewest = min(count, max(unit, most // 2))
    return min(range(min(count, most), fewest - 1, -1), key=waste)


def even_block_of(count: int, most: int, threads: int) -> int:
    """The number of tiles in a block if reading u, which each block does anew, is the larger cost.
    All blocks have about as many tiles."""

    def cost(blocks: int) -> float:
        each = -(-count // blocks)
        shares, per_share = shares_of(blocks)
        rounds = -(-shares // threads) * per_share * threads
        return (rounds + blocks) * (max(each, _LOW) + _READING)

    fewest = -(-count // most)
    return -(-count // min(range(fewest, 2 * fewest + 2 * threads), key=cost))


def shares_of(blocks: int) -> tuple[int, int]:
    """The number of shares into which the blocks are dealt, and the most blocks in a share."""
    per_share = -(-blocks // SHARES)
    return -(-blocks // per_share), per_share


def groups_of_share(blocks: Size, groups: int, share: Size, per_share: Size) -> tuple[Size, Size]:
    """The first group of columns of a share, counted through all blocks, and the number of its
    groups. `per_share` is the most blocks in a share, for a known number of blocks."""
    if isinstance(blocks, int):
        begin = share * per_share
        mine = dims.minimum(per_share, dims.maximum(blocks - begin, 0))
        return begin * groups, mine * groups
    # Fewer blocks than shares are dealt by groups of columns: the first shares get whole blocks
    # otherwise, and these shares would all be one thread's. The condition is a number, 1 or 0,
    # because index arithmetic has no conditions.
    is_few = dims.minimum(1, dims.floordiv(_FEW_BLOCKS + 1, blocks + 1))

    def first(number: Size) -> Size:
        of_whole_blocks = groups * dims.floordiv(number * blocks, SHARES)
        if groups == 1:
            return of_whole_blocks
        of_few = dims.floordiv(number * blocks * groups, SHARES)
        return of_whole_blocks + is_few * (of_few - of_whole_blocks)

    return first(share), first(share + 1) - first(share)
