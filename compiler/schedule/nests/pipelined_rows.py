"""Software pipelining of rows that take three passes: one loop runs the last pass of a row, the
second pass of the next, and the first pass of a third one.

    vector i in 0..columns:                              softmax of rows a, b, c
      out[a, i] = kept[a, i] * (1 / sum of a)
      kept[b, i] = exp(x[b, i] - maximum of b);  sum of b += kept[b, i]
      maximum of c max= x[c, i]

The passes over one row wait for each other's totals. Those over three rows do not, and the loads
and stores of two passes overlap with the arithmetic of the third. (Softmax of rows in the
second-level cache of Zen 4, cycles per vector: 11.4 to 13.7 row by row, depending on where in their
pages the arrays begin; 9.6 to 11.6 in this way.)
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import Local
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression, Read
from bessemer.compiler.schedule.costs import is_function
from bessemer.compiler.schedule.nests.interleave import PASS_INTERLEAVE
from bessemer.compiler.schedule.nests.merge_axes import extent_of
from bessemer.compiler.schedule.nests.row_passes import (
    InLoop,
    Place,
    RowPass,
    replaced,
    totals_named,
    with_kept,
)
from bessemer.compiler.schedule.nests.row_traffic import prefetched_rows
from bessemer.compiler.schedule.nests.rows import RowWriter, Values

FEWEST_ROWS, MOST_ROWS = 8, 32
"""Rows in one iteration of the parallel loop. The prologue and the epilogue of the pipeline are
loops of their own. (Zen 5: softmax of 1024 columns from the second-level cache by 8, 16, 32, 64
rows takes 5.7, 5.5, 5.4, 5.3 cycles a vector.)"""
FEWEST_ITEMS = 64
"""Iterations that are left for the threads before there are more rows in one."""
FEWEST_PIPELINED, LONGEST_PIPELINED = 64, 12 << 10
"""The fewest rows, and the most bytes of a row, that are pipelined."""
LONGEST_OF_SUMS = 8 << 10
"""The most bytes of a row where nothing hides loads from the second-level cache: neither functions
of the elements nor memory itself. (Zen 4: layer norms of 12 KiB take 1.17 of the time of one row
after the other, softmax 0.87; of 4 KiB 0.88 and 0.83.)"""


def rows_of_a_pipeline(rows: int) -> int:
    """How many of `rows` rows one iteration of the parallel loop computes."""
    length = MOST_ROWS
    while length > FEWEST_ROWS and (rows % length or rows < length * FEWEST_ITEMS):
        length //= 2
    return length


def are_pipelined(writer: RowWriter, inner: Symbol, rows: Size) -> bool:
    """Whether so many rows are computed in one software-pipelined loop: there are enough of them,
    each takes three passes, and those in progress nearly fit into the first-level cache."""
    columns, dtype = extent_of(inner), writer.piece.target.dtype
    if not writer.vectorize or not isinstance(columns, int) or not isinstance(rows, int):
        return False
    is_hidden = writer.streams or _computes_functions(writer, inner)
    longest = LONGEST_PIPELINED if is_hidden else LONGEST_OF_SUMS
    if columns * dtype.bytes > longest or rows < FEWEST_PIPELINED:
        return False
    return columns >= writer.lanes(dtype) and _has_three_passes(writer, inner)


def _computes_functions(writer: RowWriter, inner: Symbol) -> bool:
    """Whether functions of a row's elements are computed, not only of its totals."""
    along = {inner, *writer.bound}
    return any(
        is_function(node) and not along.isdisjoint(writer.dependence.of(node))
        for node in walk_expr.all_nodes(writer.piece.value)
    )


def _has_three_passes(writer: RowWriter, inner: Symbol) -> bool:
    """Whether a row takes three passes: one for a single total, one for other totals, one that
    stores."""
    element = writer.element(inner, {})
    first = writer.next_pass(element, inner)
    if first is None or first.kept is not None or len(first.reductions) != 1:
        return False
    rest = replaced(element, totals_named(first, "first"))
    second = writer.next_pass(rest, inner)
    if second is None:
        return False
    return writer.next_pass(replaced(rest, totals_named(second, "total")), inner) is None


