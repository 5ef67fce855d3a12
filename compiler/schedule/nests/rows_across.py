"""Computes rows whose elements are far apart in memory: a few vectors of neighbouring rows at once.

    out[n*r + i] = exp(x[n*r + i] - max k: x[n*k + i]) / sum k: exp(x[n*k + i] - max)     becomes

    parallel block
      vector lane in 0..128:
        for r in rows:  acc1 max= x[n*r + 128*block + lane]
        for r in rows:  kept[128*r + lane] = exp(x[n*r + ...] - acc1);  acc2 += kept[...]
        for r in rows:  out[n*r + 128*block + lane] = kept[128*r + lane] * (1 / acc2)

So what a block needs comes from memory once, and goes there once. If n is a power of two, all
elements of a row meet in a few sets of the caches, and would not stay there for the next pass, but
what is kept does. (Zen 5, one thread, softmax of 21 planes of 256x256, cycles a vector: 30 by a
kernel for each step, 16 by blocks of 2 or 4 vectors, 12 of 8.)

Rows that are neighbours in the input only, because a transpose lies in between, are computed in the
same way, and a block is transposed on its way to the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Reduce, load
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of, reductions_of, substitute
from bessemer.compiler.schedule.costs import has_functions
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.interleave import COLUMN_INTERLEAVE
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of, merge_axes
from bessemer.compiler.schedule.nests.partial_sums import is_longer, summation_block
from bessemer.compiler.schedule.nests.row_passes import Place, RowPass
from bessemer.compiler.schedule.nests.row_traffic import streams
from bessemer.compiler.schedule.nests.rows import Lanes, RowWriter, Values
from bessemer.compiler.schedule.nests.transpose import write_transpose
from bessemer.compiler.targets.machine import CACHE_LINE

LARGEST_BLOCK = 80 << 10
"""The most bytes that are kept of a block; they lie on the stack."""
FEWEST_COLUMNS = 16
"""The fewest rows that are computed so: they fill a vector."""
SHARE_OF_CACHE = 8
"""Blocks are fetched ahead if a core's own caches do not hold the elements: if there are more bytes
than the last cache's by this number. (3 planes of 512x512 132 -> 95 us; of 4 MiB in all 85 -> 88.)
"""


@dataclass(frozen=True, eq=False)
class Across:
    """The axis along the rows, and that of their neighbours. If `turned`, the elements of a row are
    neighbours in the output, which is transposed from what is kept of a block."""

    row: Symbol
    column: Symbol
    turned: bool


def axes_across(piece: Piece) -> Across | None:
    """The axes of a piece whose reductions all run over such rows; None if it is not one."""
    if len(piece.symbols) < 2 or not reductions_of(piece.value):
        return None
    *others, last = piece.symbols
    possible = [Across(row, last, turned=False) for row in others]
    possible.append(Across(last, others[-1], turned=True))
    return next((axes for axes in possible if _are_across(piece, axes)), None)


def _are_across(piece: Piece, axes: Across) -> bool:
    row, column, turned = axes.row, axes.column, axes.turned
    sums, rows = reductions_of(piece.value), extent_of(row)
    if not isinstance(rows, int) or rows * CACHE_LINE > LARGEST_BLOCK:
        return False
    if dims.coefficient_of(piece.offset, row if turned else column) != 1:
        return False
    if turned and dims.coefficient_of(piece.offset, column) != rows:
        return False
    if not is_longer(extent_of(column), FEWEST_COLUMNS - 1):
        return False
    if not all(_is_over(node, row, column) for node in sums):
        return False
    loads = loads_of(piece.value) if turned else loads_of(*(node.body for node in sums))
    return all(dims.coefficient_of(n.indices[0], column) in (0, 1) for n in loads)


def computes_again(piece: Piece) -> bool:
    """Whether plain loops would compute a reduction for every element of a row that shares it: it
    depends on the innermost axis, but not on all others."""
    piece, dependence = merge_axes(piece), Dependence()
    if axes_across(piece) is not None:
        return False
    needed = map(dependence.of, reductions_of(piece.value))
    *others, last = piece.symbols or (None,)
    return any(last in symbols and not symbols.issuperset(others) for symbols in needed)


def _is_over(node: Reduce, row: Symbol, column: Symbol) -> bool:
    needed = Dependence().of(node)
    if row in needed or column not in needed:
        return False
    return len(node.over) == 1 and extent_of(node.over[0]) == extent_of(row)


class RowsAcross(RowWriter):
    """Writes blocks of rows, each block inside of one vector loop over its rows."""

    def __init__(
        self, builder: KernelBuilder, piece: Piece, lanes: Lanes, axes: Across, last_cache: int
    ) -> None:
        super().__init__(builder, piece, lanes)
        self.whole, self.turned = piece, axes.turned
        self.streams = streams(piece, last_cache) and not axes.turned
        self.along, self.column = axes.row, axes.column
        self.width = self.lane_count(piece.value, piece.target.dtype)
        elements = dims.product(map(extent_of, piece.symbols))
        size = elements * piece.target.dtype.bytes
        self.fetches = is_longer(2 * size, last_cache // SHARE_OF_CACHE)
        costly = [n.dtype for n in reductions_of(piece.value) if has_functions(n.body)]
        self.kept_dtype = costly[0] if costly else None
        if self.turned:
            self.kept_dtype = piece.target.dtype  # the block's results are kept, too
        self.kept: Buffer | None = None
        self.lane: Size = 0
        self.ahead: dict[Buffer, Size] = {}
        self.begun: list[tuple[Reduce, Local]] = []

    @property
    def vectors(self) -> int:
        """How many vectors of rows are in a block."""
        count = COLUMN_INTERLEAVE
        if self.kept_dtype is not None:
            vector = self.width * self.kept_dtype.bytes * dims.number(extent_of(self.along))
            while count > 1 and count * vector > LARGEST_BLOCK:
                count //= 2
        return count

    @property
    def columns(self) -> int:
        """How many rows are in a block."""
        return self.vectors * self.width

    def write_block(self, values: Values, begin: Size) -> None:
        """Adds the loops for the block of rows from `begin` on to a kernel."""
        extent, rows = extent_of(self.column), dims.number(extent_of(self.along))
        count: Size = dims.minimum(extent - begin, self.columns)
        if isinstance(extent, int) and extent % self.columns == 0:
            count = self.columns
        if self.kept_dtype is not None:
            self.kept = self.builder.allocate(self.kept_dtype, (rows * self.columns,))
        kept = self.kept
        with self.builder.loop(count, "vector", self.width, self.vectors) as lane:
            self.lane = lane
            here: Values = {**values, self.column: begin + lane}
            offset = self.offset(here)
            if self.turned and kept is not None:
                offset = atom(self.along) * self.columns + lane
                self.piece = replace(self.whole, target=kept, offset=offset)
            self.ahead = self._next_block(here) if self.fetches else {}
            element = self.hoist_reductions(self.element(self.along, here), self.along, offset)
            self.store_row(element, self.along, offset, 0, rows)
        if self.turned and kept is not None:
            self._turn(kept, {**values, self.column: begin}, count)

    def _turn(self, kept: Buffer, values: Values, count: Size) -> None:
        """Transposes a block from where it was kept to the output."""
        column = Symbol(self.column.name, count)
        place = self.whole.offset - dims.substitute(self.whole.offset, {self.column: 0})
        first = dims.substitute(self.whole.offset, values)
        offset = first + dims.substitute(place, {self.column: atom(column)})
        element = load(kept, (atom(self.along) * self.columns + atom(column),))
        piece = Piece(self.whole.target, offset, element, (column, self.along))
        if not write_transpose(self.builder, piece, self.lanes):
            with self.builder.loop(count) as at, self.builder.loop(extent_of(self.along)) as row:
                here: Values = {column: at, self.along: row}
                value = substitute(element, here)
                self.builder.store(piece.target, (dims.substitute(offset, here),), value)

    def place_to_keep(
        self, step: RowPass, value: Expression, inner: Symbol, offset: Size, rows: int = 1
    ) -> Place | None:
        kept, self.kept = self.kept, None
        if step.kept is None or kept is None or step.kept.dtype != kept.dtype:
            return None
        return kept, atom(inner) * self.columns + self.lane

    def accumulator(self, node: Reduce) -> Local:
        total = super().accumulator(node)
        if summation_block(node, extent_of(self.along)):
            self.begun.append((node, total))
        return total

    @contextmanager
    def vector_loop(self, extent: Size, lanes: int, interleave: int) -> Iterator[Size]:
        """A loop along the row; one over parts of it if it computes sums of many elements."""
        begun, self.begun = self.begun, []
        if not begun:
            with self.builder.loop(extent) as index:
                self._fetch(index)
                yield index
            return
        rows, parts = dims.number(extent), [part for _, part in begun]
        length = summation_block(begun[0][0], rows)
        totals = [self.builder.define(part.value, "total") for part in parts]
        with self.builder.loop(dims.ceildiv(rows, length)) as block:
            first = block * length
            count: Size = dims.minimum(rows - first, length) if rows % length else length
            with self.builder.loop(count) as place:
                self._fetch(first + place)
                yield first + place
            for total, part in zip(totals, parts, strict=True):
                total.accumulate("add", part.value)
                part.set(0)
        for total, part in zip(totals, parts, strict=True):
            part.set(total.value)

    def _next_block(self, values: Values) -> dict[Buffer, Size]:
        """Where a row's elements of the next block begin, by the row's index, in each buffer that
        the reductions read."""
        found: dict[Buffer, Size] = {}
        for node in reductions_of(self.piece.value):
            along: Values = dict.fromkeys(node.over, atom(self.along))
            for read in loads_of(node.body):
                at = dims.substitute(read.indices[0], along)
                if {self.along, self.column} <= dims.atoms(at) and not index_expressions(at):
                    found.setdefault(read.buffer, dims.substitute(at, values) + self.columns)
        return found

    def _fetch(self, index: Size) -> None:
        """Fetches what the next block reads at a place of the rows; done in the first pass."""
        ahead, self.ahead = self.ahead, {}
        for buffer, begin in ahead.items():
            start = dims.substitute(begin, {self.along: index})
            for line in range(0, self.columns, max(1, CACHE_LINE // buffer.dtype.bytes)):
                self.builder.append(Prefetch(buffer, start + line, 1))
