"""Which contractions go to a matrix unit, and in what blocks: a model of the machine.

The figures (cycles of one core) were measured on Intel's first processors with AMX; a tile product
takes 16 cycles, and with its loads about 27 in products that are not small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    MergedAxis,
    nest,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    COLUMNS,
    TILE_BYTES,
    Runs,
    TileForm,
)
from bessemer.compiler.targets.machine import Target

ROWS = 16
# Cycles: a product of two tiles, what is done to a block besides (tiles to memory, the epilogue),
# splitting a float32 number, and bytes of b that come in a cycle.
_PRODUCT = 27
_BLOCK = 225
_SPLIT_NUMBER = 1
_WEIGHT_BYTES = 10
# Fused multiply-adds in a cycle: two vectors of 16, of which register tiles keep 92 % busy.
_FUSED = 29.4
# What is nearly equal stays with the vector unit, whose figures depend less on the machine.
_WORTH = 0.9
_LEAST_BLOCKS = 4


@dataclass(frozen=True, eq=False)
class TileWalk:
    """The rows' axes: `batch` axes choose the packed matrix, tiles lie along `axis`.

    With a `pitch`, `axis` runs over the lines of a map: a line is `pitch` positions, of which the
    first `line_extent` are rows; `lines` are the two axes that it stands for.
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
        """The axes that the indices of a row belong to, in order."""
        return (*self.batch, *self.outer, *(self.lines or (self.axis,)))

    @property
    def line_extent(self) -> Size:
        """Rows in a line."""
        return self.lines[-1].extent

    def position(self, row: Size) -> tuple[Size, Size]:
        """The line of a row, and where it is in it."""
        if self.pitch is None:
            return 0, row
        return dims.floordiv(row, self.pitch), dims.mod(row, self.pitch)


@dataclass(frozen=True, eq=False)
class MatrixTiling:
    """The choices for one contraction.

    `rows` of a tile (16, or all that there are), `tall`: tiles on top of each other in a block,
    `panel`: columns of a packed panel, `block`: blocks of rows for one item, `blocks`: those along
    the axis, `part_stride`: elements of a from one part to the next, `is_checked`: sums that are
    not finite are computed again.
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
        """Scalar operations of an item, as the vector unit would count them."""
        rows = ROWS * self.tall * self.block
        products = rows * self.panel * self.runs.count * self.runs.steps * self.runs.depth
        # A tile product is worth 16 x 16 x 32 (or x 64) products, in the time of 16 vector steps.
        return max(1, products * len(self.form.products) // 8)


def plan_tiles(
    contraction: Contraction, form: TileForm, target: Target, part_stride: Size = 0
) -> MatrixTiling | None:
    """The tiling, or None where the target's matrix unit cannot do it."""
    if not target.has_tiles or contraction.columns == 1 or not contraction.depth:
        return None
    walk = tile_walk(contraction)
    runs = _runs(walk.depth, form)
    extent = walk.axis.extent
    if runs is None or not isinstance(contraction.columns, int) or extent == 0:
        return None
    columns: int = contraction.columns
    panel = COLUMNS if columns <= COLUMNS else 2 * COLUMNS
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
        prefetch=panel_bytes * ceil(columns / panel) > 400 << 10,
        part_stride=part_stride,
    )
    return _with_block(tiling, contraction, target)


def is_faster(tiling: MatrixTiling, contraction: Contraction) -> bool:
    """Whether the model predicts that the vector unit is slower; sizes that are not known are
    taken to be neither small nor large. `contraction` is the one on the vector unit."""
    form, runs, walk, columns = tiling.form, tiling.runs, tiling.walk, contraction.columns
    assert isinstance(columns, int)
    around = dims.product(axis.extent for axis in (*walk.batch, *walk.outer))
    outer = around if isinstance(around, int) else 1
    blocks = tiling.blocks if isinstance(tiling.blocks, int) else 4
    panels = ceil(columns / tiling.panel)
    tiles = tiling.tall * tiling.panel // COLUMNS
    products = runs.count * runs.steps * len(form.products) * tiles
    cycles: float = outer * blocks * panels * (products * _PRODUCT + _BLOCK)
    padded = runs.count * runs.length
    depth = contraction.depth_extent
    if not isinstance(depth, int):
        depth = padded
    weights = depth * columns
    cycles = max(cycles, 2 * form.parts * padded * columns / _WEIGHT_BYTES)
    if form.parts > 1:
        cycles += _SPLIT_NUMBER * _numbers(contraction, tiling)
    # In the vector unit, two or four narrow products take the time of one in float32.
    group = 1 if form.parts > 1 else form.group
    fused = _rows(walk) * outer * columns * depth / (_FUSED * group)
    return cycles < _WORTH * max(fused, 4 / group * weights / _WEIGHT_BYTES)


def tile_walk(contraction: Contraction) -> TileWalk:
    """The rows as few axes as their strides allow, lines of a map as one where that saves tiles."""
    found = nest(contraction, 1)
    walk = TileWalk(found.batch, found.outer, found.axis, found.depth, found.rank)
    if not found.outer:
        return walk
    *outer, line = found.outer
    axis = found.axis
    sizes = (line.extent, line.a_stride, axis.extent, axis.a_stride)
    if not all(isinstance(size, int) for size in sizes):
        return walk
    lines, far, length, near = (int(size) for size in sizes)  # type: ignore[arg-type]
    if near <= 0 or far % near or far // near < length:
        return walk
    pitch = far // near
    extent = (lines - 1) * pitch + length
    # With as many tiles as lines, two of them still make a block, which loads less.
    if ceil(extent / ROWS) > lines * ceil(length / ROWS):
        return walk
    whole = MergedAxis(extent, near, 0, ())
    return TileWalk(found.batch, tuple(outer), whole, found.depth, found.rank, pitch, (line, axis))


def _runs(depth: tuple[DepthAxis, ...], form: TileForm) -> Runs | None:
    """The depth as runs of contiguous elements; None where tiles cannot be loaded from it."""
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
    """Blocks of rows that stay in the second-level cache while all panels go by."""
    form, runs = tiling.form, tiling.runs
    steps = runs.count * runs.steps
    overlap = runs.count if _windows_overlap(tiling) else 1
    bytes_ = ROWS * tiling.tall * steps * 64 * form.parts // overlap
    room = max(_LEAST_BLOCKS, target.l2_bytes * 3 // 8 // max(1, bytes_))
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


def _windows_overlap(tiling: MatrixTiling) -> bool:
    """Whether rows read the elements of their neighbours too: a convolution with taps."""
    stride = tiling.walk.axis.a_stride
    return isinstance(stride, int) and stride < tiling.runs.count * tiling.runs.length


def _rows(walk: TileWalk) -> int:
    """The rows that count."""
    if walk.pitch is not None:
        rows = dims.product(axis.extent for axis in walk.lines)
    else:
        rows = walk.axis.extent
    return rows if isinstance(rows, int) else 4 * 2 * ROWS


def _numbers(contraction: Contraction, tiling: MatrixTiling) -> int:
    """The numbers of a."""
    numbers = dims.product(contraction.a.shape)
    depth = tiling.runs.count * tiling.runs.length
    return numbers if isinstance(numbers, int) else 4 * 2 * ROWS * depth
