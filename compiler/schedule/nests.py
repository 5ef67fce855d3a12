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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import (
    Buffer,
    Constant,
    Expression,
    FragmentElement,
    IndexValue,
    Load,
    Read,
    Reduce,
)
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.types import DType
from bessemer.compiler.schedule.costs import operations

Lanes = Callable[[DType], int]

PARALLEL_WORTH = 1 << 14
"""Elements below which a loop nest is not cut into a parallel loop."""
UNROLLED_TAPS = 32
"""Reductions of at most this many steps inside a vector loop are unrolled."""


@dataclass(frozen=True, eq=False)
class Piece:
    """What one nest computes: target[offset(symbols)] = value, over all values of the symbols."""

    target: Buffer
    offset: Size
    value: Expression
    symbols: tuple[Symbol, ...]


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
    piece = _drop_unit_axes(_name_reductions(piece))
    piece = _merge_axes(piece)
    return _Lowering(piece, lanes, vectorize).lower()


# Preparing the piece


def _drop_unit_axes(piece: Piece) -> Piece:
    values: dict[Atom, Size] = {s: 0 for s in piece.symbols if s.extent == 1}
    kept = tuple(s for s in piece.symbols if s.extent != 1)
    return _substituted(piece, values, kept)


def _substituted(piece: Piece, values: dict[Atom, Size], symbols: tuple[Symbol, ...]) -> Piece:
    if not values:
        return replace(piece, symbols=symbols)
    return Piece(
        piece.target,
        dims.substitute(piece.offset, values),
        expr.substitute(piece.value, values),
        symbols,
    )


def _name_reductions(piece: Piece) -> Piece:
    """Gives the symbols of reductions canonical names: equal nests become equal text."""
    count = 0

    def rule(node: Expression) -> Expression | None:
        nonlocal count
        if not isinstance(node, Reduce):
            return None
        values: dict[Atom, Size] = {}
        over: list[Symbol] = []
        for symbol in node.over:
            if symbol.extent == 1:
                values[symbol] = 0
                continue
            name = f"k{count}" if not symbol.name.startswith("k") else symbol.name
            count += 1
            fresh = Symbol(name, symbol.extent)
            over.append(fresh)
            values[symbol] = atom(fresh)
        body = _merged_reduction(tuple(over), expr.substitute(node.body, values))
        return expr.reduce(node.name, *body)

    return replace(piece, value=expr.transform(piece.value, rule))


def _merged_reduction(
    over: tuple[Symbol, ...], body: Expression
) -> tuple[tuple[Symbol, ...], Expression]:
    merged = _merge(over, _Uses.of(body))
    if merged is None:
        return over, body
    symbols, values = merged
    return symbols, expr.substitute(body, values)


def _merge_axes(piece: Piece) -> Piece:
    uses = _Uses.of(piece.value)
    uses.offsets.append(piece.offset)
    merged = _merge(piece.symbols, uses)
    if merged is None:
        return piece
    return _substituted(piece, merged[1], merged[0])


@dataclass
class _Uses:
    """Where symbols occur: in offsets of loads, and anywhere else."""

    offsets: list[Size]
    others: set[Atom]

    @staticmethod
    def of(value: Expression) -> _Uses:
        uses = _Uses([], set())
        seen: set[Expression] = set()
        waiting = [value]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            waiting.extend(expr.children(node))
            match node:
                case Load(_, _, indices, _):
                    uses.offsets.extend(indices)
                case IndexValue(_, size):
                    uses.others |= dims.atoms(size)
                case expr.Checked(_, _, extent):
                    uses.others |= dims.atoms(extent)
                case Reduce(_, _, over, _):
                    for symbol in over:
                        uses.others |= dims.atoms(symbol.extent or 0)
                case _:
                    pass
        return uses


