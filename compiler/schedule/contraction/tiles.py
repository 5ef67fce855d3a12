"""The sizes of a contraction's register tiles and cache blocks, from a model of the machine.

A tile is `height` rows x `panel` columns of sums that stay in registers over the whole depth. Its
rows take one broadcast each a step, its columns one load a vector: 14 rows x 2 vectors fill 28 of
the 32 registers of AVX-512, and need 16 loads for 28 fused multiply-adds.
Tiles do not depend on the number of threads, so neither do the results' bits; blocks do.
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
    at_most,
    block_of,
    grid_of,
    weight_bytes,
)
from bessemer.compiler.targets.machine import CACHE_LINE, Target

# Sums of longer chains than this are split, so that rounding errors stay below 1e-6 of the norm.
LONGEST_CHAIN = 3000
STRETCH = 1024
# Where every step of the depth is in another line of a, and the next row beside it, a stretch of
# all rows is to stay in the second-level cache: 25088 steps of 256 rows, 168 GFLOP/s for 126.
# (1600 steps, two threads: 412 GFLOP/s in one go, 440 in stretches; one thread: 219, 222.) Lines
# that are less than _SCATTERED elements apart come as fast in one go (8192 steps of 96 rows: both
# 1.96 ms), and that takes no partial sums.
SCATTERED_STRETCH = 256
LONGEST_SCATTERED = 1024
_SCATTERED = 128
# A fused multiply-add takes about four cycles and two start in each: eight sums must be under way.
SUMS_UNDER_WAY = 8
# Rows at a distance that only the run knows take a pointer each: more than the registers hold make
# LLVM spill sums too (attention over 256 keys: 936 us with 14 rows, 757 with 8, 801 with 4).
_MOST_POINTERS = 8
# Up to so many panels of columns share what a tile has fetched of a from memory (4096 x 256 by 128
# columns, 4 panels: 2.41 ms, 2.64 without fetching; 8 panels: 4.82, 5.13; 32: even).
_FEW_PANELS = 8
_FEWEST_LANES = 4
# Addresses that are 4 KB apart share a set of the first-level cache.
_PAGE = 4096
# Weights of more bytes are fetched ahead into the second-level cache: even if it has room for them,
# those of other layers have pushed them out since the last run. (One core of Zen 5, 32 KiB for 400:
# ResNet-50 30.4 -> 29.2 ms, Inception 10.0 -> 9.4, MobileNetV2 3.23 -> 3.13, DCGAN 0.84 -> 0.79; to
# fetch all of them is even.) Tiles of few rows would fetch as often as they multiply, and have a
# limit of their own (LeNet, whose weights stay where they are, takes 1.04 without).
_NEAR = 32 << 10
_NEAR_OF_FEW_ROWS = 400 << 10
_FEW_ROWS = 4
# A block's partial sums are on the stack.
_PARTIAL_BYTES = 48 << 10


@dataclass(frozen=True)
class Tiling:
    """The choices for one contraction. `height` is in rows, `block` in tiles.

    `panel` is the width of b's packed panels, in columns. `unroll` is the number of depth steps
    in the innermost loop's body. A sum is added up in stretches of at most `stretch` steps, or all
    at once (if the depth has several axes, a stretch is a step of the outermost). With `prefetch`
    the next part of b is prefetched into the second-level cache; where it `fetches_rows`, so is the
    next tile's part of a.
    """

    lanes: int
    panel: int
    height: int
    block: int
    unroll: int
    prefetch: bool
    stretch: int | None = None
    fetches_rows: bool = False


def registers_tile(vectors: int, registers: int) -> int:
    """The height of a tile that is `vectors` wide: sums, b's vectors and one broadcast must fit."""
    # A broadcast that is used once needs no register: it is an operand in memory.
    spare = vectors + 1 if vectors > 1 else 2
    return max(1, (registers - spare) // vectors)


def _rows_in_first_cache(walk: Walk, dtype: DType, target: Target) -> int:
    """How many rows of a can be in the first-level cache at once: rows at the same place of a page
    share one of its sets. Of many lines, some are left for b, which goes by."""
    strides = [axis.a_stride for axis in (walk.axis, *walk.inner)]
    step = gcd(*(stride if isinstance(stride, int) else 1 for stride in strides))
    ways = target.l1_ways - target.l1_ways // 6
    return ways * (_PAGE // gcd(_PAGE, step * dtype.bytes))


def panel_vectors(columns: Size, lanes: int, registers: int) -> int:
    """How many vectors wide b's panels are: the width that wastes least of the arithmetic."""
    if not isinstance(columns, int):
        return 2
    vectors = ceil(columns / lanes)
    if vectors == 1:
        return 1
    if vectors == 3 and registers >= 32:
        return 3
    return 2


def _lanes(columns: Size, most: int) -> int:
    """As many as hold all columns, if few do: half a register is multiplied as fast as a whole one,
    and where units are half as wide as registers, twice as fast."""
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
    """The tiling that the model of the machine predicts to be fastest; of those whose tiles have
    this `shape`, in rows and vectors, if one is given."""
    lanes = _lanes(contraction.columns, target.lanes(contraction.dtype))
    vectors = panel_vectors(contraction.columns, lanes, target.vector_registers)
    vectors = shape[1] if shape else vectors
    height = registers_tile(vectors, target.vector_registers)
    walk = walk_of(contraction, height)
    most = shape[0] if shape else _rows_in_first_cache(walk, contraction.a.dtype, target)
    if not shape and not isinstance(walk.axis.a_stride, int):
        most = min(most, _MOST_POINTERS)
    height = min(height, most)
    walk = walk_of(contraction, height)
    panel = vectors * lanes
    cut = cut_evenly(walk.axis.extent, height // walk.unit)
    rows = cut.height * walk.unit
    sums = chains(rows, vectors, target.vector_registers, contraction.depth_steps)
    stretch = stretch_length(contraction, sums)
    grid = grid_of(contraction, walk, cut, panel, threads)
    block = block_of(contraction, walk, grid, stretch, target)
    if stretch is not None:
        most = max(1, _PARTIAL_BYTES // (rows * panel * contraction.dtype.bytes))
        block = at_most(most, block, grid)
    return Tiling(
        lanes=lanes,
        panel=panel,
        height=height,
        block=block,
        unroll=_unroll(dims.ceildiv(walk.depth[-1].extent, contraction.group)),
        prefetch=weight_bytes(contraction) > (_NEAR if rows > _FEW_ROWS else _NEAR_OF_FEW_ROWS),
        stretch=stretch,
        fetches_rows=_fetches_rows(contraction, walk, stretch, panel, target),
    )


def _fetches_rows(
    contraction: Contraction, walk: Walk, stretch: int | None, panel: int, target: Target
) -> bool:
    """Whether a comes from behind the second-level cache in a way that processors do not foresee,
    and often enough: one of few panels takes it from there, all others from that cache."""
    size = dims.product(contraction.a.shape)
    is_near = isinstance(size, int) and size * contraction.a.dtype.bytes <= target.l2_bytes
    if is_near or walk.inner:
        return False
    if _is_across(walk, contraction.a.dtype):
        return True
    panels = dims.ceildiv(contraction.columns, panel)
    return stretch is None and _is_piece(walk) and isinstance(panels, int) and panels <= _FEW_PANELS


def _is_across(walk: Walk, dtype: DType) -> bool:
    """Whether a tile's rows are neighbours in a, and every step of its depth in another line."""
    step = walk.depth[-1].a_stride
    return walk.axis.a_stride == 1 and isinstance(step, int) and step >= CACHE_LINE // dtype.bytes


def _is_piece(walk: Walk) -> bool:
    """Whether a tile's rows are one piece of memory, which its steps walk through side by side."""
    run = walk.depth[-1]
    return len(walk.depth) == 1 and run.a_stride == 1 and walk.axis.a_stride == run.extent


def _unroll(extent: Size) -> int:
    """Depth steps in the innermost loop; long straight code makes LLVM spill registers."""
    if not isinstance(extent, int):
        return 4
    if extent <= 6:
        return extent
    return min((4, 3, 5, 6), key=lambda steps: extent % steps)


def chains(rows: int, vectors: int, registers: int, depth: Size) -> int:
    """Partial sums of a tile: enough to keep the arithmetic units busy, a power of two."""
    if isinstance(depth, int) and depth < 16:
        return 1
    count = 1
    sums = rows * vectors
    while sums * count < SUMS_UNDER_WAY and sums * count * 2 + vectors < registers:
        count *= 2
    return count


def stretch_length(contraction: Contraction, chains: int) -> int | None:
    """The length of the stretches in which a sum is added up; None where it need not be cut.

    That is where sums are exact, or much more so than the rounded numbers in them.
    """
    depth = contraction.depth_extent
    if contraction.dtype is not f32 or contraction.a.dtype.bits < 32:
        return None
    if not isinstance(depth, int):
        return STRETCH * chains
    *outer, run = merge_depth(contraction.depth)
    is_scattered = not outer and isinstance(run.a_stride, int) and run.a_stride >= _SCATTERED
    if depth < (LONGEST_SCATTERED if is_scattered else LONGEST_CHAIN) * chains:
        return None
    length = SCATTERED_STRETCH if is_scattered else STRETCH
    even = ceil(depth / ceil(depth / (length * chains)))
    return (even + 3) // 4 * 4
