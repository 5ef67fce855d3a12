"""The description of a contraction (a matrix product or a convolution) from which its kernel is
written: one sum over `depth` for every row and column.

    out[rows, column] = epilogue(sum over depth of a[base + rows . strides + depth . strides]
                                                   * b[matrix(rows), depth, column])

A matrix product has rows (batch..., m) and depth (k,). A convolution of an input that is
channels-last and already padded has rows (n, oh, ow), whose strides in `a` are those of the
windows' corners, and depth (kh, kw, c). A group of a grouped convolution, or a batch of a batched
product, is a row axis with a `b_stride`: each step along it has its own packed matrix.

On machines that have instructions for dot products, each step of the sum takes a group of
neighbours along the innermost axis of the depth. The panels of `b` keep such groups together; the
last group of a run is padded with zeros.

Adjacent axes are merged where their strides allow it: a 1x1 convolution becomes a matrix product,
and a row of taps (kw, c) becomes one run of contiguous elements.
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
from bessemer.compiler.schedule.contraction.valid_taps import Image
from bessemer.compiler.targets.machine import Target

FEW_CHANNELS = 6
"""Channels that lie in planes, few enough for one straight piece of code, are summed innermost."""

Epilogue: TypeAlias = Callable[[tuple[Size, ...], Size, Expression], tuple[Store, ...]]


@dataclass(frozen=True)
class RowAxis:
    """One axis of the output's rows. A step along it is `a_stride` elements in `a`, and `b_stride`
    packed matrices in `b`."""

    extent: Size
    a_stride: Size
    b_stride: Size = 0


@dataclass(frozen=True)
class DepthAxis:
    """One axis of the sum; the order of the axes is that of b's rows.

    `steps` is how many steps of `b` one step along this axis takes. None: as many as all axes
    inside of it have, which is not so if only a part of the taps is summed.
    `image`, if given, says which taps need not be multiplied.
    """

    extent: Size
    a_stride: Size
    steps: Size | None = None
    image: Image | None = None


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
        """The same band of the transposed matrix."""
        return Band(self.below, self.above)

    def covers(self, rows: int, columns: int) -> bool:
        """Whether all places of a matrix with these numbers of rows and columns are in the band."""
        return self.above >= columns - 1 and self.below >= rows - 1

    def is_in_all_rows(self, rows: int, columns: int) -> bool:
        """Whether every row of such a matrix has a place in the band."""
        return self.above >= 0 and self.above + self.below >= 0 and rows - 1 - self.below < columns


@dataclass(frozen=True)
class Bands:
    """Which parts of a matrix product matter: outside of `left`, the left operand [row, step] is 0;
    outside of `right`, the right operand [step, column] is 0; outside of `sums`, the result [row,
    column] is not read. None: all of it matters."""

    left: Band | None
    right: Band | None
    sums: Band | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Contraction:
    """One contraction, with everything that is done to a sum before it is stored.

    `dtype` is that of the sums; the operands may be narrower. `group` neighbours along the depth
    are multiplied at once (see `with_group`). `a_base` is the flat offset in `a` of the first row's
    first element.

    `b` is packed (packing.py), and `b_matrix` is the number of the first row's packed matrix. Or,
    if `b_step` is given, `b` lies in memory as rows that are `b_step` elements apart, beginning at
    offset `b_matrix`; the matrices of rows with a `b_stride` are `b_distance` elements apart.

    `epilogue(row_indices, column, total)` gives the stores of one element, for one index per row
    axis; `column` runs over a fragment's columns.

    If `reads_on`, a last group that is not whole is multiplied as a whole: the numbers in `a`
    behind it exist, and are multiplied by zeros.

    `panel_steps` is the number of steps that a panel of `b` has room for, if that is more than the
    sum takes, and `first_step` is the step that the sum begins with. `fetch(panel, tile, step)`, if
    given, gives prefetches of what is read later, to be issued at that step of the depth of that
    tile in a block.

    `bands`, if given, refer to the last row axis: what lies outside of them need not be multiplied.
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
        """The number of consecutive elements of `a` that a sum takes in one piece. Groups do not
        reach from one such run into the next."""
        return merge_depth(self.depth)[-1].extent

    @property
    def depth_steps(self) -> Size:
        """The number of steps (groups) of a sum."""
        *outer, _ = merge_depth(self.depth)
        runs = dims.product(axis.extent for axis in outer)
        return runs * dims.ceildiv(self.run, self.group)

    def stores_at(self, rows: tuple[Size, ...], column: Size) -> tuple[Store, ...]:
        """The epilogue's stores for an unknown sum, for schedules that want to know what it reads
        and writes. (With a number for a sum, some loads might be simplified away.)"""
        return self.epilogue(rows, column, fragment_element("sum", 0, self.dtype))


def with_group(contraction: Contraction, target: Target) -> Contraction:
    """The contraction with the largest groups that the machine multiplies in one instruction."""
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
    """Whether `Contraction.reads_on` is allowed: the whole last group is inside of `a`, and any
    number times 0 is 0, which is true of integers."""
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
    """The positions of the axes, sorted by descending stride in `a`; unsorted if a stride is not
    known."""
    steps = [axis.a_stride for axis in axes]
    places = range(len(axes))
    if not all(isinstance(step, int) for step in steps):
        return tuple(places)
    return tuple(sorted(places, key=lambda place: -abs(dims.number(steps[place]))))


