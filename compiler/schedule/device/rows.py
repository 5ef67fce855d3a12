"""Computes rows on a GPU: a group of threads (a warp or a block) computes one row along the
innermost axis.

    out[i] = exp(x[i] - max r: x[r]) / sum r: exp(x[r] - max)          becomes

    vector i in 0..columns:  row[i] = x[i]
    vector i in 0..columns:  acc1 max= row[i]
    vector i in 0..columns:  kept[i] = exp(row[i] - acc1);  acc2 += kept[i]
    vector i in 0..columns:  out[i] = kept[i] * (1 / acc2)

Elements that several loops read, or that one loop computes for another, stay in registers, since
every loop gives the same elements to the same threads. Rows that are too long for that are read
again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Dim, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Reduce
from bessemer.compiler.ir.loops import Accumulate
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.device.widths import dividing
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.row_passes import (
    Place,
    RowPass,
    along_row,
    replaced,
    with_kept,
)
from bessemer.compiler.schedule.nests.rows import RowWriter, Values

MOST_KEPT = 48
"""Elements of rows that a thread keeps in registers."""
MOST_VECTORS = 16
"""Vectors of one row that a thread keeps in registers."""


class DeviceRow(RowWriter):
    """Adds the loops of a piece's rows to a kernel; a thread takes `width` neighbours at a time."""

    def __init__(
        self, builder: KernelBuilder, piece: Piece, mapping: ThreadMapping, width: int
    ) -> None:
        super().__init__(builder, piece, lambda _: width)
        self.mapping = mapping
        self.width = width
        self.kept = 0

    def row(
        self, inner: Symbol, values: Values, start: Size = 0, length: Size | None = None
    ) -> None:
        """Adds the loops for one row, or for its `length` elements from `start` on; `values` are
        the indices of the outer axes. Whatever does not depend on the row's index comes before
        them."""
        element = walk_expr.substitute(self.piece.value, values)
        offset = dims.substitute(self.piece.offset, values)
        if length is None:
            element = self._fetched(element, inner)
        element = self.hoist_reductions(element, inner, offset)
        extent = extent_of(inner) if length is None else length
        self.store_row(element, inner, offset, start, extent)

    def _fetched(self, element: Expression, inner: Symbol) -> Expression:
        """The element with the loads that several loops do replaced by reads of registers, which
        one loop fills."""
        passes = [node for node in walk_expr.all_nodes(element) if _is_over(node, inner)]
        bodies = [along_row(node, inner) for node in passes if isinstance(node, Reduce)]
        rest = {node: expr.read("total", node.dtype) for node in passes}
        counts: dict[Expression, int] = {}
        for body in (*bodies, replaced(element, rest)):
            for node in walk_expr.loads_of(_without_reductions(body)):
                if inner in self.dependence.of(node):
                    counts[node] = counts.get(node, 0) + 1
        for load, count in counts.items():
            array = self._registers(load, inner) if count > 1 else None
            if array is None:
                continue
            with self.vector_loop(extent_of(inner), self.width, 1) as index:
                self.builder.store(array, (index,), walk_expr.substitute(load, {inner: index}))
            element = with_kept(element, load, inner, expr.load(array, (atom(inner),)))
        return element

    def _registers(self, value: Expression, inner: Symbol) -> Buffer | None:
        """An array for a row of values; None if the registers of the group's threads do not
        suffice."""
        extent = extent_of(inner)
        if not isinstance(extent, int) or extent % self.width or self.mapping.group == 1:
            return None
        vectors = -(-extent // (self.mapping.group * self.width))
        if vectors > MOST_VECTORS or self.kept + vectors * self.width > MOST_KEPT:
            return None
        self.kept += vectors * self.width
        return self.builder.allocate(value.dtype, (extent,))

    def place_to_keep(
        self, step: RowPass, value: Expression, inner: Symbol, offset: Size, rows: int = 1
    ) -> Place | None:
        kept, target = step.kept, self.piece.target
        if kept is None:
            return None
        array = self._registers(kept, inner)
        if array is not None:
            return array, atom(inner)
        if self.mapping.group == 1 or kept.dtype != target.dtype:
            return None
        return None if self.target_is_read(step, value, inner) else (target, offset)

    def vector_loop(self, extent: Size, lanes: int, interleave: int) -> AbstractContextManager[Dim]:
        # A thread of its own goes on with what is left; a group's threads would jump.
        width = lanes if self.mapping.group == 1 else max(1, dividing(extent, lanes))
        return self.builder.loop(extent, "vector", width)

    def _reduction_axes(
        self, node: Reduce, over: tuple[Symbol, ...], values: Values, local: str
    ) -> None:
        """One loop over all axes, so that a group's threads share all of the steps."""
        if len(over) == 1:
            super()._reduction_axes(node, over, values, local)
            return
        extents = [extent_of(symbol) for symbol in over]
        with self.builder.loop(dims.product(extents), "vector", 1) as index:
            places: Values = {**values, **dict(zip(over, unravel(index, extents), strict=True))}
            element = self._spell_reductions(walk_expr.substitute(node.body, places))
            self.builder.append(Accumulate(local, node.name, element))


def _is_over(node: Expression, row: Symbol) -> bool:
    return isinstance(node, Reduce) and len(node.over) == 1 and node.over[0].extent == row.extent


def _without_reductions(value: Expression) -> Expression:
    return walk_expr.replace_outermost(
        value, lambda n: expr.read("total", n.dtype) if isinstance(n, Reduce) else None
    )
