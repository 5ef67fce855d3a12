"""Chooses how many register tiles make a block of rows: the rows for which all panels of `b` are
multiplied, one after the other.

Threads share the pairs of a block and a panel. A block's part of `a` should stay in the
second-level cache, and all threads should have about as much to do. So blocks, other than tiles,
depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.contraction import Contraction, Walk
from bessemer.compiler.schedule.contraction.cuts import Cut, dealt
from bessemer.compiler.targets.machine import SET_STRIDE, Target, conflicts_in_cache

# With fewer tiles in a block, b would be read too often from the last-level cache (first number) or
# even from memory (second number, for weights of more than _IN_LAST_CACHE bytes).
_FEWEST_TILES = (6, 12)
_IN_LAST_CACHE = 8 << 20
# Rows of the output may be a distance apart that maps them to few sets of the cache. If a tile also
# has no more depth steps than this, blocks have one tile, so that the tile's rows are continued
# soon after they are begun (1024x3 by 3x1024: 295 us with four tiles to a block, 87 with one), and
# no more rows than a set has lines (Zen 5, 12 lines: 14 rows 83 us, 10 rows 51).
# An unknown number of columns is treated as such a distance: that wins more where it is true than
# it loses where it is not.
FEWEST_STEPS = 16
# Tiles of no more steps than this are hardly more than stores, so that rows are written the faster
# the fewer are begun at a time: blocks have one tile, of few rows (Zen 5, old -> new us:
# 1000x3 by 3x1000 78 -> 43, 2000x4x300 63 -> 30, 300x2x5000 85 -> 66, 1000x6x512 31 -> 30).
STORE_BOUND_STEPS = 6
# A kernel that may become a link of a chain (chain_launches.py) has small blocks if its weights
# stay in the first-level cache anyway: with fewer rows at a time, the chain's windows are smaller.
_IN_FIRST_CACHE = 48 << 10
_LINK_BYTES = 32 << 10
# Enough rows to make good use of a panel, few enough to give every thread a block.
_DYNAMIC_BLOCK = 16

FEWEST_ITEMS = 6
"""The fewest items for the threads to share, if there are enough tiles and their number is
symbolic."""

_STEPS_A_TILE = 4
"""Where only the run knows the depth, and rows of the output meet in few sets of the cache, a block
has one tile for so many steps: the fewer a tile takes, the sooner its rows must be continued."""
_FEWEST_PACKED_STEPS = 8
"""If items pack their panels, a smaller block packs as often as it multiplies: then only products
of fewer steps than this have them (all sizes free, 1024x3x1024: 320 us with large blocks, 130 with
one tile; 512x8x512: 34 us with two tiles, 23 with large blocks)."""

_UNEVEN = 1.05
"""A single block is divided into one for each thread, so that threads do not read rows that others
have written, if none of them gets more than so many times its share of the tiles. (Zen 5, two
threads, 128x128 by 128x128 after another such product: 10.2 us, now 9.6; where the cores share no
cache 17.1, now 13.1.)"""

_TYPICAL = 512
"""Assumed for symbolic sizes."""
LARGE = 4
"""A value larger than the last-level cache divided by this is not found there when it is read."""


@dataclass(frozen=True)
class Grid:
    """The tiles of one contraction: `tiles` down by `panels` across, for each of `batch` matrices,
    shared by `threads` threads. `cut` says how the axis of tiles is cut. `is_near`: each thread has
    room for a whole matrix b in half of its own caches."""

    cut: Cut
    tiles: Size
    panels: int
    batch: int
    threads: int
    is_near: bool


def grid_of(
    contraction: Contraction, walk: Walk, cut: Cut, panel: int, threads: int, target: Target
) -> Grid:
    """The grid of tiles that are `panel` columns wide."""
    tiles = dims.product(axis.extent for axis in walk.outer) * cut.count
    batch = dims.product(axis.extent for axis in walk.batch)
    panels = ceil(known(contraction.columns) / panel)
    is_near = weight_bytes(contraction) <= target.l2_bytes // 2
    return Grid(cut, tiles, panels, known(batch, 1), threads, is_near)


def known(size: Size, otherwise: int = _TYPICAL) -> int:
    """The size if it is a number, else what is assumed for it."""
    return size if isinstance(size, int) else otherwise


def weight_bytes(contraction: Contraction) -> int:
    """The bytes of one of b's matrices."""
    depth, columns = known(contraction.depth_extent), known(contraction.columns)
    return depth * columns * contraction.b.dtype.bytes


