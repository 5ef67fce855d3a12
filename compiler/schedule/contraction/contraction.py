"""What the micro-kernel schedule computes: one sum over `depth` for every row and column.

    out[rows, column] = epilogue(sum over depth of a[base + rows . strides + depth . strides]
                                                   * b[matrix(rows), depth, column])

A matrix product has rows (batch..., m) and depth (k,). A convolution of a channels-last, already
padded input has rows (n, oh, ow), whose strides in `a` are those of the windows' corners, and depth
(kh, kw, c). A group of a grouped convolution, or a batch of a batched product, is a row axis with
a `b_stride`: each of its steps has its own packed matrix.

Where the machine has instructions for dot products, a step of the sum takes a group of neighbours
along the innermost axis of the depth; b's panels keep groups together, the last one of a run padded
with zeros.

Adjacent axes are merged where their strides say that they are one: a 1x1 convolution becomes a
matrix product, and a row of taps (kw, c) one run of contiguous elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, IndexValue, Load, fragment_element
from bessemer.compiler.ir.loops import Prefetch, Store
from bessemer.compiler.ir.types import DType, bf16, f16, f32, f64, i8, i16, i32, u8
from bessemer.compiler.ir.walk_expr import all_nodes
from bessemer.compiler.targets.machine import Target

FEW_CHANNELS = 6
"""Channels that lie in planes, few enough for one straight piece of code, are summed innermost."""

Epilogue: TypeAlias = Callable[[tuple[Size, ...], Size, Expression], tuple[Store, ...]]


@dataclass(frozen=True)
class RowAxis:
    """One axis of the output's rows. `a_stride` in elements, `b_stride` in packed matrices."""

    extent: Size
    a_stride: Size
    b_stride: Size = 0


@dataclass(frozen=True)
class DepthAxis:
    """One axis of the sum; the order of the axes is that of b's rows.

    `steps` is how many of b's steps one along the axis takes, if not those of the axes inside: a
    part of the taps leaves others out.
    """

    extent: Size
    a_stride: Size
    steps: Size | None = None


@dataclass(frozen=True)
class Band:
    """The places [row, column] of a matrix with -below <= column - row <= above."""

    above: int
    below: int

    def __and__(self, other: Band) -> Band:
        return Band(min(self.above, other.above), min(self.below, other.below))

    def __or__(self, other: Band) -> Band:
        return Band(max(self.above, other.above), max(self.below, other.below))

    @property
    def turned(self) -> Band:
        """In the matrix transposed."""
        return Band(self.below, self.above)

    def covers(self, rows: int, columns: int) -> bool:
        """Whether all places are in it."""
        return self.above >= columns - 1 and self.below >= rows - 1

    def is_in_all_rows(self, rows: int, columns: int) -> bool:
        """Whether every row of a matrix has a place in it."""
        return self.above >= 0 and self.above + self.below >= 0 and rows - 1 - self.below < columns


@dataclass(frozen=True)
class Bands:
    """Of a product of matrices: where the left one [row, step] and the right one [step, column] may
    differ from 0, and where sums [row, column] are read. None: everywhere."""

    left: Band | None
    right: Band | None
    sums: Band | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Contraction:
    """One contraction, with everything that is done to a sum before it is stored.

    `dtype` is that of the sums; the operands may be narrower. `group` neighbours along the depth
    are multiplied at once (see `with_group`).
    `a_base` is the flat offset in `a` of the first row's first element. `b` is packed (packing.py),
    or `b_step` is given: then it lies in memory, its rows that far apart, from `b_matrix` on, and
    the matrices of rows with a `b_stride` are `b_distance` apart.
    `epilogue(row_indices, column, total)` gives the stores of one element, for one index a row
    axis; `column` runs over a fragment's columns. `b_matrix` is the first row's packed matrix.
    Where `reads_on`, what a run leaves of a last group is read with the numbers behind it, which
    are in the buffer, too: times zeros.
    `panel_steps` is the room of a panel of b, if it is more than its steps take, and `first_step`
    the one that a sum begins with. `fetch(panel, tile, step)`, if given, are hints of what is read
    later, for steps along the depth of a tile in a block.
    `bands`, if given, are of the last row axis: what lies outside need not be multiplied.
    """

    dtype: DType
    a: Buffer
    a_base: Size
    rows: tuple[RowAxis, ...]
    depth: tuple[DepthAxis, ...]
    columns: Size
    b: Buffer
    epilogue: Epilogue
    group: int = 1
    b_matrix: Size = 0
    b_step: Size | None = None
    b_distance: Size = 0
    panel_steps: Size | None = None
    first_step: Size = 0
    reads_on: bool = False
    fetch: Callable[[Size, Size, Size], Sequence[Prefetch]] | None = None
    bands: Bands | None = None

    @property
    def depth_extent(self) -> Size:
        """The number of products in a sum."""
        return dims.product(axis.extent for axis in self.depth)

    @property
    def run(self) -> Size:
        """The number of neighbours in `a` that a sum takes in one go, and by groups."""
        return merge_depth(self.depth)[-1].extent

    @property
    def depth_steps(self) -> Size:
        """The number of groups in a sum."""
        *outer, _ = merge_depth(self.depth)
        runs = dims.product(axis.extent for axis in outer)
        return runs * dims.ceildiv(self.run, self.group)

    def stores_at(self, rows: tuple[Size, ...], column: Size) -> tuple[Store, ...]:
        """What the epilogue does with a sum, for schedules that ask what it reads and writes. The
        sum is unknown: a number might make loads superfluous."""
        return self.epilogue(rows, column, fragment_element("sum", 0, self.dtype))


