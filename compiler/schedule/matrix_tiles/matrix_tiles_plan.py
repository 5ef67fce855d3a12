"""Decides which contractions go to a matrix unit, and in what blocks, by a model of the machine.

The constants below (cycles of one core) were measured on Intel's first processors with AMX and have
to be adjusted for another matrix unit: `python -m benchmarks matrix_unit` measures them, and
compares our kernels with the model's predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    MergedAxis,
    walk_of,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    COLUMNS,
    TILE_BYTES,
    Runs,
    TileForm,
)
from bessemer.compiler.targets.machine import Target

ROWS = 16
PRODUCT = 27
"""Cycles of a product of two tiles, with its loads, in contractions that are not small."""
LATENCY = 52
"""Cycles until the next product can be added to the same sums."""
BLOCK = 225
"""Cycles per block besides the products: to store the tiles, and for the epilogue."""
SPLIT_NUMBER, STORE_PARTS = 1.0, 0.4
"""Cycles of splitting a float32 number: by a pass of its own, by the kernel that computes it."""
PACK_NUMBER = 0.7
"""Additional cycles, compared with the vector unit, of packing a float32 number of b when the model
runs."""
WEIGHT_BYTES = 10
"""Bytes of `b` that are read per cycle."""
FUSED = 29.4
"""Fused multiply-adds in a cycle: two vectors of 16, of which register tiles keep 92 % busy."""
DOT_BF16 = 0.5
"""Products of bfloat16 in the time of a fused multiply-add: on processors with a matrix unit the
vector unit's (vdpbf16ps) are slow, 32 in two cycles by LLVM's model of Sapphire Rapids."""
WORTH = 0.9
"""Where both units are predicted to be about as fast, the vector unit is chosen: its figures differ
less from machine to machine."""
_LEAST_BLOCKS = 4
_NEAR_BYTES = 24 << 10
"""Bytes of `a` in a block: half of the first-level cache, through which the panels of `b` pass."""
_SMALL_B = 400 << 10
"""If `b` has at most this many bytes, it stays in the second-level cache from one block of rows to
the next. A larger `b` is prefetched, panel by panel."""


@dataclass(frozen=True, eq=False)
class TileWalk:
    """The axes of the rows: `batch` axes choose the packed matrix, and tiles lie along `axis`.

    With a `pitch`, `axis` runs over the lines of a map. A line then is `pitch` positions, of which
    the first `line_extent` are rows, and `lines` are the two axes that `axis` stands for.
    """

    batch: tuple[MergedAxis, ...]
    outer: tuple[MergedAxis, ...]
    axis: MergedAxis
    depth: tuple[DepthAxis, ...]
    rank: int
    pitch: int | None = None
    lines: tuple[MergedAxis, ...] = ()

    @property
    def all_axes(self) -> tuple[MergedAxis, ...]:
        """The axes to which the indices of a row belong, in order."""
        return (*self.batch, *self.outer, *(self.lines or (self.axis,)))

    @property
    def line_extent(self) -> Size:
        """The number of rows in a line."""
        return self.lines[-1].extent

    def position(self, row: Size) -> tuple[Size, Size]:
        """The line of a row, and its place in the line."""
        if self.pitch is None:
            return 0, row
        return dims.floordiv(row, self.pitch), dims.mod(row, self.pitch)


@dataclass(frozen=True, eq=False)
class MatrixTiling:
    """The choices for one contraction.

    - `rows`: rows of a tile (16, or as many as there are)
    - `tall`: tiles on top of each other in a block
    - `panel`: columns of a packed panel
    - `block`: blocks of rows for one item
    - `blocks`: blocks along the axis
    - `part_stride`: elements of `a` from one part to the next
    - `is_interleaved`: the rows of a panel's tiles lie side by side, as for the vector unit
    - `is_checked`: sums that are not finite are computed again
    """

    form: TileForm
    walk: TileWalk
    runs: Runs
    rows: Size
    tall: int
    panel: int
    block: int
    prefetch: bool
    part_stride: Size
    is_interleaved: bool = False

    @property
    def is_checked(self) -> bool:
        return self.form.sum.is_float and (self.form.parts > 1 or self.runs.rest > 0)

    @property
    def blocks(self) -> Size:
        return dims.ceildiv(self.walk.axis.extent, ROWS * self.tall)

    def panels(self, contraction: Contraction) -> Size:
        """The panels of a packed matrix."""
        return dims.ceildiv(contraction.columns, self.panel)

    def items(self, contraction: Contraction) -> Size:
        """The trip count of the parallel loop."""
        batch = dims.product(axis.extent for axis in self.walk.batch)
        blocks = dims.product(axis.extent for axis in self.walk.outer) * self.blocks
        return batch * dims.ceildiv(blocks, self.block) * self.panels(contraction)

    def operations(self) -> int:
        """Scalar operations of an item, in the unit in which the vector unit's are counted."""
        rows = ROWS * self.tall * self.block
        products = rows * self.panel * self.runs.count * self.runs.steps * self.runs.depth
        # A tile product is worth 16 x 16 x 32 (or x 64) products, in the time of 16 vector steps.
        return max(1, products * len(self.form.products) // 8)


def plan_tiles(
    contraction: Contraction,
    form: TileForm,
    target: Target,
    part_stride: Size = 0,
    is_interleaved: bool = False,
) -> MatrixTiling | None:
    """The tiling, or None if the target's matrix unit cannot compute the contraction."""
    if not target.has_tiles or contraction.columns == 1 or not contraction.depth:
        return None
    walk = tile_walk(contraction)
    runs = _runs(walk.depth, form)
    extent = walk.axis.extent
    if runs is None or not isinstance(contraction.columns, int) or extent == 0:
        return None
    columns: int = contraction.columns
    panel = panel_of(columns)
    tall = 1 if isinstance(extent, int) and extent <= ROWS else 2
    rows = dims.minimum(ROWS, dims.maximum(1, extent))
    if isinstance(extent, int):
        rows = min(ROWS, extent)
    panel_bytes = runs.count * runs.steps * form.parts * (panel // COLUMNS) * TILE_BYTES
    tiling = MatrixTiling(
        form=form,
        walk=walk,
        runs=runs,
        rows=rows,
        tall=tall,
        panel=panel,
        block=1,
        prefetch=panel_bytes * ceil(columns / panel) > _SMALL_B,
        part_stride=part_stride,
        is_interleaved=is_interleaved,
    )
    return _with_block(tiling, contraction, target)


def panel_of(columns: int) -> int:
    """The columns of a panel."""
    return COLUMNS if columns <= COLUMNS else 2 * COLUMNS


def is_faster(
    tiling: MatrixTiling,
    contraction: Contraction,
    split: float,
    pack: float = 0.0,
    left: float = 1.0,
) -> bool:
    """Whether the model predicts that the matrix unit is faster; the arguments are those of
    tile_cycles and vector_cycles."""
    tiles = tile_cycles(tiling, contraction, split, pack)
    return tiles < WORTH * vector_cycles(tiling, contraction, left)


def tile_cycles(
    tiling: MatrixTiling, contraction: Contraction, split: float, pack: float = 0.0
) -> float:
    """Cycles on the matrix unit. Sizes that are not known are assumed to be neither small nor
    large.

    `contraction` is the one for the vector unit. `split` is the cycles to split a number of `a`,
    and `pack` those to pack a number of `b`, if they are float32.
    """
    form, runs, walk, columns = tiling.form, tiling.runs, tiling.walk, contraction.columns
    assert isinstance(columns, int)
    blocks = tiling.blocks if isinstance(tiling.blocks, int) else 4
    panels = ceil(columns / tiling.panel)
    tiles = tiling.tall * tiling.panel // COLUMNS
    products = runs.count * runs.steps * len(form.products) * tiles
    product = max(PRODUCT, LATENCY / tiles)
    cycles = _around(walk) * blocks * panels * (products * product + BLOCK)
    padded = runs.count * runs.length
    weights = _matrices(walk) * padded * columns
    cycles = max(cycles, 2 * form.parts * weights / WEIGHT_BYTES)
    if form.parts > 1:
        cycles += split * _numbers(contraction, tiling) + pack * weights
    return cycles


def vector_cycles(tiling: MatrixTiling, contraction: Contraction, left: float = 1.0) -> float:
    """Cycles of the same contraction on the vector unit, which takes the time of the fraction
    `left` of all products."""
    form, runs, columns = tiling.form, tiling.runs, contraction.columns
    assert isinstance(columns, int)
    depth = contraction.depth_extent
    if not isinstance(depth, int):
        depth = runs.count * runs.length
    # Four products of bytes take the time of one in float32.
    rate = 1.0 if form.parts > 1 else DOT_BF16 if form.left is bf16 else form.group
    products = left * _rows(tiling.walk) * _around(tiling.walk) * columns * depth
    weights = _matrices(tiling.walk) * depth * columns
    number_bytes = f32.bytes if form.parts > 1 else form.right.bytes
    return max(products / (FUSED * rate), number_bytes * weights / WEIGHT_BYTES)


def _matrices(walk: TileWalk) -> int:
    """The number of packed matrices; 1 if it is not known."""
    matrices = dims.product(axis.extent for axis in walk.batch)
    return matrices if isinstance(matrices, int) else 1


def _around(walk: TileWalk) -> int:
    """How many times the rows along `axis` are repeated by the axes around; 1 if that is not
    known."""
    around = dims.product(axis.extent for axis in (*walk.batch, *walk.outer))
    return around if isinstance(around, int) else 1


def tile_walk(contraction: Contraction) -> TileWalk:
    """The rows as few axes as their strides allow. The lines of a map become one axis where that
    takes fewer tiles."""
    found = walk_of(contraction, 1)
    walk = TileWalk(found.batch, found.outer, found.axis, found.depth, found.rank)
    if not found.outer:
        return walk
    *outer, line = found.outer
    axis = found.axis
    sizes = (line.extent, line.a_stride, axis.extent, axis.a_stride)
    if not all(isinstance(size, int) for size in sizes):
        return walk
    lines, line_stride, length, stride = (int(size) for size in sizes)  # type: ignore[arg-type]
    if stride <= 0 or line_stride % stride or line_stride // stride < length:
        return walk
    pitch = line_stride // stride
    extent = (lines - 1) * pitch + length
    # With an equal number of tiles the one axis is better: two of its tiles make a block, which
    # takes fewer loads.
    if ceil(extent / ROWS) > lines * ceil(length / ROWS):
        return walk
    whole = MergedAxis(extent, stride, 0, ())
    return TileWalk(found.batch, tuple(outer), whole, found.depth, found.rank, pitch, (line, axis))


def _runs(depth: tuple[DepthAxis, ...], form: TileForm) -> Runs | None:
    """The depth as runs of contiguous elements; None if tiles cannot be loaded from it."""
    *outer, run = depth
    if run.a_stride != 1 or not isinstance(run.extent, int) or run.extent < form.depth:
        return None
    count = 1
    for axis in outer:
        if not isinstance(axis.extent, int):
            return None
        count *= axis.extent
    return Runs(count, run.extent, form.depth)


def _with_block(tiling: MatrixTiling, contraction: Contraction, target: Target) -> MatrixTiling:
    """The tiling with blocks of rows that stay in a cache while all panels are multiplied: in the
    first-level cache if all of `b` comes from the second (measured: 1.2 to 1.3 times as fast), else
    in the second."""
    rows = ROWS * tiling.tall
    counts = rows, tiling.walk.axis.extent
    close, far = (max(1, _bytes(tiling, rows, count)) for count in counts)
    room = 0 if tiling.prefetch else _NEAR_BYTES // close
    if room < 2:  # one would be multiplied and finished in turns
        room = max(_LEAST_BLOCKS, target.l2_bytes * 3 // 8 // far)
    blocks = dims.product(axis.extent for axis in tiling.walk.outer) * tiling.blocks
    if isinstance(blocks, int):
        count = ceil(blocks / room)
        batch = dims.product(axis.extent for axis in tiling.walk.batch)
        items = dims.product((batch, tiling.panels(contraction)))
        if isinstance(items, int):
            # Enough items for the threads to have about the same work.
            count = max(count, min(blocks // 2, ceil(8 / max(1, items))))
        room = ceil(blocks / max(1, count))
    return replace(tiling, block=max(1, room))


def _bytes(tiling: MatrixTiling, rows: int, neighbours: Size) -> int:
    """The bytes of `a` that `rows` rows read. Rows that are less than `neighbours` apart may share
    what they read, as a convolution's do; that is counted once."""
    stride, runs = tiling.walk.axis.a_stride, tiling.runs
    overlap = 1
    if isinstance(stride, int) and isinstance(neighbours, int) and stride > 0:
        overlap = max(1, runs.length // stride)
        for axis in tiling.walk.depth[:-1]:
            if isinstance(axis.extent, int) and isinstance(axis.a_stride, int):
                overlap *= axis.extent if axis.a_stride < neighbours * stride else 1
    return rows * runs.count * runs.steps * 64 * tiling.form.parts // overlap


def _rows(walk: TileWalk) -> int:
    """The rows that are part of the result."""
    if walk.pitch is not None:
        rows = dims.product(axis.extent for axis in walk.lines)
    else:
        rows = walk.axis.extent
    return rows if isinstance(rows, int) else 4 * 2 * ROWS


def _numbers(contraction: Contraction, tiling: MatrixTiling) -> int:
    """The number of elements of `a`."""
    numbers = dims.product(contraction.a.shape)
    depth = tiling.runs.count * tiling.runs.length
    return numbers if isinstance(numbers, int) else 4 * 2 * ROWS * depth
