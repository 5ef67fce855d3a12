"""Computes rows of a few elements side by side, one row in each lane of a vector.

    out[4*i + j] = exp(x[4*i + j]) / sum r: exp(x[4*i + r])    becomes, for every 16 rows from i on

    vector lane in 0..16:    for all 4 elements, written out:
      kept[16*r + lane] = exp(x[4*(i + lane) + r]) / ...
    for v in 0..4, written out:    vector lane in 0..16:
      out[4*i + 16*v + lane] = kept[16*((16*v + lane) % 4) + (16*v + lane) // 4]

A vector of a single row's elements would leave most lanes empty, and its sums would have to go from
lane to lane. Here the loads (every fourth element) and those of the last loop are vectors that are
shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Dim, Size, Symbol, atom
from bessemer.compiler.ir.expr import less
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ir.walk_expr import reductions_of, substitute
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.rows import Lanes, RowWriter

SHORT_ROW, SHORT_SUM, NARROW_SHORT_ROW = 12, 8, 4
"""Elements of rows that are computed side by side, or only summed up, where vectors have 16 lanes;
and elsewhere. (Softmax of 12 took 524 us by 694, of 16 584 by 412; sums of 8 73 by 130, of 12 116
by 91.)"""


def are_short(steps: Sequence[Size], lanes: Lanes, most: int = SHORT_SUM) -> bool:
    """Whether rows with so many elements are better computed side by side."""
    limit = most if lanes(f32) >= 16 else NARROW_SHORT_ROW
    return all(isinstance(step, int) and step <= limit for step in steps)


def short_rows(piece: Piece, lanes: Lanes) -> Piece | None:
    """A piece over one axis of rows and one of their elements, if the given piece consists of short
    rows that follow each other in memory, with sums of each row.

    What they read may lie anywhere: a load of one element for 16 rows takes a fraction of what 16
    sums from lane to lane take. (Softmax of 2 channels of three joined images 268 us by 9, of 12
    293 by 60.)"""
    if len(piece.symbols) < 2 or piece.target.dtype is not f32:
        return None
    *outer, inner = piece.symbols
    columns = extent_of(inner)
    sums = reductions_of(piece.value)
    over = [dims.product(map(extent_of, node.over)) for node in sums]
    if not sums or columns == 0 or not are_short([columns, *over], lanes, SHORT_ROW):
        return None
    rows = dims.product(map(extent_of, outer))
    if isinstance(rows, int) and rows < 4 * lanes(f32):
        return None
    if not _follow_each_other(piece.offset, piece.symbols):
        return None
    return piece if len(outer) == 1 else _with_one_row_axis(piece)


def _follow_each_other(offset: Size, symbols: Sequence[Symbol]) -> bool:
    step: Size = 1
    for symbol in reversed(symbols):
        if dims.coefficient_of(offset, symbol) != step:
            return False
        step = step * extent_of(symbol)
    return True


def _with_one_row_axis(piece: Piece) -> Piece:
    *outer, inner = piece.symbols
    row = Symbol(outer[-1].name, dims.product(map(extent_of, outer)))
    places: dict[Atom, Size] = {}
    index: Size = atom(row)
    for symbol in reversed(outer[1:]):
        places[symbol] = index % extent_of(symbol)
        index = index // extent_of(symbol)
    places[outer[0]] = index
    first = dims.substitute(piece.offset, dict.fromkeys(piece.symbols, 0))
    offset = first + atom(row) * extent_of(inner) + atom(inner)
    return Piece(piece.target, offset, substitute(piece.value, places), (row, inner))


class _SideBySide(RowWriter):
    """Writes a row element by element, inside of a vector loop over rows."""

    def vector_loop(self, extent: Size, lanes: int, interleave: int) -> AbstractContextManager[Dim]:
        return self.builder.loop(extent, "unroll")


def write_short_rows(builder: KernelBuilder, piece: Piece, lanes: Lanes) -> None:
    """Adds the loops to a kernel: a parallel one over groups of as many rows as there are lanes."""
    row, inner = piece.symbols
    rows, columns, width = extent_of(row), extent_of(inner), lanes(f32)
    assert isinstance(columns, int)
    with builder.loop(dims.ceildiv(rows, width), "parallel") as item:
        begin = item * width
        if isinstance(rows, int) and rows % width == 0:
            _block(builder, piece, lanes, begin)
            return
        with builder.when(less(begin + (width - 1), rows)):
            _block(builder, piece, lanes, begin)
        with builder.otherwise(), builder.loop(rows - begin) as rest:
            RowWriter(builder, piece, lanes).row(inner, {row: begin + rest})


def _block(builder: KernelBuilder, piece: Piece, lanes: Lanes, begin: Size) -> None:
    row, inner = piece.symbols
    columns, width = extent_of(inner), lanes(f32)
    assert isinstance(columns, int)
    kept = builder.allocate(f32, (columns * width,))
    with builder.loop(width, "vector", width) as lane:
        transposed = Piece(kept, dims.atom(inner) * width + lane, piece.value, piece.symbols)
        writer = _SideBySide(builder, transposed, lanes)
        writer.largest_kept = 0  # a vector loop has no arrays of its own but the target
        writer.row(inner, {row: begin + lane})
    first = dims.substitute(piece.offset, {row: begin, inner: 0})
    with builder.loop(columns, "unroll") as number, builder.loop(width, "vector", width) as lane:
        place = number * width + lane
        value = kept[place % columns * width + place // columns]
        builder.store(piece.target, (first + place,), value)
