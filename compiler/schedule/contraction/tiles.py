"""Chooses the sizes of a contraction's register tiles and cache blocks, by a model of the machine.

A register tile is `height` rows x `panel` columns of sums that stay in registers over the whole
depth. A step of the depth takes one broadcast for each of its rows, and one load for each vector of
its columns: 14 rows x 2 vectors fill 28 of the 32 registers of AVX-512, and take 16 loads for 28
fused multiply-adds.

Tiles do not depend on the number of threads, and so neither do the bits of the results. Blocks
(row_blocks.py) do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import DType, f32
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    Walk,
    merge_depth,
    walk_of,
)
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.row_blocks import (
    FEWEST_STEPS,
    STORE_BOUND_STEPS,
    at_most,
    block_of,
    grid_of,
    weight_bytes,
)
from bessemer.compiler.targets.machine import CACHE_LINE, PAGE, Target, conflicts_in_cache

# Sums of more products than LONGEST_CHAIN are added up in depth blocks of about DEPTH_BLOCK, so
# that rounding errors stay below 1e-6 of the norm.
LONGEST_CHAIN = 3000
DEPTH_BLOCK = 1024
# If `a` is transposed, every step of the depth reads another cache line, which holds that step of
# the next rows, too. A depth block of all rows should then stay in the second-level cache: 25088
# steps of 256 rows, 126 GFLOP/s with long depth blocks, 168 with these. (1600 steps, two threads:
# 412 GFLOP/s at once, 440 in depth blocks; one thread: 219 and 222.) If the steps are less than
# _SCATTERED elements apart, summing at once is as fast (8192 steps of 96 rows: both 1.96 ms) and
# needs no partial sums.
SCATTERED_DEPTH_BLOCK = 256
LONGEST_SCATTERED = 1024
_SCATTERED = 128
# A fused multiply-add has a latency of about four cycles and two start in each: eight independent
# accumulators are needed.
SUMS_UNDER_WAY = 8
# Rows at a symbolic distance take a pointer each. With more pointers than registers LLVM spills
# sums, too (attention over 256 keys: 936 us with 14 rows, 757 with 8, 801 with 4).
_MOST_POINTERS = 8
# The rows of `a` are prefetched if there are at most this many panels, each of which reads them
# (4096 x 256 by 128 columns, 4 panels: 2.41 ms, without prefetches 2.64; 8 panels: 4.82 and 5.13;
# 32 panels: equal).
_FEW_PANELS = 8
_FEWEST_LANES = 4
# Weights of more than _NEAR bytes are prefetched into the second-level cache: even if it has room
# for them, the weights of other layers have pushed them out since the last run. (One core of Zen 5,
# limit 400 KiB -> 32 KiB: ResNet-50 30.4 -> 29.2 ms, Inception 10.0 -> 9.4, MobileNetV2 3.23 ->
# 3.13, DCGAN 0.84 -> 0.79; without a limit: equal.) Tiles of few rows would prefetch as often as
# they multiply, so their limit is higher (LeNet, whose weights stay in the cache, takes 1.04 times
# as long with the low one).
_NEAR = 32 << 10
_NEAR_OF_FEW_ROWS = 400 << 10
_FEW_ROWS = 4
# The rows of a tile of at most STORE_BOUND_STEPS steps, if each row is written by this many panels.
_ROWS_BEGUN = 8
_MANY_PANELS = 4
# In runs of rows that are cut unevenly, tiles of two heights take turns, which branch predictors do
# not foresee. Runs of fewer steps are cut evenly if somewhat lower tiles do that (Zen 5, 3x3 of
# one channel: 120 rows by 12, 0.85 of the time of 14 and 13; 100 rows by 10, 0.66; of three
# channels, 150 rows by 10, 0.81).
_SHORT_RUN = 8192
# Rows of an unknown number of images of up to this many rows are cut evenly, too: the remainder of
# one image takes tiles of its own (Zen 5, free batch, 1 and 3 images: 1x1 of 7x7 by 7 rows instead
# of 14 0.94 and 0.98, ResNet-50 0.94 and 0.98, 16 images 0.99; 4x4, 16 tokens by 8 0.96 and 0.98;
# with AVX2 20 tokens by 5 instead of 6 1.04 to 1.06, 16 by 4 1.11 to 1.17: too many loads).
_ROWS_OF_IMAGE = 128
# A block's partial sums are on the stack.
PARTIAL_BYTES = 48 << 10


@dataclass(frozen=True)
class Tiling:
    """The choices for one contraction. `height` is in rows, `block` in tiles.

    `panel` is the width of b's packed panels, in columns. `unroll` is the number of depth steps in
    the innermost loop's body. A sum is added up in depth blocks of at most `depth_block` steps
    each, or at once if that is None. (If the depth has several axes, a depth block is as many steps
    of the outermost, or one.) With `prefetch`, the next part of `b` is prefetched into the
    second-level cache; with `fetches_rows`, the next tile's part of `a` is, too.

    With a `strip`, an item has one tile of rows, and that many neighbouring panels of a `b` that
    lies in memory. The last panel of all ends with the last column, so that it is whole: it has
    columns of the one before, too, where columns do not fill all panels.
    """

    lanes: int
    panel: int
    height: int
    block: int
    unroll: int
    prefetch: bool
    depth_block: int | None = None
    fetches_rows: bool = False
    strip: Size | None = None


def registers_tile(vectors: int, registers: int) -> int:
    """The height of a tile that is `vectors` wide: sums, b's vectors and one broadcast must fit."""
    # A broadcast that is used once needs no register: it is an operand in memory.
    spare = vectors + 1 if vectors > 1 else 2
    return max(1, (registers - spare) // vectors)


def _lines_of_rows(target: Target) -> int:
    """The lines of a set of the first-level cache that a tile's rows may fill. A sixth of the lines
    is left to whatever else is read meanwhile, such as `b`."""
    return target.l1_ways - target.l1_ways // 6


def _rows_in_first_cache(walk: Walk, dtype: DType, target: Target) -> int:
    """How many rows of `a` can be in the first-level cache at once. Addresses that are a multiple
    of 4 KiB apart share one of its sets."""
    strides = [axis.a_stride for axis in (walk.axis, *walk.inner)]
    step = gcd(*(stride if isinstance(stride, int) else 1 for stride in strides))
    return _lines_of_rows(target) * (PAGE // gcd(PAGE, step * dtype.bytes))


def _most_rows_begun(contraction: Contraction, panel: int, target: Target) -> int:
    """How many rows of the output a tile may begin before its neighbour continues them: fewer if
    they are written after few steps and in few sets of the first-level cache, whose lines must all
    stay there, or after hardly any steps."""
    columns, steps = contraction.columns, contraction.depth_steps
    most = target.vector_registers
    if not isinstance(columns, int) or not isinstance(steps, int):
        return most
    if steps <= STORE_BOUND_STEPS and columns >= _MANY_PANELS * panel:
        most = _ROWS_BEGUN
    if steps <= FEWEST_STEPS and conflicts_in_cache(columns * contraction.dtype.bytes):
        most = min(most, _lines_of_rows(target))
    return most


def panel_vectors(columns: Size, lanes: int, registers: int) -> int:
    """The width of b's panels in vectors: the width that wastes the least arithmetic on columns
    that do not exist."""
    if not isinstance(columns, int):
        return 2
    vectors = ceil(columns / lanes)
    if vectors == 1:
        return 1
    if vectors == 3 and registers >= 32:
        return 3
    return 2


def _lanes(columns: Size, most: int) -> int:
    """The lanes of a vector, at most `most`; fewer if they hold all columns. Half a register is
    multiplied as fast as a whole one, and twice as fast where arithmetic units are half as wide as
    registers."""
    lanes = most
    while isinstance(columns, int) and lanes > _FEWEST_LANES and columns <= lanes // 2:
        lanes //= 2
    return lanes


def plan(
    contraction: Contraction,
    target: Target,
    threads: int = 2,
    shape: tuple[int, int] | None = None,
) -> Tiling:
    """The tiling that the model of the machine predicts to be fastest. If a `shape` (rows, vectors)
    is given, the tiles have that shape."""
    lanes = _lanes(contraction.columns, target.lanes(contraction.dtype))
    vectors = panel_vectors(contraction.columns, lanes, target.vector_registers)
    vectors = shape[1] if shape else vectors
    height = registers_tile(vectors, target.vector_registers)
    walk = walk_of(contraction, height)
    most = shape[0] if shape else _rows_in_first_cache(walk, contraction.a.dtype, target)
    if not shape and not isinstance(walk.axis.a_stride, int):
        most = min(most, _MOST_POINTERS)
    if not shape:
        most = min(most, _most_rows_begun(contraction, vectors * lanes, target))
    height = min(height, most)
    walk = walk_of(contraction, height)
    if not shape:
        height = _even_height(contraction, walk, height, vectors)
        walk = walk_of(contraction, height)
    panel = vectors * lanes
    cut = cut_evenly(walk.axis.extent, height // walk.unit)
    rows = cut.height * walk.unit
    sums = chains(rows, vectors, target.vector_registers, contraction.depth_steps)
    depth_block = depth_block_length(contraction, sums)
    grid = grid_of(contraction, walk, cut, panel, threads, target)
    block = block_of(contraction, walk, grid, depth_block, target)
    if depth_block is not None:
        most = max(1, PARTIAL_BYTES // (rows * panel * contraction.dtype.bytes))
        block = at_most(most, block, grid)
    return Tiling(
        lanes=lanes,
        panel=panel,
        height=height,
        block=block,
        unroll=_unroll(dims.ceildiv(walk.depth[-1].extent, contraction.group)),
        prefetch=weight_bytes(contraction) > (_NEAR if rows > _FEW_ROWS else _NEAR_OF_FEW_ROWS),
        depth_block=depth_block,
        fetches_rows=_fetches_rows(contraction, walk, depth_block, panel, target),
    )


def _even_height(contraction: Contraction, walk: Walk, height: int, vectors: int) -> int:
    """The height, or the next of more than two thirds of it, that cuts each short run evenly. For
    small images of unknown number, of at least half of it with two loads for three products."""
    run, depth = walk.axis.extent, contraction.depth_steps
    if walk.unit > 1:
        return height
    if not isinstance(run, int):
        of_image = gcd(*run.terms.values())
        lower = range(height if of_image <= _ROWS_OF_IMAGE else 0, height // 2 - 1, -1)
        enough = (rows for rows in lower if 3 * (rows + vectors) <= 2 * rows * vectors)
        return next((rows for rows in enough if of_image % rows == 0), height)
    if not isinstance(depth, int):
        return height
    if not (walk.outer or walk.batch) or run <= height or run * depth > _SHORT_RUN:
        return height
    lower = range(height, height * 2 // 3, -1)
    return next((rows for rows in lower if run % rows == 0), height)


def _fetches_rows(
    contraction: Contraction, walk: Walk, depth_block: int | None, panel: int, target: Target
) -> bool:
    """Whether the rows of `a` should be prefetched: they are not in the second-level cache, the
    processor does not foresee the order in which they are read, and a large enough part of all
    reads comes from memory. (With many panels, only the first one reads the rows from memory.)"""
    size = dims.product(contraction.a.shape)
    is_near = isinstance(size, int) and size * contraction.a.dtype.bytes <= target.l2_bytes
    if is_near or walk.inner:
        return False
    if _is_across(walk, contraction.a.dtype):
        return True
    panels = dims.ceildiv(contraction.columns, panel)
    return (
        depth_block is None
        and _is_piece(walk)
        and isinstance(panels, int)
        and panels <= _FEW_PANELS
    )


def _is_across(walk: Walk, dtype: DType) -> bool:
    """Whether `a` is transposed: a tile's rows are neighbours in `a`, and every step of the depth
    is in another cache line."""
    step = walk.depth[-1].a_stride
    return walk.axis.a_stride == 1 and isinstance(step, int) and step >= CACHE_LINE // dtype.bytes


def _is_piece(walk: Walk) -> bool:
    """Whether a tile's rows are contiguous in memory, so that its steps walk along them side by
    side."""
    run = walk.depth[-1]
    return len(walk.depth) == 1 and run.a_stride == 1 and walk.axis.a_stride == run.extent


def _unroll(extent: Size) -> int:
    """The number of depth steps in the innermost loop's body. Long straight code makes LLVM spill
    registers."""
    if not isinstance(extent, int):
        return 4
    if extent <= 6:
        return extent
    return min((4, 3, 5, 6), key=lambda steps: extent % steps)


def chains(rows: int, vectors: int, registers: int, depth: Size) -> int:
    """How many partial sums a tile keeps of each of its sums, a power of two: enough to keep the
    arithmetic units busy in spite of their latency. `rows` and `vectors` are the tile's."""
    if isinstance(depth, int) and depth < 16:
        return 1
    count = 1
    sums = rows * vectors
    while sums * count < SUMS_UNDER_WAY and sums * count * 2 + vectors < registers:
        count *= 2
    return count


def depth_block_length(contraction: Contraction, chains: int) -> int | None:
    """The length of the depth blocks in which a sum is added up; None if it is added up at once.

    Integer sums are exact, and sums of 16-bit floats are much more precise than the numbers in
    them, so these are not cut.
    """
    depth = contraction.depth_extent
    if contraction.dtype is not f32 or contraction.a.dtype.bits < 32:
        return None
    if not isinstance(depth, int):
        return DEPTH_BLOCK * chains
    *outer, run = merge_depth(contraction.depth)
    is_scattered = not outer and isinstance(run.a_stride, int) and run.a_stride >= _SCATTERED
    if depth < (LONGEST_SCATTERED if is_scattered else LONGEST_CHAIN) * chains:
        return None
    length = SCATTERED_DEPTH_BLOCK if is_scattered else DEPTH_BLOCK
    even = ceil(depth / ceil(depth / (length * chains)))
    return (even + 3) // 4 * 4
