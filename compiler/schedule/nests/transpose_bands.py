"""Writes the squares of a transposition (transpose.py) into a kernel, band by band.

A band is some rows along the stores, with all or a share of the places along the loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import less
from bessemer.compiler.schedule.contraction.cuts import dealt
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.nests.merge_axes import Piece

SMALLEST = 4
"""Rows and columns of a square, at least, unless all rows there are go together."""
MOST_ROWS = 16
MOST_OPERATIONS = 4 * MOST_ROWS
"""Arithmetic of a square that is written row by row; more is a loop over rows."""


def size_of(symbol: Symbol) -> Size:
    assert symbol.extent is not None
    return symbol.extent


@dataclass(frozen=True, eq=False)
class Transpose:
    """A piece whose loads run along one axis of memory and whose stores run along another.

    `others` are the remaining axes, outer first. `together` neighbours along the loads are stored
    side by side. Squares have `rows` elements along the stores by `columns` along the loads, and a
    band has `beside` of them. At most `repeats` neighbours load the same element.
    """

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    rows: int
    columns: int
    together: int
    beside: Size
    repeats: int

    @property
    def height(self) -> Size:
        """The height of a band, in elements along the stores."""
        return self.rows * self.beside


@dataclass(frozen=True, eq=False)
class Band:
    """Writes a band of squares: some rows along the stores, and the `share`-th of `shares` parts of
    the axis that loads run along. `values` are the indices of the other axes."""

    builder: KernelBuilder
    work: Transpose
    values: Mapping[Atom, Size]
    share: Size
    shares: Size

    def write(self, begin: Size) -> None:
        """The band whose rows begin at this place along the stores."""
        work = self.work
        sides = ((work.rows, size_of(work.stores)), (work.columns, size_of(work.loads)))
        unsure = [less(side - 1, size) for side, size in sides if not isinstance(size, int)]
        if not unsure:
            self._squares(begin)
            return
        with self.builder.when(reduce(and_, unsure)):
            self._squares(begin)
        with self.builder.otherwise():
            small = _small(work)
            if small is None:
                self._elements(begin)
            else:
                replace(self, work=small).write(begin)

    def _squares(self, begin: Size) -> None:
        """In the last square along an axis some elements may be computed again."""
        columns, extent = self.work.columns, size_of(self.work.loads)
        begins, many = dealt(dims.ceildiv(extent, columns), self.shares, self.share)
        whole = max(self.work.together, self.work.repeats)
        with self.builder.loop(many) as step:
            first: Size = (begins + step) * columns
            if not isinstance(extent, int) or extent % columns:
                # Whole neighbours stay together, as a multiple of them shows.
                last = dims.floordiv(extent - columns, whole)
                first = dims.minimum(dims.floordiv(first, whole), last) * whole
            if not isinstance(extent, int) and whole == 1:
                first = self.builder.local(first)
            self._beside(begin, first)

    def _beside(self, row_begin: Size, column_begin: Size) -> None:
        """The squares of a band that begin at this place along the loads."""
        rows, extent = self.work.rows, size_of(self.work.stores)
        if self.work.beside == 1:
            self._square(self._whole(row_begin), column_begin)
            return
        left = dims.ceildiv(extent - row_begin, rows)
        with self.builder.loop(dims.minimum(left, self.work.beside)) as number:
            self._square(self._whole(row_begin + number * rows), column_begin)

    def _whole(self, begin: Size) -> Size:
        """Where a square begins, so that it ends inside."""
        rows, extent = self.work.rows, size_of(self.work.stores)
        if isinstance(extent, int):
            return dims.minimum(begin, extent - rows) if extent % rows else begin
        return self.builder.local(dims.minimum(begin, extent - rows))

    def _square(self, row_begin: Size, column_begin: Size) -> None:
        """Computes and stores a square: where it begins along the stores and along the loads."""
        builder, piece = self.builder, self.work.piece
        rows, columns = self.work.rows, self.work.columns
        square, arithmetic = None, operations(piece.value)
        if not isinstance(arithmetic, int) or arithmetic * rows > MOST_OPERATIONS:
            square = builder.allocate(piece.target.dtype, (rows * columns,))
            with builder.loop(rows) as row, builder.loop(columns, "vector", columns) as column:
                here = self._indices(row_begin + row, column_begin + column)
                value = walk_expr.substitute(piece.value, here)
                builder.store(square, (row * columns + column,), value)
        with builder.loop(columns, "vector", columns) as column:
            for number in range(rows):
                here = self._indices(row_begin + number, column_begin + column)
                value = (
                    square[number * columns + column]
                    if square is not None
                    else walk_expr.substitute(piece.value, here)
                )
                builder.store(piece.target, (dims.substitute(piece.offset, here),), value)

    def _elements(self, begin: Size) -> None:
        """The band's elements one by one."""
        piece, extent = self.work.piece, size_of(self.work.stores)
        rows = dims.minimum(self.work.height, extent - begin)
        with self.builder.loop(rows) as row, self.builder.loop(size_of(self.work.loads)) as column:
            here = self._indices(begin + row, column)
            offset = dims.substitute(piece.offset, here)
            self.builder.store(piece.target, (offset,), walk_expr.substitute(piece.value, here))

    def _indices(self, row: Size, column: Size) -> dict[Atom, Size]:
        """The indices of an element by its places along the stores and along the loads."""
        return {**self.values, self.work.stores: row, self.work.loads: column}


def _small(work: Transpose) -> Transpose | None:
    """The same band in the smallest squares, for axes that are shorter than the others'; None where
    they are the smallest."""
    rows, columns = min(work.rows, SMALLEST), min(work.columns, SMALLEST * work.together)
    if (rows, columns) == (work.rows, work.columns):
        return None
    return replace(work, rows=rows, columns=columns, beside=dims.floordiv(work.height, rows))