def with_group(contraction: Contraction, target: Target) -> Contraction:
    """The contraction by the largest groups that the machine multiplies at once."""
    pair = (contraction.a.dtype, contraction.b.dtype)
    run = merge_depth(contraction.depth)[-1]
    if run.a_stride != 1 or run.extent == 1:
        return contraction
    group = 1
    if contraction.dtype is f32 and pair == (bf16, bf16):
        group = 2 if target.has_dot_bf16 else 1
    elif contraction.dtype is i32:
        mixed = pair in ((u8, i8), (i8, u8))
        group = 4 if mixed and target.has_dot_int8 else 2 if target.has_dot_int16 else 1
    return replace(contraction, group=group, reads_on=_may_read_on(contraction, group))


def _may_read_on(contraction: Contraction, group: int) -> bool:
    """Whether a whole group is in `a` wherever a part of one is, and any number times 0 is 0."""
    if contraction.dtype is not i32:
        return False
    axes: tuple[RowAxis | DepthAxis, ...] = (*contraction.rows, *contraction.depth)
    steps = [axis.a_stride for axis in axes]
    if not all(dims.is_nonnegative(step) for step in steps):
        return False
    last = contraction.a_base + dims.total((axis.extent - 1) * axis.a_stride for axis in axes)
    more = dims.mod(-contraction.run, group)
    return dims.is_nonnegative(dims.product(contraction.a.shape) - 1 - last - more)


def memory_order(axes: Sequence[RowAxis] | Sequence[DepthAxis]) -> tuple[int, ...]:
    """The axes' places, those with the longest steps in `a` first, where these are known."""
    steps = [axis.a_stride for axis in axes]
    places = range(len(axes))
    if not all(isinstance(step, int) for step in steps):
        return tuple(places)
    return tuple(sorted(places, key=lambda place: -abs(dims.number(steps[place]))))


def depth_order(axes: Sequence[DepthAxis], dtype: DType) -> tuple[int, ...]:
    """The places of a convolution's axes of taps, and of its channels, the last one, as they are
    summed; `dtype` is that of what is multiplied."""
    *taps, channels = axes
    by_groups = dtype in (bf16, i8, u8, i16)
    if by_groups and taps and taps[-1].a_stride == 1 != channels.a_stride:
        # Planes: neighbours along a row of the image are multiplied at once.
        return (len(taps), *range(len(taps)))
    if isinstance(channels.extent, int) and channels.extent <= FEW_CHANNELS:
        return tuple(range(len(axes)))
    return memory_order(axes)


def supports(contraction: Contraction) -> bool:
    """Whether the micro-kernel schedule can do it; generic loops do the others."""
    narrower = _OPERANDS.get(contraction.dtype, ())
    types_fit = all(dtype in narrower for dtype in (contraction.a.dtype, contraction.b.dtype))
    rows = dims.product(axis.extent for axis in contraction.rows)
    is_empty = rows * contraction.depth_extent * contraction.columns == 0
    # A product with a vector is a dot product a row: 15 of 16 columns would be padding.
    fits = types_fit and contraction.columns != 1 and bool(contraction.depth)
    return fits and not is_empty


_OPERANDS: dict[DType, tuple[DType, ...]] = {
    f32: (f32, bf16, f16),
    f64: (f64,),
    i32: (i8, u8, i16),
}


@dataclass(frozen=True, eq=False)
class MergedAxis:
    """Row axes that are walked as one; `members` are their positions, outer first."""

    extent: Size
    a_stride: Size
    b_stride: Size
    members: tuple[int, ...]

    def scatter(self, index: Size, into: list[Size]) -> None:
        """Writes the members' indices to their positions.

        The innermost takes the whole index: what is merged is walked as one by every offset.
        """
        for position in self.members:
            into[position] = 0
        if self.members:
            into[self.members[-1]] = index


