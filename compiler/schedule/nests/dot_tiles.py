"""Computes several sums at once that run along memory, of a few rows and columns of the output.

    out[r, c] = sum over k: a[r, k] * b[c, k]          becomes, for every 6 rows and 4 columns

    vector k:  acc_rc += a[r, k] * b[c, k]             for all 24 pairs, from 10 loads
    out[r, c] = acc_rc

Each sum alone would load both of its factors for every product. A matrix whose rows the sums run
along is read where it lies, once for each tile of rows, and needs no packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression, Load, Reduce
from bessemer.compiler.ir.loops import Accumulate, Prefetch
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.row_passes import replaced
from bessemer.compiler.schedule.nests.rows import Lanes, Values

_FEWEST_STEPS = 32
"""Sums of fewer products take less time than what adds up their lanes."""
_MOST_STEPS = 1 << 13
"""Longer sums are cut, so that rounding errors stay small."""
_ROWS, _COLUMNS = 6, 4
"""Of a tile, where vectors have 16 lanes, and there are 32 registers."""
_SMALL_ROWS, _SMALL_COLUMNS = 3, 3
"""The same elsewhere."""
_LAST_ROWS = (4, 2, 1)
"""The heights of tiles where the number of rows is not known."""
_LARGE_BYTES = 8 << 20
"""A larger matrix comes from memory, and its rows are prefetched. (Zen 5, 4 and 16 rows by 23 MB:
0.56 and 0.67 of the time without that; by 5 MB 1.09.)"""


@dataclass(frozen=True, eq=False)
class DotTiles:
    """A piece whose elements are sums along memory, to be computed in tiles of `height` x `width`
    of its axes `row` and `column`."""

    piece: Piece
    node: Reduce
    row: Symbol
    column: Symbol
    height: int
    width: int
    lanes: int

    def write(self, builder: KernelBuilder, values: Values, block: Size) -> None:
        """The elements of all rows and of the columns of a block."""
        first, extent = block * self.width, extent_of(self.column)
        whole = [first + place for place in range(self.width)]
        if isinstance(extent, int) and extent % self.width == 0:
            self._rows(builder, values, whole)
            return
        with builder.when(expr.less(first + (self.width - 1), extent)):
            self._rows(builder, values, whole)
        with builder.otherwise(), builder.loop(extent - first) as rest:
            self._rows(builder, values, [first + rest])

    def _rows(self, builder: KernelBuilder, values: Values, columns: Sequence[Size]) -> None:
        """Tiles of all rows; where their number is unknown, ever lower ones take the last ones."""
        extent = extent_of(self.row)
        heights = list(_LAST_ROWS)
        if isinstance(extent, int):
            height = cut_evenly(extent, self.height).height
            heights = [height, *([extent % height] if extent % height else [])]
        first: Size = 0
        for height in heights:
            many = dims.floordiv(extent - first, height)
            with builder.loop(many) as tile:
                rows = [first + tile * height + number for number in range(height)]
                self._tile(builder, values, rows, columns)
            first = first + many * height

    def _tile(
        self, builder: KernelBuilder, values: Values, rows: Sequence[Size], columns: Sequence[Size]
    ) -> None:
        places: list[dict[Atom, Size]] = [
            {**values, self.row: row, self.column: column} for row in rows for column in columns
        ]
        sums = [builder.define(expr.neutral("add", f32), "acc") for _ in places]
        (along,) = self.node.over
        with builder.loop(extent_of(along), "vector", self.lanes) as step:
            if len(columns) == self.width:
                self._prefetch(builder, {**values, along: step}, columns)
            loaded: dict[Expression, Expression] = {}

            def load(node: Expression) -> Expression | None:
                if not isinstance(node, Load):
                    return None
                if node not in loaded:
                    loaded[node] = builder.define(node, "x").value
                return loaded[node]

            for place, total in zip(places, sums, strict=True):
                factors = walk_expr.substitute(self.node.body, {**place, along: step})
                product = walk_expr.transform(factors, load)
                builder.append(Accumulate(total.name, "add", product))
        for place, total in zip(places, sums, strict=True):
            value = replaced(self.piece.value, {self.node: total.value})
            offset = dims.substitute(self.piece.offset, place)
            builder.store(self.piece.target, (offset,), walk_expr.substitute(value, place))

    def _prefetch(self, builder: KernelBuilder, values: Values, columns: Sequence[Size]) -> None:
        """Prefetches what the next block of columns reads of a large matrix."""
        dependence = Dependence()
        for load in walk_expr.loads_of(self.node.body):
            if self.row in dependence.of(load) or not _is_large(load.buffer):
                continue
            for column in columns:
                here: Values = {**values, self.column: column + self.width}
                place = dims.substitute(load.indices[0], here)
                builder.append(Prefetch(load.buffer, place, 2))


def _is_large(buffer: Buffer) -> bool:
    size = dims.product(buffer.shape)
    return isinstance(size, int) and size * buffer.dtype.bytes >= _LARGE_BYTES


def dot_tiles(piece: Piece, lanes: Lanes) -> DotTiles | None:
    """How to compute a piece whose reductions run along memory; None unless there is one, and
    neighbouring elements share its factors."""
    reductions = walk_expr.reductions_of(piece.value)
    if len(reductions) != 1 or len(piece.symbols) < 2:
        return None
    (node,) = reductions
    loads = walk_expr.loads_of(node.body)
    if node.name != "add" or len(node.over) != 1 or {load.buffer.dtype for load in loads} != {f32}:
        return None
    (along,) = node.over
    steps = extent_of(along)
    if not isinstance(steps, int) or not _FEWEST_STEPS <= steps <= _MOST_STEPS:
        return None
    if any(dims.coefficient_of(load.indices[0], along) != 1 for load in loads):
        return None
    dependence, column = Dependence(), piece.symbols[-1]
    moving = [load for load in loads if column in dependence.of(load)]
    if len(moving) == len(loads):
        return None
    height, width = (_ROWS, _COLUMNS) if lanes(f32) >= 16 else (_SMALL_ROWS, _SMALL_COLUMNS)
    for row in reversed(piece.symbols[:-1]):
        if extent_of(row) != 1 and all(row not in dependence.of(load) for load in moving):
            return DotTiles(piece, node, row, column, height, width, lanes(f32))
    return None