def block_of(
    contraction: Contraction, walk: Walk, grid: Grid, depth_block: int | None, target: Target
) -> int:
    """The number of tiles in a block of rows, such that a block stays in the second-level cache
    while all of `b` is multiplied with it. `depth_block` is the length of the depth blocks (None:
    the depth is summed at once)."""
    depth, columns = known(contraction.depth_extent), known(contraction.columns)
    # If sums are added up in depth blocks, only one depth block of the rows is in use at a time.
    passes = 1 if depth_block is None else max(1, depth // depth_block)
    room = target.l2_bytes * 3 // 8 * passes
    weights = weight_bytes(contraction)
    fewest = _FEWEST_TILES[weights > _IN_LAST_CACHE]
    if _is_link(contraction, walk, target) and weights <= _IN_FIRST_CACHE:
        fewest, room = 1, _LINK_BYTES
    block = max(fewest, room // _tile_bytes(contraction, walk, grid))
    if columns > depth and weights <= target.l2_bytes // 4 and depth <= 256:
        # Few steps a tile: writing whole rows of the output once matters more than b's reuse
        # (2048 x 192 by 1024: 8.31 ms, with large blocks 8.45; of more than 256 steps both 7.36).
        conflicts = conflicts_in_cache(columns * contraction.dtype.bytes)
        most = FEWEST_STEPS if conflicts else STORE_BOUND_STEPS
        block = min(block, 1 if depth <= most else 4)
    tiles = grid.tiles
    if not isinstance(tiles, int):
        return min(block, _DYNAMIC_BLOCK)
    block = ceil(tiles / max(1, round(tiles / block)))
    return _balanced(grid, tiles, min(block, tiles))


def _is_link(contraction: Contraction, walk: Walk, target: Target) -> bool:
    """Whether it reads or writes so much that it may become a link of a chain
    (chain_launches.py)."""
    axes = (*walk.batch, *walk.outer, walk.axis, *walk.inner)
    written = dims.product(axis.extent for axis in axes) * contraction.columns
    sizes = (dims.product(contraction.a.shape), written)
    least = target.last_cache // LARGE // f32.bytes
    return least > 0 and any(isinstance(size, int) and size >= least for size in sizes)


def fewest_blocks(panels: Size, matrices: Size = 1) -> Size:
    """The number of row blocks, at least, that the threads shall have to share for each matrix, as
    far as there are enough tiles. It is 1 where only the run knows the number of panels."""
    if not isinstance(panels, int):
        return 1
    return dims.maximum(1, dims.ceildiv(FEWEST_ITEMS, panels * dims.maximum(matrices, 1)))


def tiles_in_block(contraction: Contraction, block: int, packs: bool) -> Size:
    """How many tiles a block has at most, where only the run knows the depth: fewer than `block` if
    the run finds few steps, and rows of the output that meet in few sets of the cache. `packs`:
    each item packs its panel."""
    steps = contraction.depth_extent
    few = dims.floordiv(steps, _STEPS_A_TILE)
    if packs:
        few = dims.floordiv(steps, _FEWEST_PACKED_STEPS) * block
    rest = dims.mod(contraction.columns * contraction.dtype.bytes, SET_STRIDE)
    return dims.minimum(dims.maximum(few, 1) + block * dims.minimum(rest, 1), block)


def at_most(most: int, block: int, grid: Grid) -> int:
    """A block of at most `most` tiles that still gives every thread about as much to do."""
    if block <= most:
        return block
    if not isinstance(grid.tiles, int):
        return most
    return _balanced(grid, grid.tiles, ceil(grid.tiles / ceil(grid.tiles / most)))


def _tile_bytes(contraction: Contraction, walk: Walk, grid: Grid) -> int:
    """The bytes of `a` that a tile reads and the tile before it does not (a convolution's windows
    overlap)."""
    size = contraction.a.dtype.bytes
    rows = grid.cut.height * walk.unit
    bytes_ = rows * known(contraction.depth_extent) * size
    axes = [(a.extent, a.a_stride) for a in (*walk.outer, walk.axis, *walk.inner)]
    axes += [(a.extent, a.a_stride) for a in walk.depth]
    reach = 1 + dims.total((extent - 1) * stride for extent, stride in axes)
    if isinstance(reach, int) and isinstance(grid.tiles, int):
        return max(1, min(bytes_, reach * size // max(1, grid.tiles)))
    stride = walk.axis.a_stride
    if isinstance(stride, int) and not walk.inner:
        return max(1, min(bytes_, rows * stride * size))
    return max(1, bytes_)


def _balanced(grid: Grid, tiles: int, block: int) -> int:
    """The largest number of tiles per block, from `block` downwards, that gives all threads about
    as much to do."""
    best, best_load = block, float("inf")
    panels, threads = grid.panels * grid.batch, grid.threads
    for count in range(ceil(tiles / block), min(tiles, 8 * threads) + 1):
        candidate = ceil(tiles / count)
        load = _heaviest(tiles, candidate, panels, threads) / (tiles * panels / threads)
        if load < best_load - 0.03:
            best, best_load = candidate, load
    if grid.batch % threads == 0:
        return best
    share = ceil(tiles / threads)
    if best == tiles and grid.is_near and share * threads <= tiles * _UNEVEN:
        return share
    return _undivided(tiles, best, threads)


def _undivided(tiles: int, block: int, threads: int) -> int:
    """A slightly smaller block, if there is one of which each thread gets whole blocks only; else
    `block`.

    Other kernels divide the same rows among the threads in the same way, so a thread then reads
    what it has written itself, which is in its own cache.
    """
    for count in range(ceil(tiles / block), ceil(tiles * 3 / (2 * block)) + 1):
        candidate = ceil(tiles / count)
        if count == 1 or (count % threads == 0 and ceil(tiles / candidate) == count):
            return candidate
    return block


def _heaviest(tiles: int, block: int, panels: int, threads: int) -> int:
    """The most tiles that one thread gets, if pairs of (block, panel) are dealt out in order and
    the tiles are dealt evenly to the blocks."""
    blocks = ceil(tiles / block)
    items = blocks * panels

    def before(item: int) -> int:
        first, count = dealt(tiles, blocks, item // panels)
        return dims.number(first) * panels + item % panels * dims.number(count)

    ends = [before(items * thread // threads) for thread in range(threads + 1)]
    return max(end - begin for begin, end in pairwise(ends))