@dataclass(frozen=True, eq=False)
class Walk:
    """The axes to walk. A tile lies along `axis`; `inner` axes (static) lie in each of its units.

    `batch` axes choose the packed matrix; `outer` axes are the other ones.
    """

    batch: tuple[MergedAxis, ...]
    outer: tuple[MergedAxis, ...]
    axis: MergedAxis
    inner: tuple[MergedAxis, ...]
    depth: tuple[DepthAxis, ...]
    rank: int

    @property
    def unit(self) -> int:
        """Rows in one step along the tile's axis."""
        return len(self.unit_indices())

    def unit_indices(self) -> list[tuple[int, ...]]:
        """The inner axes' indices of each row of a unit."""
        found: list[tuple[int, ...]] = [()]
        for axis in self.inner:
            assert isinstance(axis.extent, int)
            found = [(*index, i) for index in found for i in range(axis.extent)]
        return found


def walk_of(contraction: Contraction, height: int) -> Walk:
    """Merges axes and chooses the one along which tiles of at most `height` rows lie."""
    axes = [
        MergedAxis(row.extent, row.a_stride, row.b_stride, (position,))
        for position, row in enumerate(contraction.rows)
    ]
    batch = tuple(axis for axis in axes if axis.b_stride != 0)
    free = [axis for axis in axes if axis.b_stride == 0 and axis.extent != 1]
    if contraction.bands is None:
        # A tile's rows are at distances that are known, if there are any. (A recurrence's input by
        # steps, [batch, steps, 56] by 336 columns, 64 steps and a batch of 1: 18.5 -> 10.7 us.)
        free.sort(key=lambda axis: isinstance(axis.a_stride, int) and axis.a_stride != 0)
    rows = _merge_rows(contraction, free)
    if not rows:
        free = [axis for axis in axes if axis.b_stride == 0]
        rows = free[-1:] or [MergedAxis(1, 0, 0, ())]
    at = len(rows) - 1
    unit = 1
    while at > 0:
        extent = rows[at].extent
        if not isinstance(extent, int) or unit * extent * 2 > height:
            break
        unit *= extent
        at -= 1
    inner = tuple(rows[at + 1 :])
    depth = merge_depth(contraction.depth)
    return Walk(batch, tuple(rows[:at]), rows[at], inner, depth, len(contraction.rows))


def _merge_rows(contraction: Contraction, axes: Sequence[MergedAxis]) -> list[MergedAxis]:
    """Merges neighbours that every offset of the epilogue walks through as one, too."""
    merged: list[MergedAxis] = []
    for axis in reversed(axes):
        if merged and _walked_as_one(contraction, axis, merged[-1]):
            extent = axis.extent * merged[-1].extent
            members = (*axis.members, *merged[-1].members)
            merged[-1] = MergedAxis(extent, merged[-1].a_stride, 0, members)
        else:
            merged.append(axis)
    return merged[::-1]


def _walked_as_one(contraction: Contraction, outer: MergedAxis, inner: MergedAxis) -> bool:
    """Whether a step along the outer axis is, in `a` and in every offset of the epilogue, as far as
    a step over all of the inner one."""
    if contraction.bands is not None or outer.a_stride != inner.extent * inner.a_stride:
        return False
    # Symbols without extents: what holds for these holds for a merged index beyond the extent.
    symbols = [dims.Symbol(f"row{i}") for i in range(len(contraction.rows))]
    rows = tuple(dims.atom(symbol) for symbol in symbols)
    stores = contraction.stores_at(rows, dims.symbol("column"))
    sizes = [store.buffer.offset(store.indices) for store in stores]
    for store in stores:
        sizes += _offsets(store.value)
        if store.guard is not None:
            sizes += _offsets(store.guard)
    for size in sizes:
        near = dims.coefficient_of(size, symbols[inner.members[-1]])
        far = dims.coefficient_of(size, symbols[outer.members[-1]])
        if near is None or far is None or far != near * inner.extent:
            return False
    return True


def _offsets(root: Expression) -> list[Size]:
    """The index arithmetic inside an expression."""
    found: list[Size] = []
    for node in all_nodes(root):
        match node:
            case Load(_, buffer, indices, _):
                found.append(buffer.offset(indices))
            case IndexValue(_, size):
                found.append(size)
    return found


def merge_depth(axes: Iterable[DepthAxis]) -> tuple[DepthAxis, ...]:
    """Neighbours whose elements follow each other at one stride become one axis."""
    merged: list[DepthAxis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        follows = bool(merged) and merged[-1].a_stride == axis.extent * axis.a_stride
        if follows and merged[-1].steps is None:
            merged[-1] = replace(axis, extent=merged[-1].extent * axis.extent)
        else:
            merged.append(axis)
    return tuple(merged) or (DepthAxis(1, 1),)


def steps_of(axes: Sequence[DepthAxis], group: int) -> Size:
    """How many of b's steps one along the first of these axes takes."""
    first, *inner = axes
    if first.steps is not None:
        return first.steps
    *outer, run = inner
    return dims.product(axis.extent for axis in outer) * dims.ceildiv(run.extent, group)
