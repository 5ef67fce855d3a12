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
from bessemer.compiler.ir.dims import Dim, Size, Symbol
from bessemer.compiler.ir.expr import Load, less
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of, reductions_of
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


def has_short_rows(piece: Piece, lanes: Lanes) -> bool:
    """Whether a piece consists of short rows that follow each other in memory, with sums of each
    row."""
    if len(piece.symbols) != 2 or piece.target.dtype is not f32:
        return False
    row, inner = piece.symbols
    columns, rows = extent_of(inner), extent_of(row)
    sums = reductions_of(piece.value)
    over = [dims.product(map(extent_of, node.over)) for node in sums]
    if not sums or not are_short([columns, *over], lanes, SHORT_ROW):
        return False
    if isinstance(rows, int) and rows < 4 * lanes(f32):
        return False
    steps = dims.coefficient_of(piece.offset, row), dims.coefficient_of(piece.offset, inner)
    if steps != (columns, 1):
        return False
    return all(_is_near(load, row, columns) for load in loads_of(piece.value))


def _is_near(load: Load, row: Symbol, columns: Size) -> bool:
    (offset,) = load.indices
    step = dims.coefficient_of(offset, row)
    return step in (0, 1, columns) and load.guard is None and not index_expressions(offset)


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