class PipelinedRows:
    """Adds rows of a piece to a kernel, from row `begin` on. The methods count rows from there."""

    def __init__(self, writer: RowWriter, inner: Symbol, outer: Symbol, begin: Size) -> None:
        self.writer, self.builder = writer, writer.builder
        self.inner, self.outer, self.begin = inner, outer, begin
        self.place: Place | None = None

    def write(self, count: Size) -> None:
        """The loops that compute `count` rows."""
        last = count - 1
        first = self.builder.define(self._first_total(), "first")
        self._keep(first.value)
        passes, nexts = self._second(0, first.value), self._first(dims.minimum(1, last))
        self._loop(0, nexts, passes)
        before = self.builder.define(first.value, "before")
        totals = [self.builder.define(total.value, "total") for total in passes.totals]
        self._mark_moderate(passes.totals, totals)
        first.set(nexts.totals[0].value)
        with self.builder.loop(last) as row:
            stores = self._stores(row, before.value, totals)
            passes = self._second(row + 1, first.value)
            nexts = self._first(dims.minimum(row + 2, last))
            self._loop(row + 1, nexts, stores, passes)
            before.set(first.value)
            for carried, total in zip(totals, passes.totals, strict=True):
                carried.set(total.value)
            first.set(nexts.totals[0].value)
        self._loop(None, self._stores(last, before.value, totals))

    def _values(self, row: Size) -> Values:
        return {self.outer: self.begin + row}

    def _first_pass(self, row: Size) -> tuple[RowPass, Expression]:
        """The pass for the first total, and the element that contains this."""
        element = self.writer.element(self.inner, self._values(row))
        step = self.writer.next_pass(element, self.inner)
        assert step is not None
        return step, element

    def _first_total(self) -> Expression:
        """The first total of the first row, computed in a loop of its own."""
        total = self._first(0)
        self._loop(None, total)
        return total.totals[0].value

    def _first(self, row: Size) -> InLoop:
        step, element = self._first_pass(row)
        return self.writer.begin_pass(step, element, self.inner, None)

    def _second_pass(self, row: Size, first: Expression) -> tuple[RowPass, Expression]:
        """The second pass, and the element in which the first total is known."""
        step, element = self._first_pass(row)
        element = replaced(element, {step.reductions[0]: first})
        second = self.writer.next_pass(element, self.inner)
        assert second is not None
        return second, element

    def _second(self, row: Size, first: Expression) -> InLoop:
        step, element = self._second_pass(row, first)
        return self.writer.begin_pass(step, element, self.inner, self._place_of(row))

    def _stores(self, row: Size, first: Expression, totals: Sequence[Local]) -> InLoop:
        """The stores of a row whose totals are all known."""
        step, element = self._second_pass(row, first)
        known: dict[Expression, Expression] = {
            n: t.value for n, t in zip(step.reductions, totals, strict=True)
        }
        rest, place = replaced(element, known), self._place_of(row)
        if step.kept is not None and place is not None:
            loaded = expr.convert(expr.load(place[0], (place[1],)), step.kept.dtype)
            rest = with_kept(rest, step.kept, self.inner, loaded)
        return self.writer.begin_store(rest, self.inner, self._offset(row))

    def _offset(self, row: Size) -> Size:
        return self.writer.offset(self._values(row))

    def _keep(self, first: Expression) -> None:
        """Finds a place for what the second pass keeps of two rows: the current one and the one
        before it."""
        step, element = self._second_pass(0, first)
        self.place = self.writer.place_to_keep(step, element, self.inner, self._offset(0), rows=2)

    def _place_of(self, row: Size) -> Place | None:
        if self.place is None:
            return None
        buffer, at = self.place
        if buffer.name == self.writer.piece.target.name:
            return buffer, self._offset(row)
        return buffer, at + dims.mod(row, 2) * extent_of(self.inner)

    def _mark_moderate(self, totals: Sequence[Local], carried: Sequence[Local]) -> None:
        """Notes that what is known about the magnitude of a total is also true of the local that
        carries it to the next iteration."""
        for total, local in zip(totals, carried, strict=True):
            if total.value in self.writer.moderate:
                self.writer.moderate.add(local.value)

    def _loop(self, row: Size | None, *parts: InLoop) -> None:
        """One loop for its parts of several rows. The rows that come after `row` are prefetched."""
        lanes = min(part.lanes for part in parts)
        extent = extent_of(self.inner)
        if self.writer.streams and row is not None:
            here = self._values(row)
            self.writer.prefetched = prefetched_rows(
                self.writer.piece, self.inner, here, self.writer.l1_bytes
            )
        with self.writer.vector_loop(extent, lanes, PASS_INTERLEAVE) as index:
            self.writer.prefetch(index, lanes * PASS_INTERLEAVE)
            stores = []
            for part in parts:
                # Loads come first: a load waits for an earlier store at the same offset in any page
                # (4K aliasing).
                stores += [(place, self._computed(value)) for place, value in part.write(index)]
            self.writer.store(stores)
        self.writer.prefetched = ()

    def _computed(self, value: Expression) -> Expression:
        return value if isinstance(value, Read) else self.builder.define(value, "made").value
