"""Writes what a kernel does with one row, which is one run of the innermost axis, or with one
element.

    out[i] = exp(x[i] - max r: x[r]) / sum r: exp(x[r] - max)          becomes

    vector r in 0..columns:  acc1 max= x[r]
    vector r in 0..columns:  kept = exp(x[r] - acc1);  out[r] = kept;  acc2 += kept
    vector i in 0..columns:  out[i] = out[i] * (1 / acc2)

Everything that does not depend on the innermost index is computed before its loop. nests.py writes
the loops around a row; pipelined_rows.py writes loops over several rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import (
    Binary,
    Cast,
    Constant,
    Expression,
    IndexValue,
    Read,
    Reduce,
)
from bessemer.compiler.ir.loops import Accumulate, LoopKind, Prefetch, Stream
from bessemer.compiler.ir.types import DType
from bessemer.compiler.schedule.costs import has_functions
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.column_sums import with_column_sums
from bessemer.compiler.schedule.nests.inner_reductions import write_reduction
from bessemer.compiler.schedule.nests.interleave import (
    COLUMN_INTERLEAVE,
    PASS_INTERLEAVE,
    SUM_INTERLEAVE,
    fitting,
)
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of, merge_axes
from bessemer.compiler.schedule.nests.row_arithmetic import (
    is_moderate,
    with_falling_exponentials,
    with_reciprocals,
)
from bessemer.compiler.schedule.nests.row_passes import (
    InLoop,
    Place,
    RowPass,
    along_row,
    next_pass,
    replaced,
    totals_named,
    with_kept,
)
from bessemer.compiler.schedule.nests.row_periods import vectors_per_period, write_periods
from bessemer.compiler.schedule.nests.row_traffic import Places, prefetched_rows
from bessemer.compiler.schedule.nests.skip_nan import may_skip_nan
from bessemer.compiler.targets.machine import CACHE_LINE

Lanes = Callable[[DType], int]
"""The vector width of the target for an element type."""
Values = dict[Atom, Size]

LARGEST_KEPT = 32 << 10
"""Bytes of a row that a pass may keep on the stack."""


def write_row(builder: KernelBuilder, piece: Piece, lanes: Lanes) -> Expression | None:
    """Adds the loops that compute one row, the piece's only axis, to a kernel.

    The row may be read where it is written. If the last step, apart from a cast, is a division by
    something that is the same for the whole row, it is not done, and the divisor is returned; else
    None is.
    """
    return RowWriter(builder, merge_axes(piece), lanes).row_in_place()


class RowWriter:
    """Adds rows of a piece to a kernel. In its methods, `inner` is the index along the row, and
    `values` are the outer indices of the row."""

    def __init__(
        self, builder: KernelBuilder, piece: Piece, lanes: Lanes, *, vectorize: bool = True
    ) -> None:
        self.builder, self.piece, self.lanes = builder, piece, lanes
        self.vectorize = vectorize
        self.dependence = Dependence()
        self.streams, self.l1_bytes = False, 0
        self.takes_short_rows = False
        self.largest_kept = LARGEST_KEPT
        self.rounds_kept = False
        self.skips_nan: set[Reduce] = set()
        self.moderate: set[Expression] = set()
        self.prefetched: Places = ()
        self.bound = {
            symbol for node in walk_expr.reductions_of(piece.value) for symbol in node.over
        }

    def row_in_place(self) -> Expression | None:
        """Writes a piece that is one row; returns the divisor that is left to do, as `write_row`
        does."""
        (inner,) = self.piece.symbols
        value = self.element(inner, {})
        if isinstance(value, Cast):
            # If the weights are bf16, the exponentials are kept as bf16, too.
            value, self.rounds_kept = value.operand, value.dtype == self.piece.target.dtype
        value = self.hoist_reductions(value, inner, self.piece.offset)
        written = expr.convert(expr.load(self.piece.target, (self.piece.offset,)), value.dtype)
        match value:
            case Binary(_, "div", left, divisor) if left is written:
                if inner not in self.dependence.of(divisor):
                    return divisor
        self.store_row(value, inner, self.piece.offset, 0, extent_of(inner))
        return None

    def row(
        self, inner: Symbol, values: Values, start: Size = 0, length: Size | None = None
    ) -> None:
        """The innermost loop, after everything that does not depend on its index."""
        element, offset = self.element(inner, values), self.offset(values)
        self.prefetched = prefetched_rows(self.piece, inner, values) if self.streams else ()
        element = self.hoist_reductions(element, inner, offset)
        extent = extent_of(inner) if length is None else length
        self.store_row(element, inner, offset, start, extent)

    def prepared(self, inner: Symbol) -> Expression:
        """The element for a loop that the caller writes. What does not depend on its index is
        computed here."""
        return self._hoist_invariants(self._multiplied(self.piece.value, inner), inner)

    def element(self, inner: Symbol, values: Values) -> Expression:
        """An element of the row with these outer indices."""
        value = walk_expr.substitute(self.piece.value, values)
        return with_falling_exponentials(value, {inner, *self.bound})

    def offset(self, values: Values) -> Size:
        """The offset of the elements of that row, as a formula of the inner index."""
        return dims.substitute(self.piece.offset, values)

    def _multiplied(self, element: Expression, inner: Symbol) -> Expression:
        return with_reciprocals(element, inner, self.dependence, self.moderate)

    def store_row(
        self, element: Expression, inner: Symbol, offset: Size, start: Size, extent: Size
    ) -> None:
        """Writes the loop that stores the row, after everything that does not depend on its
        index."""
        element = self._hoist_invariants(self._multiplied(element, inner), inner)
        lanes = self.lane_count(element, self.piece.target.dtype)
        element = with_column_sums(
            self.builder, element, inner, (start, extent), lanes, self.dependence,
            self._hoist_invariants,
        )  # fmt: skip
        stored = self._storing(element, inner, offset)
        lanes, interleave = stored.lanes, 1
        if self.bound and not self.takes_short_rows:
            interleave = fitting(PASS_INTERLEAVE, extent, lanes)
        if has_functions(element) and not self.prefetched:
            interleave = PASS_INTERLEAVE
        elif self.prefetched:
            interleave = fitting(PASS_INTERLEAVE, extent, lanes)
        if not self.takes_short_rows and any(
            inner in self.dependence.of(n) for n in walk_expr.reductions_of(element)
        ):
            interleave = fitting(COLUMN_INTERLEAVE, extent, lanes)

        def store(index: Size) -> None:
            self.prefetch(start + index, lanes * interleave)
            self.store(stored.write(start + index))

        if period := vectors_per_period(element, inner, start, extent, lanes):
            interleave = 1
            write_periods(self.builder, dims.number(extent), lanes, period, store)
            return
        with self.vector_loop(extent, lanes, interleave) as index:
            store(index)

    def begin_store(self, element: Expression, inner: Symbol, offset: Size) -> InLoop:
        """The stores of a row, for a loop that the caller writes."""
        element = self._hoist_invariants(self._multiplied(element, inner), inner)
        return self._storing(element, inner, offset)

    def _storing(self, element: Expression, inner: Symbol, offset: Size) -> InLoop:
        if self.streams:
            self.builder.append(Stream(self.piece.target))

        def write(index: Size) -> list[tuple[Place, Expression]]:
            here: Values = {inner: index}
            value = self._spell_reductions(walk_expr.substitute(element, here))
            return [((self.piece.target, dims.substitute(offset, here)), value)]

        return InLoop(write, self.lane_count(element, self.piece.target.dtype))

    def store(self, stores: Iterable[tuple[Place, Expression]]) -> None:
        """Adds the stores of a part of a loop."""
        for (buffer, at), value in stores:
            self.builder.store(buffer, (at,), value)

    def scalar(self, values: Values) -> None:
        """Writes one element; the reductions inside of it are the vector loops."""
        element = self.hoist_reductions(walk_expr.substitute(self.piece.value, values), None)
        self.builder.store(
            self.piece.target, (dims.substitute(self.piece.offset, values),), element
        )

    def lane_count(self, value: Expression, dtype: DType) -> int:
        """The narrowest vector width of the loop's memory accesses."""
        if not self.vectorize:
            return 1
        types = {node.buffer.dtype for node in walk_expr.loads_of(value)}
        return min(self.lanes(t) for t in types | {dtype})

    def prefetch(self, index: Size, count: int) -> None:
        """Prefetches as many elements of later rows as an iteration of a pass handles."""
        for buffer, begin, level in self.prefetched:
            for line in range(0, count, max(1, CACHE_LINE // buffer.dtype.bytes)):
                self.builder.append(Prefetch(buffer, begin + index + line, level))

    def hoist_reductions(
        self, value: Expression, inner: Symbol | None, offset: Size = 0
    ) -> Expression:
        """The value after loops for the reductions that do not depend on the inner index, deepest
        first. `offset` is that of the target's element at an inner index."""
        while (step := self.next_pass(value, inner)) is not None:
            if inner is not None and (len(step.reductions) > 1 or step.kept is not None):
                value = self._row_pass(step, value, inner, offset)
            else:
                found: dict[Expression, Expression] = {}
                for node in step.reductions:
                    found[node] = self._reduction_loop(node, value, inner)
                value = replaced(value, found)
        return value

    def next_pass(self, value: Expression, inner: Symbol | None) -> RowPass | None:
        def may_hoist(node: Reduce) -> bool:
            if self._is_inside_reduction(node):
                return False
            return inner is None or inner not in self.dependence.of(node)

        return next_pass(value, may_hoist, inner)

    def _reduction_loop(self, node: Reduce, value: Expression, inner: Symbol | None) -> Expression:
        """Writes a reduction as loops of its own, the last one a vector loop."""
        if inner is not None and may_skip_nan(value, node, inner):
            self.skips_nan.add(node)
        accumulator = self.accumulator(node)
        self._reduction_axes(node, node.over, {}, accumulator.name)
        return accumulator.value

    def accumulator(self, node: Reduce) -> Local:
        """The local in which a reduction is computed, with its first value."""
        accumulator = self.builder.define(expr.neutral(node.name, node.dtype), "acc")
        if is_moderate(node):
            self.moderate.add(accumulator.value)
        return accumulator

    def _row_pass(
        self, step: RowPass, value: Expression, inner: Symbol, offset: Size
    ) -> Expression:
        """Writes a pass whose reductions share a loop; it may store elements for later passes."""
        made = self.begin_pass(step, value, inner, self.place_to_keep(step, value, inner, offset))
        is_longest = step.kept is not None and has_functions(step.kept)
        with self.vector_loop(extent_of(inner), made.lanes, PASS_INTERLEAVE) as index:
            if is_longest:
                self.prefetch(index, made.lanes * PASS_INTERLEAVE)
            self.store(made.write(index))
        if is_longest:
            self.prefetched = ()
        assert made.rest is not None
        return made.rest

    def begin_pass(
        self, step: RowPass, value: Expression, inner: Symbol, place: Place | None
    ) -> InLoop:
        """A pass, for a loop that the caller writes. What it keeps is stored at `place`."""
        self.skips_nan |= {n for n in step.reductions if may_skip_nan(value, n, inner)}
        totals = [self.accumulator(node) for node in step.reductions]
        rest = replaced(value, {n: t.value for n, t in zip(step.reductions, totals)})
        kept = None if place is None else step.kept
        hoisted = None if kept is None else self._hoist_invariants(kept, inner)
        bodies = [
            self._hoist_invariants(along_row(node, inner), inner, {kept: hoisted})
            for node in step.reductions
        ]
        lanes = min(self.lane_count(b, n.dtype) for b, n in zip(bodies, step.reductions))

        def write(index: Size) -> list[tuple[Place, Expression]]:
            here: Values = {inner: index}
            elements, stores = bodies, []
            if hoisted is not None and place is not None:
                buffer, at = place
                local = self.builder.define(walk_expr.substitute(hoisted, here), "kept")
                stores.append(((buffer, dims.substitute(at, here)), local.value))
                elements = [replaced(body, {hoisted: local.value}) for body in bodies]
            for node, body, total in zip(step.reductions, elements, totals):
                element = self._spell_reductions(walk_expr.substitute(body, here))
                skips_nan = node in self.skips_nan
                self.builder.append(Accumulate(total.name, node.name, element, skips_nan))
            return stores

        if kept is not None and place is not None:
            loaded = expr.convert(expr.load(place[0], (place[1],)), kept.dtype)
            rest = with_kept(rest, kept, inner, loaded)
        return InLoop(write, lanes, tuple(totals), rest)

    def place_to_keep(
        self, step: RowPass, value: Expression, inner: Symbol, offset: Size, rows: int = 1
    ) -> Place | None:
        """Where a pass can store an element of the row for later passes; None if nowhere.

        That is the output, which gets its own values later, unless something that is still to be
        computed reads from there. Otherwise it is an array on the stack for `rows` rows, if these
        are short enough.
        """
        kept, target = step.kept, self.piece.target
        if kept is None:
            return None
        fits = kept.dtype == target.dtype or self.rounds_kept
        if fits and not self.streams and not self.target_is_read(step, value, inner):
            return target, offset
        extent = extent_of(inner)
        if isinstance(extent, int) and extent * kept.dtype.bytes <= self.largest_kept:
            return self.builder.allocate(kept.dtype, (rows * extent,)), atom(inner)
        return None

    def target_is_read(self, step: RowPass, value: Expression, inner: Symbol) -> bool:
        """Whether anything that is computed after a pass has stored elements in the output reads
        the output."""
        totals = totals_named(step, "total")
        users = [*(along_row(n, inner) for n in step.reductions), replaced(value, totals)]
        if step.kept is not None:
            done = expr.read("kept", step.kept.dtype)
            users = [with_kept(user, step.kept, inner, done) for user in users]
        return any(
            load.buffer.name == self.piece.target.name for load in walk_expr.loads_of(*users)
        )

    def vector_loop(
        self, extent: Size, lanes: int, interleave: int
    ) -> AbstractContextManager[Size]:
        """A loop over neighbours. If it is short, it handles one vector at a time."""
        long = not isinstance(extent, int) or extent >= interleave * lanes
        kind: LoopKind = "vector" if lanes > 1 else "serial"
        return self.builder.loop(extent, kind, lanes, interleave if lanes > 1 and long else 1)

    def _reduction_axes(
        self, node: Reduce, over: tuple[Symbol, ...], values: Values, local: str
    ) -> None:
        extent = extent_of(over[0])
        if len(over) > 1:
            with self.builder.loop(extent) as index:
                self._reduction_axes(node, over[1:], {**values, over[0]: index}, local)
            return
        skips_nan = node in self.skips_nan
        body = self._hoist_invariants(walk_expr.substitute(node.body, values), over[0])
        lanes = self.lane_count(body, node.dtype)
        interleave = PASS_INTERLEAVE if has_functions(body) else SUM_INTERLEAVE
        with self.vector_loop(extent, lanes, interleave) as index:
            element = self._spell_reductions(walk_expr.substitute(body, {over[0]: index}))
            self.builder.append(Accumulate(local, node.name, element, skips_nan))

    def _spell_reductions(self, value: Expression) -> Expression:
        """Writes the reductions that are left in an expression as loops at this place."""

        def rule(node: Expression) -> Expression | None:
            if not isinstance(node, Reduce):
                return None
            return write_reduction(self.builder, node, self._spell_reductions)

        return walk_expr.replace_outermost(value, rule)

    def _hoist_invariants(
        self,
        value: Expression,
        inner: Atom,
        known: Mapping[Expression | None, Expression | None] = MappingProxyType({}),
    ) -> Expression:
        """Computes what does not depend on the inner index once, into locals. `known` are
        expressions for which this has been done."""

        def rule(node: Expression) -> Expression | None:
            done = known.get(node)
            if done is not None:
                return done
            if isinstance(node, (Constant, Read, IndexValue, Reduce)):
                return None
            if inner in self.dependence.of(node) or self._is_inside_reduction(node):
                return None
            return self.builder.define(node, "u").value

        return walk_expr.replace_outermost(value, rule)

    def _is_inside_reduction(self, node: Expression) -> bool:
        """Whether it depends on the index of a reduction that is not being computed here."""
        return not self.bound.isdisjoint(self.dependence.of(node))
