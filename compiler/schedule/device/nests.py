"""Lowers an expression, which gives every element of an output, to loops for a GPU.

no reduction                a thread computes up to 16 bytes of neighbours
a reduction for each row    a group of threads computes a row (rows.py)
one for each element        along memory: a group of threads computes an element; else a thread
                            computes neighbours, each with its own reduction
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import WARP, ThreadMapping
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Reduce
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ir.walk_expr import loads_of, reductions_of
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.device.mapping import THREADS, mapping_of_rows, other_mappings
from bessemer.compiler.schedule.device.rows import DeviceRow
from bessemer.compiler.schedule.device.transpose import lower_device_transpose
from bessemer.compiler.schedule.device.widths import dividing, width_along
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of, merge_axes
from bessemer.compiler.schedule.nests.nest import Nest
from bessemer.compiler.schedule.nests.rows import Values
from bessemer.compiler.targets.nvptx import DeviceTarget

SHORT = 16
"""Steps of the longest reduction along memory that a single thread does."""
FULL = 512
"""Threads of a processor that are enough to hide the latency of memory."""
_NOWHERE = Buffer("nowhere", i64, (1,))


@dataclass(frozen=True, eq=False)
class DeviceNest(Nest):
    """Loops and the threads that they are made for. A tuner may try the mappings in `others`."""

    mapping: ThreadMapping
    others: tuple[ThreadMapping, ...] = ()


def lower_device_nest(
    piece: Piece, target: DeviceTarget, mapping: ThreadMapping | None = None
) -> DeviceNest:
    """The loops that compute a piece, whose loads must be flat. To try another mapping, pass one of
    the `others` of the nest that is returned without it."""
    return _Lowering(merge_axes(piece), target, mapping).lower()


class _Lowering:
    def __init__(self, piece: Piece, target: DeviceTarget, wanted: ThreadMapping | None) -> None:
        self.piece = piece
        self.target = target
        self.wanted = wanted
        self.builder = KernelBuilder()
        self.dependence = Dependence()
        self.reductions = reductions_of(piece.value)
        self.elements = dims.product(map(extent_of, piece.symbols))

    def lower(self) -> DeviceNest:
        if self.elements == 0:
            return DeviceNest((), 1, ThreadMapping(1, 1))
        if not self.reductions:
            transposed = lower_device_transpose(self.piece)
            if transposed is not None:
                body, mapping = transposed
                return DeviceNest(body, operations(self.piece.value), mapping)
            return self._neighbours()
        outermost = [n for n in self.reductions if not self._is_inside_another(n)]
        inner = self.piece.symbols[-1] if self.piece.symbols else None
        if inner is None:
            return self._element_a_group(outermost)
        dependent = [n for n in outermost if inner in self.dependence.of(n)]
        if not dependent:
            return self._row_a_group(inner)
        if all(is_along_memory(n, inner) for n in dependent) and not self._are_short(dependent):
            return self._element_a_group(outermost)
        return self._neighbours()

    def _is_inside_another(self, node: Reduce) -> bool:
        bound = {s for other in self.reductions if other is not node for s in other.over}
        return not bound.isdisjoint(self.dependence.of(node))

    def _are_short(self, nodes: list[Reduce]) -> bool:
        steps = [dims.product(map(extent_of, n.over)) for n in nodes]
        return all(isinstance(count, int) and count <= SHORT for count in steps)

    # The three forms

    def _neighbours(self) -> DeviceNest:
        """Each thread computes a few neighbours of the innermost axis."""
        symbols, builder = self.piece.symbols, self.builder
        if not symbols:
            DeviceRow(builder, self.piece, ThreadMapping(1, 1), 1).scalar({})
            return DeviceNest(builder.block(), operations(self.piece.value), ThreadMapping(1, 1))
        inner = symbols[-1]
        width = self._width(inner)
        mapping = ThreadMapping(self._threads(width), 1)
        writer = DeviceRow(builder, self.piece, mapping, width)
        whole = len(symbols) > 1 or dividing(extent_of(inner), width) == width
        vectors = dims.ceildiv(extent_of(inner), width)
        outer = dims.product(map(extent_of, symbols[:-1]))
        with builder.loop(outer * vectors, "parallel") as index:
            values: Values = {}
            rest: Size = index
            position: Size = rest
            if len(symbols) > 1:
                position = self._named(dims.mod(rest, vectors))
                rest = self._named(dims.floordiv(rest, vectors))
            for symbol in reversed(symbols[1:-1]):
                values[symbol] = self._named(dims.mod(rest, extent_of(symbol)))
                rest = self._named(dims.floordiv(rest, extent_of(symbol)))
            if len(symbols) > 1:
                values[symbols[0]] = rest
            start = position * width
            length = width if whole else dims.minimum(extent_of(inner) - start, width)
            writer.row(inner, values, start, length)
        return DeviceNest(builder.block(), operations(self.piece.value) * width, mapping)

    def _width(self, inner: Symbol) -> int:
        width = width_along(self.piece, inner)
        if len(self.piece.symbols) > 1:
            width = dividing(extent_of(inner), width)
        if self.reductions and isinstance(self.elements, int):
            # Reading neighbours is all that a wide thread gains: more threads are worth more.
            while width > 1 and self.elements // width < FULL * self.target.processors:
                width //= 2
        return width

    def _threads(self, width: int) -> int:
        """The threads of a block: fewer if there are few elements, so that more processors have
        some."""
        threads = THREADS
        if isinstance(self.elements, int):
            while threads > 2 * WARP and self.elements < threads * width * self.target.processors:
                threads //= 2
        return threads

    def _row_a_group(self, inner: Symbol) -> DeviceNest:
        outer = self.piece.symbols[:-1]
        rows = dims.product(map(extent_of, outer))
        extent = extent_of(inner)
        mapping = self.wanted or mapping_of_rows(extent, rows, self.target.processors)
        width = dividing(extent, width_along(self.piece, inner))
        if isinstance(extent, int):
            while width > 1 and extent // width < mapping.group // 2:
                width //= 2
        writer = DeviceRow(self.builder, self.piece, mapping, width)
        self._over(outer, lambda values: writer.row(inner, values))
        work = operations(self.piece.value) * extent
        return DeviceNest(self.builder.block(), work, mapping, other_mappings(extent, mapping))

    def _element_a_group(self, nodes: list[Reduce]) -> DeviceNest:
        lengths = [dims.product(map(extent_of, n.over)) for n in nodes]
        known = [length for length in lengths if isinstance(length, int)]
        longest: Size = max(known) if len(known) == len(lengths) else lengths[0]
        mapping = self.wanted or mapping_of_rows(longest, self.elements, self.target.processors)
        widths = [self._reduction_width(n) for n in nodes]
        writer = DeviceRow(self.builder, self.piece, mapping, min(widths))
        self._over(self.piece.symbols, writer.scalar)
        work, others = operations(self.piece.value), other_mappings(longest, mapping)
        return DeviceNest(self.builder.block(), work, mapping, others)

    def _reduction_width(self, node: Reduce) -> int:
        last = node.over[-1]
        return dividing(extent_of(last), width_along(Piece(_NOWHERE, 0, node.body, (last,)), last))

    # Loops

    def _over(self, outer: tuple[Symbol, ...], body: Callable[[Values], None]) -> None:
        """Adds a parallel loop over all of the axes; `body` gets their indices."""
        with self.builder.loop(dims.product(map(extent_of, outer)), "parallel") as index:
            extents = [extent_of(symbol) for symbol in outer]
            body(dict(zip(outer, unravel(index, extents, self._named), strict=True)))

    def _named(self, size: Size) -> Size:
        """The size as a local variable, so that its arithmetic is done once."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), Symbol):
            return size
        return self.builder.define(expr.index_value(size), "x").index


def is_along_memory(node: Reduce, inner: Symbol) -> bool:
    """Whether consecutive steps of a reduction read neighbours in memory, and consecutive elements
    of its output do not."""
    loads = loads_of(node.body)
    if any(dims.coefficient_of(load.indices[0], inner) == 1 for load in loads):
        return False
    return any(dims.coefficient_of(load.indices[0], node.over[-1]) == 1 for load in loads)
