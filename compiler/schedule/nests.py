"""Lowers one expression, the value of every element of an output, to a loop nest.

    out[i0, i1] = exp(x[i0, i1]) / reduce add r: exp(x[i0, r])          becomes

    parallel i0 in 0..rows
      acc1 = 0
      vector r in 0..columns:  acc1 += exp(x[i0*columns + r])
      vector i1 in 0..columns: out[i0*columns + i1] = exp(x[i0*columns + i1]) / acc1

Steps: buffers become flat, axes that run through memory together are merged, the innermost axis (or
the last axis of a reduction) becomes the vector loop, the others the parallel loop. Whatever does
not depend on the innermost index is computed before its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Constant,
    Expression,
    IndexValue,
    Load,
    Read,
    Reduce,
)
from bessemer.compiler.ir.loops import Accumulate, Block, LoopKind
from bessemer.compiler.ir.types import DType
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import Dependence, all_nodes
from bessemer.compiler.schedule.merge_axes import Piece, merge_axes

Lanes = Callable[[DType], int]
"""The vector width of the target for an element type."""

PARALLEL_WORTH = 1 << 14
"""Elements below which a loop nest is not cut into a parallel loop."""
UNROLLED_STEPS = 32
"""Reductions of at most this many steps inside a vector loop are unrolled."""
BLOCKS = 16
"""How many pieces a long single axis is cut into at least."""

Values = dict[Atom, Size]


@dataclass(frozen=True, eq=False)
class Nest:
    """A lowered nest and the work of one iteration of its parallel loop."""

    body: Block
    operations: Size


def flat(buffer: Buffer) -> Buffer:
    """The buffer as one axis; strides are gone into the offsets."""
    return Buffer(buffer.name, buffer.dtype, (dims.product(buffer.shape),))


def flatten_loads(value: Expression) -> Expression:
    """The expression with every load through a flat offset."""

    def rule(node: Expression) -> Expression | None:
        if isinstance(node, Load) and (len(node.indices) != 1 or node.buffer.strides):
            return expr.load(flat(node.buffer), (node.buffer.offset(node.indices),), node.guard)
        return None

    return expr.transform(value, rule)


def lower_nest(piece: Piece, lanes: Lanes, vectorize: bool = True) -> Nest:
    """The loops that compute a piece. Its loads must be flat."""
    return _Lowering(merge_axes(piece), lanes, vectorize).lower()


class _Lowering:
    def __init__(self, piece: Piece, lanes: Lanes, vectorize: bool) -> None:
        self.piece = piece
        self.lanes = lanes
        self.vectorize = vectorize
        self.builder = KernelBuilder()
        self.dependence = Dependence()
        self.bound = {
            symbol
            for node in all_nodes(piece.value)
            if isinstance(node, Reduce)
            for symbol in node.over
        }
        self.work = operations(piece.value)

    def lower(self) -> Nest:
        inner = self._inner_axis()
        if inner is None:
            return self._over(self.piece.symbols, self._scalar, self.work)
        outer = tuple(s for s in self.piece.symbols if s is not inner)
        if outer:
            return self._over(outer, lambda v: self._row(inner, v), self.work * _extent(inner))
        return self._blocked(inner)

    def _inner_axis(self) -> Symbol | None:
        """The axis to vectorize: the innermost, unless reductions run along memory instead."""
        if not self.piece.symbols:
            return None
        inner = self._longest_run()
        dependent = [
            node
            for node in all_nodes(self.piece.value)
            if isinstance(node, Reduce) and inner in self.dependence.of(node)
        ]
        if dependent and all(_runs_along_memory(node, inner) for node in dependent):
            return None
        return inner

    def _longest_run(self) -> Symbol:
        """The innermost axis, unless it is too short to fill a vector and another one runs along
        memory: 3 channels behind many pixels."""
        symbols = self.piece.symbols
        inner = symbols[-1]
        extent = _extent(inner)
        if not isinstance(extent, int) or 2 * extent > self.lanes(self.piece.target.dtype):
            return inner
        offsets = [self.piece.offset]
        for node in all_nodes(self.piece.value):
            if isinstance(node, Load):
                offsets.extend(node.indices)
        runs = {
            symbol: sum(dims.coefficient_of(offset, symbol) == 1 for offset in offsets)
            for symbol in symbols[:-1]
            if _is_longer(_extent(symbol), extent)
        }
        best = max(runs, key=lambda symbol: runs[symbol], default=inner)
        return best if runs.get(best) else inner

    def _over(self, outer: tuple[Symbol, ...], body: Callable[[Values], None], work: Size) -> Nest:
        """A parallel loop over the first axes, their indices taken from its own; then serial."""
        whole = dims.product(map(_extent, outer)) * work
        if not outer or (isinstance(whole, int) and whole < PARALLEL_WORTH):
            self._serial(outer, {}, body)
            return Nest(self.builder.block(), whole)
        split = _parallel_axes(outer)
        shared, serial = outer[:split], outer[split:]
        with self.builder.loop(dims.product(map(_extent, shared)), "parallel") as index:
            values: Values = {}
            rest: Size = index
            for symbol in reversed(shared[1:]):
                values[symbol] = self._named(dims.mod(rest, _extent(symbol)))
                rest = self._named(dims.floordiv(rest, _extent(symbol)))
            values[shared[0]] = rest
            self._serial(serial, values, body)
        return Nest(self.builder.block(), work * dims.product(map(_extent, serial)))

    def _named(self, size: Size) -> Size:
        """A local that holds index arithmetic, so that it is done once."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), Symbol):
            return size
        return self.builder.define(expr.index_value(size), "x").index

    def _serial(
        self, outer: tuple[Symbol, ...], values: Values, body: Callable[[Values], None]
    ) -> None:
        if not outer:
            body(values)
            return
        with self.builder.loop(_extent(outer[0])) as index:
            self._serial(outer[1:], {**values, outer[0]: index}, body)

    def _blocked(self, inner: Symbol) -> Nest:
        """One axis only: cut into blocks for the threads if it is long."""
        extent = _extent(inner)
        whole = extent * self.work
        invariant = any(
            isinstance(node, Reduce) and inner not in self.dependence.of(node)
            for node in all_nodes(self.piece.value)
        )
        short = isinstance(whole, int) and whole < 2 * PARALLEL_WORTH
        if short or invariant or not self.vectorize:
            self._row(inner, {})
            return Nest(self.builder.block(), whole)
        block = 4096
        if isinstance(extent, int):
            block = min(block, -(-extent // (BLOCKS * 64)) * 64)
        with self.builder.loop(dims.ceildiv(extent, block), "parallel") as index:
            length: Size = dims.minimum(extent - index * block, block)
            if isinstance(extent, int) and extent % block == 0:
                length = block
            self._row(inner, {}, index * block, length)
        return Nest(self.builder.block(), self.work * block)

    def _row(
        self, inner: Symbol, values: Values, start: Size = 0, length: Size | None = None
    ) -> None:
        """The innermost loop, after everything that does not depend on its index."""
        element = expr.substitute(self.piece.value, values)
        offset = dims.substitute(self.piece.offset, values)
        element = self._hoist_reductions(element, inner)
        element = self._hoist_invariants(element, inner)
        lanes = self._lane_count(element, self.piece.target.dtype)
        extent = _extent(inner) if length is None else length
        with self.builder.loop(extent, "vector" if lanes > 1 else "serial", lanes) as index:
            here: Values = {inner: start + index}
            value = self._spell_reductions(expr.substitute(element, here))
            self.builder.store(self.piece.target, (dims.substitute(offset, here),), value)

    def _scalar(self, values: Values) -> None:
        """One element an iteration: the reductions inside are the vector loops."""
        element = self._hoist_reductions(expr.substitute(self.piece.value, values), None)
        self.builder.store(
            self.piece.target, (dims.substitute(self.piece.offset, values),), element
        )

    def _lane_count(self, value: Expression, dtype: DType) -> int:
        """The narrowest width that any memory access of the loop asks for."""
        if not self.vectorize:
            return 1
        types = {node.buffer.dtype for node in all_nodes(value) if isinstance(node, Load)}
        return min(self.lanes(t) for t in types | {dtype})

    def _hoist_reductions(self, value: Expression, inner: Atom | None) -> Expression:
        """Computes the reductions that do not depend on the inner index, deepest first."""

        def rule(node: Expression) -> Expression | None:
            if not isinstance(node, Reduce) or self._is_inside_reduction(node):
                return None
            if inner is not None and inner in self.dependence.of(node):
                return None
            return self._reduction_loop(node)

        return expr.transform(value, rule)

    def _reduction_loop(self, node: Reduce) -> Expression:
        """A reduction as loops of its own, the last one a vector loop."""
        accumulator = self.builder.define(expr.neutral(node.name, node.dtype), "acc")
        self._reduction_axes(node, node.over, {}, accumulator.name)
        return accumulator.value

    def _reduction_axes(
        self, node: Reduce, over: tuple[Symbol, ...], values: Values, local: str
    ) -> None:
        extent = _extent(over[0])
        if len(over) > 1:
            with self.builder.loop(extent) as index:
                self._reduction_axes(node, over[1:], {**values, over[0]: index}, local)
            return
        body = self._hoist_invariants(expr.substitute(node.body, values), over[0])
        lanes = self._lane_count(body, node.dtype)
        long = not isinstance(extent, int) or extent >= 4 * lanes
        with self.builder.loop(
            extent, "vector" if lanes > 1 else "serial", lanes, 4 if lanes > 1 and long else 1
        ) as index:
            element = self._spell_reductions(expr.substitute(body, {over[0]: index}))
            self.builder.append(Accumulate(local, node.name, element))

    def _spell_reductions(self, value: Expression) -> Expression:
        """Writes the reductions left in an expression as loops at this place."""

        def rule(node: Expression) -> Expression | None:
            return self._inner_reduction(node) if isinstance(node, Reduce) else None

        return expr.replace_outermost(value, rule)

    def _inner_reduction(self, node: Reduce) -> Expression:
        accumulator = self.builder.define(expr.neutral(node.name, node.dtype), "acc")
        steps = dims.product(map(_extent, node.over))
        unrolled = isinstance(steps, int) and steps <= UNROLLED_STEPS

        def nest(over: tuple[Symbol, ...], values: Values) -> None:
            if not over:
                element = self._spell_reductions(expr.substitute(node.body, values))
                self.builder.append(Accumulate(accumulator.name, node.name, element))
                return
            kind: LoopKind = "unroll" if unrolled else "serial"
            with self.builder.loop(_extent(over[0]), kind) as index:
                nest(over[1:], {**values, over[0]: index})

        nest(node.over, {})
        return accumulator.value

    def _hoist_invariants(self, value: Expression, inner: Atom) -> Expression:
        """Computes what does not depend on the inner index once, into locals."""

        def rule(node: Expression) -> Expression | None:
            if isinstance(node, (Constant, Read, IndexValue, Reduce)):
                return None
            if inner in self.dependence.of(node) or self._is_inside_reduction(node):
                return None
            return self.builder.define(node, "u").value

        return expr.replace_outermost(value, rule)

    def _is_inside_reduction(self, node: Expression) -> bool:
        """Whether it depends on the index of a reduction that is not running here."""
        return not self.bound.isdisjoint(self.dependence.of(node))


def _extent(symbol: Symbol) -> Size:
    if symbol.extent is None:
        raise InternalError(f"{symbol} is not a loop index")
    return symbol.extent


def _is_longer(size: Size, than: int) -> bool:
    return not isinstance(size, int) or size > than


def _parallel_axes(outer: tuple[Symbol, ...]) -> int:
    """How many of the first axes to share among threads: few, as taking an index apart costs."""
    total: Size = 1
    for count, symbol in enumerate(outer, 1):
        total = total * _extent(symbol)
        if total == 1:
            continue
        if isinstance(total, int) and total >= BLOCKS:
            return count
        if not isinstance(total, int) and count > 1:
            return count
    return len(outer)


def _runs_along_memory(node: Reduce, inner: Symbol) -> bool:
    """Whether a reduction reads neighbours as it runs, and its output's neighbours do not."""
    last = node.over[-1]
    along = False
    for load in all_nodes(node.body):
        if not isinstance(load, Load):
            continue
        if dims.coefficient_of(load.indices[0], inner) == 1:
            return False
        along = along or dims.coefficient_of(load.indices[0], last) == 1
    return along
