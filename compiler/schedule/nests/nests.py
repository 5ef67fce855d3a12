"""Lowers a `Piece`, one expression for every element of an output, to a loop nest.

    out[i0, i1] = exp(x[i0, i1]) / reduce add r: exp(x[i0, r])          becomes

    parallel i0 in 0..rows
      acc1 = 0
      vector r in 0..columns:  acc1 += exp(x[i0*columns + r])
      vector i1 in 0..columns: out[i0*columns + i1] = exp(x[i0*columns + i1]) / acc1

Buffers become flat, and axes that run through memory together are merged. The innermost axis (or
the last axis of a reduction) then becomes the vector loop, and the others the parallel loop.
rows.py writes what happens to one row, which is one run of the innermost axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression, Load
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.nests.columns_first import ROWS, columns_of_a_block
from bessemer.compiler.schedule.nests.computed_positions import axis_of_positions
from bessemer.compiler.schedule.nests.dot_tiles import DotTiles, dot_tiles
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of, merge_axes
from bessemer.compiler.schedule.nests.nest import Nest, runs_along_memory
from bessemer.compiler.schedule.nests.partial_sums import is_longer
from bessemer.compiler.schedule.nests.pipelined_rows import (
    PipelinedRows,
    are_pipelined,
    rows_of_a_pipeline,
)
from bessemer.compiler.schedule.nests.row_parts import row_parts
from bessemer.compiler.schedule.nests.row_traffic import streams
from bessemer.compiler.schedule.nests.rows import Lanes as Lanes
from bessemer.compiler.schedule.nests.rows import RowWriter, Values
from bessemer.compiler.schedule.nests.rows_across import Across, RowsAcross, axes_across
from bessemer.compiler.schedule.nests.short_axes import join_short_axis
from bessemer.compiler.schedule.nests.short_rows import are_short, short_rows, write_short_rows
from bessemer.compiler.schedule.nests.totals import axes_behind_totals, with_totals
from bessemer.compiler.schedule.nests.window_parts import (
    WindowPart,
    asks_in_windows,
    begun,
    inside,
    window_parts,
)
from bessemer.compiler.schedule.nests.wraparound import write_at_wraparound

PARALLEL_WORTH = 1 << 14
"""A loop nest over fewer elements is not parallel."""
BLOCKS = 16
"""A long single axis is cut into at least this many blocks."""
COLUMNS, FEWEST_BLOCKS = 256, 4
"""Columns that are summed up in one block, unless that makes too few blocks: a block's part of a
row should be longer than a cache line."""


def flat(buffer: Buffer) -> Buffer:
    """The buffer with one axis; its strides are in the offsets of the loads and stores."""
    return Buffer(buffer.name, buffer.dtype, (dims.product(buffer.shape),))


def flatten_loads(value: Expression) -> Expression:
    """The expression with a flat offset in every load."""

    def rule(node: Expression) -> Expression | None:
        if isinstance(node, Load) and (len(node.indices) != 1 or node.buffer.strides):
            return expr.load(flat(node.buffer), (node.buffer.offset(node.indices),), node.guard)
        return None

    return walk_expr.transform(value, rule)


def lower_nest(
    piece: Piece, lanes: Lanes, vectorize: bool = True, last_cache: int = 0, l1_bytes: int = 0
) -> Nest:
    """The loops that compute a piece, whose loads must be flat. What does not fit into a last-level
    cache of `last_cache` bytes is written by streaming stores; the first-level cache has `l1_bytes`
    (0: unknown)."""
    piece = merge_axes(piece)
    if vectorize:
        piece = join_short_axis(piece, lanes(piece.target.dtype))
    lowering = _Lowering(piece, lanes, vectorize=vectorize, last_cache=last_cache)
    lowering.rows.l1_bytes = l1_bytes
    return lowering.lower()


def write_nest(builder: KernelBuilder, piece: Piece, lanes: Lanes) -> None:
    """Adds the loops that compute a piece to a kernel. They are serial: one thread runs them."""
    _Lowering(merge_axes(piece), lanes, vectorize=True, last_cache=0, builder=builder).write()


class _Lowering:
    def __init__(
        self,
        piece: Piece,
        lanes: Lanes,
        *,
        vectorize: bool,
        last_cache: int,
        builder: KernelBuilder | None = None,
    ) -> None:
        self.piece = piece
        self.lanes = lanes
        self.vectorize, self.last_cache = vectorize, last_cache
        self.builder = builder or KernelBuilder()
        self.rows = RowWriter(self.builder, piece, lanes, vectorize=vectorize)
        self.rows.streams = streams(piece, last_cache)
        self.dependence = self.rows.dependence
        self.cuts_windows = vectorize and asks_in_windows(piece.value)
        self.inside: set[Symbol] = set()

    def _work(self, *along: Symbol) -> Size:
        """The operations for all elements along these axes, at one index of the other axes."""
        return operations(self.piece.value, along)

    def write(self) -> None:
        """Writes all loops as serial ones."""
        inner = self._inner_axis()
        if inner is None:
            self._serial(self.piece.symbols, {}, self.rows.scalar)
            return
        outer = tuple(s for s in self.piece.symbols if s is not inner)
        self._serial(outer, {}, lambda v: self.rows.row(inner, v))

    def lower(self) -> Nest:
        """Writes the outer loops as one parallel loop."""
        inner = self._inner_axis()
        if inner is None:
            tiles = dot_tiles(self.piece, self.lanes) if self.vectorize else None
            if tiles is not None:
                return self._in_tiles(tiles)
            return self._over(self.piece.symbols, self.rows.scalar, self._work())
        outer = tuple(s for s in self.piece.symbols if s is not inner)
        short = short_rows(self.piece, self.lanes) if self.vectorize else None
        if short is not None:
            write_short_rows(self.builder, short, self.lanes)
            width = self.lanes(self.piece.target.dtype)
            return Nest(self.builder.block(), self._work(inner) * width)
        across = axes_across(self.piece) if self.vectorize else None
        if across is not None:
            return self._across(across)
        behind = axes_behind_totals(self.piece, inner, outer) if self.vectorize else ()
        if behind:
            shared = outer[: len(outer) - len(behind)]
            work = self._work(*behind, inner)
            return self._over(shared, lambda v: self._behind_totals(inner, behind, v), work)
        if len(outer) == 1 and are_pipelined(self.rows, inner, extent_of(outer[0])):
            return self._pipelined(inner, outer[0])
        if self.vectorize:
            columns = columns_of_a_block(self.piece.value, outer, inner, self.dependence)
            if columns is not None:
                return self._columns_first(inner, outer, columns)
        if outer:
            return self._over(outer, lambda v: self._row(inner, v), self._work(inner))
        return self._blocked(inner)

    def _in_tiles(self, tiles: DotTiles) -> Nest:
        """Sums along memory, several at once (dot_tiles.py)."""
        block = Symbol(tiles.column.name, dims.ceildiv(extent_of(tiles.column), tiles.width))
        outer = [s for s in self.piece.symbols if s not in (tiles.row, tiles.column)]

        def write(values: Values) -> None:
            others: Values = {symbol: values[symbol] for symbol in outer}
            tiles.write(self.builder, others, values[block])

        work = self._work(tiles.row) * tiles.width
        return self._over((*outer, block), write, work)

    def _columns_first(self, inner: Symbol, outer: tuple[Symbol, ...], width: Size) -> Nest:
        """Blocks of rows and of `width` columns, which are computed one vector of columns at a
        time (columns_first.py)."""
        row = outer[-1]
        rows, columns = extent_of(row), extent_of(inner)
        block = Symbol(row.name, dims.ceildiv(rows, ROWS))
        part = Symbol(inner.name, dims.ceildiv(columns, width))
        lanes = self.rows.lane_count(self.piece.value, self.piece.target.dtype)

        def write(values: Values) -> None:
            begin, first = values[block] * ROWS, values[part] * width
            count, length = _up_to(rows, begin, ROWS), _up_to(columns, first, width)
            with (
                self.rows.vector_loop(length, lanes, 1) as index,
                self.builder.loop(count) as number,
            ):
                here: Values = {**values, row: begin + number}
                element, offset = self.rows.element(inner, here), self.rows.offset(here)
                stored = self.rows.begin_store(element, inner, offset)
                self.rows.store(stored.write(first + index))

        self.rows.streams = False  # a row is not written from one end to the other
        shared = tuple(s for s in (*outer[:-1], block, part) if extent_of(s) != 1)
        fixed: Values = {s: 0 for s in (block, part) if s not in shared}
        work = self._work() * width * dims.minimum(rows, ROWS)
        return self._over(shared, lambda v: write({**v, **fixed}), work)

    def _across(self, axes: Across) -> Nest:
        """Blocks of rows that lie side by side (rows_across.py)."""
        writer = RowsAcross(self.builder, self.piece, self.lanes, axes, self.last_cache)
        block = Symbol(axes.column.name, dims.ceildiv(extent_of(axes.column), writer.columns))
        outer = [s for s in self.piece.symbols if s not in (axes.row, axes.column)]

        def rows(values: Values) -> None:
            others: Values = {symbol: values[symbol] for symbol in outer}
            writer.write_block(others, values[block] * writer.columns)

        return self._over((*outer, block), rows, self._work(axes.row) * writer.columns)

    def _row(self, inner: Symbol, values: Values) -> None:
        """A row, cut where conditions change."""
        lanes = self.lanes(self.piece.target.dtype) if self.vectorize else 1
        if self.cuts_windows:
            self._window_row(inner, values, lanes)
            return
        for start, length in row_parts(self.piece, inner, lanes):
            if dims.is_nonnegative(length):
                write_at_wraparound(self.rows, inner, values, start, length)
            else:
                with self.builder.when(expr.less(0, length)):
                    write_at_wraparound(self.rows, inner, values, start, length)

    def _window_row(self, inner: Symbol, values: Values, lanes: int) -> None:
        """A row of windows, cut at the image's borders; in each part, conditions are simplified."""
        for part in window_parts(self.piece.value, inner, lanes):
            place = Symbol(inner.name, part.length)
            here: Values = {inner: part.first + dims.atom(place)}
            symbols = tuple(place if s is inner else s for s in self.piece.symbols)
            offset = dims.substitute(self.piece.offset, here)
            axes = {*self.inside, inner} if part.is_inside else self.inside
            value = inside(self.piece.value, axes)
            if part.is_begun:
                value = begun(value, inner)
            value = walk_expr.substitute(value, here)
            piece = Piece(self.piece.target, offset, value, symbols)
            # For less than a vector, masked vectors would take longer than single elements.
            vectorize = self.vectorize and not part.is_short
            rows = RowWriter(self.builder, piece, self.lanes, vectorize=vectorize)
            rows.streams = self.rows.streams
            rows.row(place, values)

    def _behind_totals(self, inner: Symbol, behind: tuple[Symbol, ...], values: Values) -> None:
        """Rows along the last axes, after the totals that they share."""
        piece = replace(self.piece, value=with_totals(self.rows, (inner, *behind), values))
        rest = _Lowering(
            piece,
            self.lanes,
            vectorize=self.vectorize,
            last_cache=self.last_cache,
            builder=self.builder,
        )
        rest._serial(behind, values, lambda v: rest._row(inner, v))

    def _pipelined(self, inner: Symbol, outer: Symbol) -> Nest:
        rows = dims.number(extent_of(outer))
        most = rows_of_a_pipeline(rows)
        with self.builder.loop(dims.ceildiv(rows, most), "parallel") as item:
            count: Size = dims.minimum(rows - item * most, most) if rows % most else most
            PipelinedRows(self.rows, inner, outer, item * most).write(count)
        return Nest(self.builder.block(), self._work(inner) * most)

    def _inner_axis(self) -> Symbol | None:
        """The axis to vectorize: the innermost, unless reductions run along memory instead."""
        if not self.piece.symbols:
            return None
        inner = self._longest_run()
        dependent = [
            node
            for node in walk_expr.reductions_of(self.piece.value)
            if inner in self.dependence.of(node)
        ]
        lanes = self.lanes(self.piece.target.dtype)
        if dependent and all(runs_along_memory(node, inner, lanes) for node in dependent):
            steps = [dims.product(map(extent_of, node.over)) for node in dependent]
            if not self.vectorize or not are_short(steps, self.lanes):
                return None
            self.rows.takes_short_rows = True
        return inner

    def _longest_run(self) -> Symbol:
        """The innermost axis; or another one that runs along memory, if the innermost is too short
        to fill a vector (3 channels of many pixels)."""
        symbols = self.piece.symbols
        inner = symbols[-1]
        extent = extent_of(inner)
        if not isinstance(extent, int) or 2 * extent > self.lanes(self.piece.target.dtype):
            return inner
        longer = [symbol for symbol in symbols if is_longer(extent_of(symbol), extent)]
        positions = axis_of_positions(self.piece.value, inner, longer, self.dependence)
        if positions is not None:
            return positions
        offsets = [self.piece.offset]
        for load in walk_expr.loads_of(self.piece.value):
            offsets.extend(load.indices)
        runs = {
            symbol: sum(dims.coefficient_of(offset, symbol) == 1 for offset in offsets)
            for symbol in (*longer, inner)
        }
        best = max(runs, key=lambda symbol: runs[symbol])
        return best if runs[best] else inner

    def _over(self, outer: tuple[Symbol, ...], body: Callable[[Values], None], work: Size) -> Nest:
        """A parallel loop over the first axes, collapsed into one induction variable, then serial
        loops."""
        whole = dims.product(map(extent_of, outer)) * work
        if not outer or (isinstance(whole, int) and whole < PARALLEL_WORTH):
            self._serial(outer, {}, body)
            return Nest(self.builder.block(), whole)
        split = _parallel_axes(outer)
        shared, serial = outer[:split], outer[split:]
        with self.builder.loop(dims.product(map(extent_of, shared)), "parallel") as index:
            extents = [extent_of(symbol) for symbol in shared]
            values: Values = dict(zip(shared, unravel(index, extents, self._named), strict=True))
            self._serial(serial, values, body)
        return Nest(self.builder.block(), work * dims.product(map(extent_of, serial)))

    def _named(self, size: Size) -> Size:
        """A local that holds index arithmetic, so that it is computed once."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), Symbol):
            return size
        return self.builder.define(expr.index_value(size), "x").index

    def _serial(
        self, outer: tuple[Symbol, ...], values: Values, body: Callable[[Values], None]
    ) -> None:
        if not outer:
            body(values)
            return
        parts = [WindowPart(0, extent_of(outer[0]))]
        if self.cuts_windows:
            parts = window_parts(self.piece.value, outer[0])
        for part in parts:
            if self.cuts_windows and part.length == 1:
                self._serial(outer[1:], {**values, outer[0]: part.first}, body)
                continue
            if part.is_inside:
                self.inside.add(outer[0])
            with self.builder.loop(part.length) as index:
                self._serial(outer[1:], {**values, outer[0]: part.first + index}, body)
            self.inside.discard(outer[0])

    def _blocked(self, inner: Symbol) -> Nest:
        """A single axis, cut into blocks for the threads if it is long."""
        extent = extent_of(inner)
        whole = self._work(inner)
        invariant = any(
            inner not in self.dependence.of(node)
            for node in walk_expr.reductions_of(self.piece.value)
        )
        short = isinstance(whole, int) and whole < 2 * PARALLEL_WORTH
        if short or invariant or not self.vectorize:
            self.rows.row(inner, {})
            return Nest(self.builder.block(), whole)
        block = 4096
        if isinstance(extent, int):
            block = min(block, -(-extent // (BLOCKS * 64)) * 64)
            if walk_expr.reductions_of(self.piece.value):
                block = max(block, min(COLUMNS, extent // FEWEST_BLOCKS // 64 * 64))
        with self.builder.loop(dims.ceildiv(extent, block), "parallel") as index:
            length: Size = dims.minimum(extent - index * block, block)
            if isinstance(extent, int) and extent % block == 0:
                length = block
            write_at_wraparound(self.rows, inner, {}, index * block, length)
        return Nest(self.builder.block(), self._work() * block)


def _up_to(extent: Size, begin: Size, most: Size) -> Size:
    """How many of `extent` elements a block of at most `most` has that starts at `begin`."""
    if begin == 0 or (isinstance(extent, int) and isinstance(most, int) and extent % most == 0):
        return dims.minimum(extent, most)
    return dims.minimum(extent - begin, most)


def _parallel_axes(outer: tuple[Symbol, ...]) -> int:
    """How many of the first axes are collapsed into the parallel loop. Few, because recovering
    several indices from one takes divisions."""
    total: Size = 1
    for count, symbol in enumerate(outer, 1):
        total = total * extent_of(symbol)
        if total == 1:
            continue
        if _is_multiple_of_many(total):
            return count
        if not isinstance(total, int) and count > 1:
            return count
    return len(outer)


def _is_multiple_of_many(size: Size) -> bool:
    """Whether a size is at least BLOCKS, or a multiple of at least BLOCKS if it is not known."""
    factor = size if isinstance(size, int) else math.gcd(*size.terms.values())
    return factor >= BLOCKS