def _merge(
    symbols: tuple[Symbol, ...], uses: _Uses
) -> tuple[tuple[Symbol, ...], dict[Atom, Size]] | None:
    """Joins neighbouring axes that every offset walks through as one; None if there are none."""
    values: dict[Atom, Size] = {}
    kept: list[Symbol] = []
    offsets = list(uses.offsets)
    for symbol in reversed(symbols):
        inner = kept[0] if kept else None
        if inner is None or not _mergeable(symbol, inner, offsets, uses.others):
            kept.insert(0, symbol)
            continue
        assert symbol.extent is not None and inner.extent is not None
        joined = Symbol(inner.name, symbol.extent * inner.extent)
        step: dict[Atom, Size] = {symbol: 0, inner: atom(joined)}
        offsets = [dims.substitute(offset, step) for offset in offsets]
        values = {key: dims.substitute(value, step) for key, value in values.items()} | step
        kept[0] = joined
    return (tuple(kept), values) if values else None


def _mergeable(outer: Symbol, inner: Symbol, offsets: Sequence[Size], others: set[Atom]) -> bool:
    if outer in others or inner in others:
        return False
    assert inner.extent is not None
    for offset in offsets:
        if outer not in dims.atoms(offset) and inner not in dims.atoms(offset):
            continue
        a, b = dims.coefficient_of(offset, outer), dims.coefficient_of(offset, inner)
        if a is None or b is None or a != b * inner.extent:
            return False
    return True


# Free symbols


class _Freedom:
    """Which symbols (and locals) an expression depends on, remembered by node."""

    def __init__(self) -> None:
        self._known: dict[Expression, frozenset[Atom]] = {}

    def of(self, node: Expression) -> frozenset[Atom]:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self._compute(node)
        return found

    def of_size(self, size: Size) -> frozenset[Atom]:
        found: set[Atom] = set()
        for leaf in dims.atoms(size):
            if isinstance(leaf, Expression):
                found |= self.of(leaf)
            else:
                found.add(leaf)
        return frozenset(found)

    def _compute(self, node: Expression) -> frozenset[Atom]:
        found: set[Atom] = set()
        for child in expr.children(node):
            found |= self.of(child)
        match node:
            case Load(_, _, indices, _):
                for index in indices:
                    found |= self.of_size(index)
            case IndexValue(_, size):
                found |= self.of_size(size)
            case expr.Checked(_, _, extent):
                found |= self.of_size(extent)
            case Reduce(_, _, over, _):
                for symbol in over:
                    found |= self.of_size(symbol.extent or 0)
                return frozenset(found - set(over))
            case FragmentElement():
                found.add(node)
            case _:
                pass
        return frozenset(found)


# Loops