def depth_order(axes: Sequence[DepthAxis], dtype: DType) -> tuple[int, ...]:
    """The order in which a convolution sums up its axes, as positions in `axes`; the last of these
    is the channels, the others are taps. `dtype` is that of the operands."""
    *taps, channels = axes
    by_groups = dtype in (bf16, i8, u8, i16)
    if by_groups and taps and taps[-1].a_stride == 1 != channels.a_stride:
        # Planes: neighbours along a row of the image are multiplied at once.
        return (len(taps), *range(len(taps)))
    if isinstance(channels.extent, int) and channels.extent <= FEW_CHANNELS:
        return tuple(range(len(axes)))
    return memory_order(axes)


def supports(contraction: Contraction) -> bool:
    """Whether the micro-kernel can compute the contraction. Generic loops (nests/nests.py) compute
    the others."""
    types_fit = multiplies(contraction.dtype, contraction.a.dtype, contraction.b.dtype)
    rows = dims.product(axis.extent for axis in contraction.rows)
    is_empty = rows * contraction.depth_extent * contraction.columns == 0
    # A product with a vector is a dot product a row: 15 of 16 columns would be padding.
    fits = types_fit and contraction.columns != 1 and bool(contraction.depth)
    return fits and not is_empty


def multiplies(sums: DType, *operands: DType) -> bool:
    """Whether tiles add up products of operands of these types to sums of that type."""
    return all(dtype in _OPERANDS.get(sums, ()) for dtype in operands)


_OPERANDS: dict[DType, tuple[DType, ...]] = {
    f32: (f32, bf16, f16),
    f64: (f64,),
    i32: (i8, u8, i16),
}


@dataclass(frozen=True, eq=False)
class MergedAxis:
    """Row axes that are walked as one. `members` are their positions among the contraction's rows,
    outermost first."""

    extent: Size
    a_stride: Size
    b_stride: Size
    members: tuple[int, ...]

    def scatter(self, index: Size, into: list[Size]) -> None:
        """Writes the index along this axis to the positions of its members in `into`.

        The innermost member gets the whole index, the others keep 0: axes are only merged where
        every offset is linear across them, so that the innermost index may go beyond its extent.
        """
        for position in self.members:
            into[position] = 0
        if self.members:
            into[self.members[-1]] = index


@dataclass(frozen=True, eq=False)
class Walk:
    """The order in which a contraction's row axes are walked.

    `batch` axes choose the packed matrix. A tile lies along `axis`; each step along it is a unit of
    all rows of the `inner` axes, whose extents are known. `outer` axes are all others. `rank` is
    the number of the contraction's row axes.
    """

    batch: tuple[MergedAxis, ...]
    outer: tuple[MergedAxis, ...]
    axis: MergedAxis
    inner: tuple[MergedAxis, ...]
    depth: tuple[DepthAxis, ...]
    rank: int

    @property
    def unit(self) -> int:
        """The number of rows in one step along the tile's axis."""
        return len(self.unit_indices())

    def unit_indices(self) -> list[tuple[int, ...]]:
        """The indices along the inner axes of each row of a unit."""
        found: list[tuple[int, ...]] = [()]
        for axis in self.inner:
            assert isinstance(axis.extent, int)
            found = [(*index, i) for index in found for i in range(axis.extent)]
        return found


def walk_of(contraction: Contraction, height: int) -> Walk:
    """Merges row axes, and chooses the one along which tiles of at most `height` rows lie."""
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
    """Merges neighbouring axes that `a` and every offset of the epilogue step through as one."""
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
    """Whether a step along the outer axis is as far as a step over the whole inner axis, in `a` and
    in every offset that the epilogue uses."""
    if contraction.bands is not None or outer.a_stride != inner.extent * inner.a_stride:
        return False
    images = [axis.image.row for axis in contraction.depth if axis.image is not None]
    if any(row in images for row in (*outer.members, *inner.members)):
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
        inner_step = dims.coefficient_of(size, symbols[inner.members[-1]])
        outer_step = dims.coefficient_of(size, symbols[outer.members[-1]])
        if inner_step is None or outer_step is None or outer_step != inner_step * inner.extent:
            return False
    return True


def _offsets(root: Expression) -> list[Size]:
    """The index arithmetic inside of an expression."""
    found: list[Size] = []
    for node in all_nodes(root):
        match node:
            case Load(_, buffer, indices, _):
                found.append(buffer.offset(indices))
            case IndexValue(_, size):
                found.append(size)
    return found


def merge_depth(axes: Iterable[DepthAxis]) -> tuple[DepthAxis, ...]:
    """Merges neighbouring axes of the depth whose elements follow each other at one stride."""
    merged: list[DepthAxis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        follows = bool(merged) and merged[-1].a_stride == axis.extent * axis.a_stride
        if follows and merged[-1].steps is None and merged[-1].image is axis.image is None:
            merged[-1] = replace(axis, extent=merged[-1].extent * axis.extent)
        else:
            merged.append(axis)
    if not merged or merged[-1].steps is not None:
        merged.append(DepthAxis(1, 1))  # a run's steps follow each other
    return tuple(merged)


def steps_of(axes: Sequence[DepthAxis], group: int) -> Size:
    """How many steps of `b` one step along the first of these axes takes."""
    first, *inner = axes
    if first.steps is not None:
        return first.steps
    *outer, run = inner
    return dims.product(axis.extent for axis in outer) * dims.ceildiv(run.extent, group)