class _Lowering:
    def __init__(self, piece: Piece, lanes: Lanes, vectorize: bool) -> None:
        self.piece = piece
        self.lanes = lanes
        self.vectorize = vectorize
        self.builder = KernelBuilder()
        self.free = _Freedom()

    def lower(self) -> Nest:
        inner = self._inner_axis()
        outer = tuple(s for s in self.piece.symbols if s is not inner)
        work = operations(self.piece.value)
        if inner is None:
            return self._over(outer, lambda values: self._scalar(values), work)
        assert inner.extent is not None
        if not outer:
            return self._blocked(inner, work)
        return self._over(outer, lambda values: self._row(inner, values), work * inner.extent)

    def _inner_axis(self) -> Symbol | None:
        """The axis to vectorize: the innermost, unless reductions run along memory instead."""
        symbols = self.piece.symbols
        if not symbols:
            return None
        inner = symbols[-1]
        reductions = [n for n in _all_nodes(self.piece.value) if isinstance(n, Reduce)]
        dependent = [n for n in reductions if inner in self.free.of(n)]
        if dependent and all(_runs_along_memory(n, inner) for n in dependent):
            return None
        return inner

    def _over(
        self, outer: tuple[Symbol, ...], body: Callable[[dict[Atom, Size]], None], work: Size
    ) -> Nest:
        """A parallel loop over all outer axes at once, their indices taken from its own."""
        total = dims.product(s.extent or 0 for s in outer)
        if not outer or (isinstance(total * work, int) and total * work < PARALLEL_WORTH):
            self._serial(outer, {}, body)
            return Nest(self.builder.block(), work)
        if len(outer) == 1:
            with self.builder.loop(total, "parallel") as index:
                body({outer[0]: index})
            return Nest(self.builder.block(), work)
        with self.builder.loop(total, "parallel") as index:
            values: dict[Atom, Size] = {}
            rest: Size = index
            for symbol in reversed(outer[1:]):
                extent = symbol.extent or 0
                values[symbol] = self._named(dims.mod(rest, extent))
                rest = dims.floordiv(rest, extent)
            values[outer[0]] = self._named(rest)
            body(values)
        return Nest(self.builder.block(), work)

    def _named(self, size: Size) -> Size:
        """A local that holds index arithmetic, so that it is done once."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), Symbol):
            return size
        return self.builder.define(expr.index_value(size), "x").index

    def _serial(
        self,
        outer: tuple[Symbol, ...],
        values: dict[Atom, Size],
        body: Callable[[dict[Atom, Size]], None],
    ) -> None:
        if not outer:
            body(values)
            return
        with self.builder.loop(outer[0].extent or 0) as index:
            self._serial(outer[1:], {**values, outer[0]: index}, body)

    def _blocked(self, inner: Symbol, work: Size) -> Nest:
        """One axis only: cut into blocks for the threads if it is long."""
        extent = inner.extent or 0
        value = self.piece.value
        has_invariant = any(
            isinstance(n, Reduce) and inner not in self.free.of(n) for n in _all_nodes(value)
        )
        short = isinstance(extent * work, int) and extent * work < 2 * PARALLEL_WORTH
        if short or has_invariant or not self.vectorize:
            self._row(inner, {})
            return Nest(self.builder.block(), work * extent)
        block = 4096 if not isinstance(extent, int) else dims.round_up(dims.ceildiv(extent, 16), 256)
        with self.builder.loop(dims.ceildiv(extent, block), "parallel") as index:
            length = dims.minimum(extent - index * block, block)
            if isinstance(extent, int) and isinstance(block, int) and extent % block == 0:
                length = block
            self._row(Symbol(inner.name, length), {inner: (index * block, length)})
        return Nest(self.builder.block(), work * block)

    def _row(self, inner: Symbol, values: dict[Atom, Size] | dict[Atom, tuple[Size, Size]]) -> None:
        """The innermost loop, after everything that does not depend on its index."""
        start: Size = 0
        substitution: dict[Atom, Size] = {}
        for key, value in values.items():
            if isinstance(value, tuple):
                start = value[0]
                source = key
            else:
                substitution[key] = value
                source = inner
        source = next((k for k, v in values.items() if isinstance(v, tuple)), inner)
        element = expr.substitute(self.piece.value, substitution)
        offset = dims.substitute(self.piece.offset, substitution)
        element = self._hoist_reductions(element, source)
        element = self._hoist_invariants(element, source)
        extent = inner.extent or 0
        lanes = self._lane_count(element) if self.vectorize else 1
        interleave = 1
        kind = "vector" if lanes > 1 else "serial"
        with self.builder.loop(extent, kind, lanes, interleave) as index:  # type: ignore[arg-type]
            here: dict[Atom, Size] = {source: start + index}
            value = expr.substitute(element, here)
            value = self._spell_reductions(value)
            self.builder.store(self.piece.target, (dims.substitute(offset, here),), value)

    def _scalar(self, values: dict[Atom, Size]) -> None:
        """One element an iteration: the reductions inside are the vector loops."""
        element = self._hoist_reductions(expr.substitute(self.piece.value, values), None)
        self.builder.store(self.piece.target, (dims.substitute(self.piece.offset, values),), element)

    def _lane_count(self, value: Expression) -> int:
        return min(
            (self.lanes(dtype) for dtype in _memory_types(value) | {self.piece.target.dtype}),
            default=1,
        )

    def _hoist_reductions(self, value: Expression, inner: Atom | None) -> Expression:
        """Computes the reductions that do not depend on the inner index, deepest first."""

        def rule(node: Expression) -> Expression | None:
            if not isinstance(node, Reduce):
                return None
            if inner is not None and inner in self.free.of(node):
                return None
            if any(isinstance(s, Symbol) and s.name.startswith("k") for s in self.free.of(node)):
                return None
            return self._reduction_loop(node)

        return expr.transform(value, rule)

    def _reduction_loop(self, node: Reduce) -> Expression:
        """A reduction as loops of its own, the last one a vector loop."""
        accumulator = self.builder.define(expr.neutral(node.name, node.dtype), "acc")
        self._reduction_axes(node, node.over, {}, accumulator.name)
        return accumulator.value

    def _reduction_axes(
        self, node: Reduce, over: tuple[Symbol, ...], values: dict[Atom, Size], local: str
    ) -> None:
        extent = over[0].extent or 0
        if len(over) > 1:
            with self.builder.loop(extent) as index:
                self._reduction_axes(node, over[1:], {**values, over[0]: index}, local)
            return
        body = expr.substitute(node.body, values)
        body = self._hoist_invariants(body, over[0])
        lanes = min((self.lanes(t) for t in _memory_types(body) | {node.dtype}), default=1)
        vector = self.vectorize and lanes > 1 and _has_vector_form(node)
        interleave = 4 if vector and _is_long(extent, lanes) else 1
        with self.builder.loop(
            extent, "vector" if vector else "serial", lanes if vector else 1, interleave
        ) as index:
            element = self._spell_reductions(expr.substitute(body, {over[0]: index}))
            self.builder.append(_accumulate(local, node.name, element))

    def _spell_reductions(self, value: Expression) -> Expression:
        """Writes the reductions left in an expression as loops at this place."""

        def rule(node: Expression) -> Expression | None:
            return self._inner_reduction(node) if isinstance(node, Reduce) else None

        # Not from below: a reduction's body is rewritten inside its own loops.
        return _outermost(value, rule)

    def _inner_reduction(self, node: Reduce) -> Expression:
        accumulator = self.builder.define(expr.neutral(node.name, node.dtype), "acc")
        values: dict[Atom, Size] = {}
        total = dims.product(s.extent or 0 for s in node.over)
        unroll = isinstance(total, int) and total <= UNROLLED_TAPS

        def nest(over: tuple[Symbol, ...]) -> None:
            if not over:
                element = self._spell_reductions(expr.substitute(node.body, values))
                self.builder.append(_accumulate(accumulator.name, node.name, element))
                return
            with self.builder.loop(over[0].extent or 0, "unroll" if unroll else "serial") as index:
                values[over[0]] = index
                nest(over[1:])

        nest(node.over)
        return accumulator.value

    def _hoist_invariants(self, value: Expression, inner: Atom) -> Expression:
        """Computes what does not depend on the inner index once, into locals."""

        def rule(node: Expression) -> Expression | None:
            if isinstance(node, (Constant, Read, IndexValue, Reduce)):
                return None
            if inner in self.free.of(node) or self._is_bound_inside(node):
                return None
            return self.builder.define(node, "u").value

        return _outermost(value, rule)

    def _is_bound_inside(self, node: Expression) -> bool:
        """Whether it depends on a reduction's index that is not running here."""
        return any(isinstance(s, Symbol) and s.name.startswith("k") for s in self.free.of(node))


def _accumulate(local: str, name: str, value: Expression) -> loops_Accumulate:
    return loops_Accumulate(local, name, value)


def _all_nodes(value: Expression) -> list[Expression]:
    seen: dict[Expression, None] = {}
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = None
            waiting.extend(expr.children(node))
    return list(seen)
