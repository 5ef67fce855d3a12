"""Prepares a piece for its loop nest: axes that run through memory as one become one axis.

    out[i*6 + j] = x[i*6 + j] over i < n, j < 6      becomes      out[k] = x[k] over k < n*6

Axes of size 1 are removed, and the symbols of reductions get canonical names, so that equal nests
become equal text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, IndexValue, Load, Reduce

CANONICAL = "k"


@dataclass(frozen=True, eq=False)
class Piece:
    """What one loop nest computes: target[offset(symbols)] = value, for all values of the
    symbols."""

    target: Buffer
    offset: Size
    value: Expression
    symbols: tuple[Symbol, ...]


def extent_of(symbol: Symbol) -> Size:
    """The extent of a loop index."""
    if symbol.extent is None:
        raise InternalError(f"{symbol} is not a loop index")
    return symbol.extent


def merge_axes(piece: Piece) -> Piece:
    """The same computation over as few axes as possible. The loads of the piece must be flat."""
    return _merge_axes(_drop_unit_axes(_name_reductions(piece)))


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
        walk_expr.substitute(piece.value, values),
        symbols,
    )


def _name_reductions(piece: Piece) -> Piece:
    """Gives the symbols of reductions canonical names, so that equal nests become equal text."""
    names = itertools.count()

    def rule(node: Expression) -> Expression | None:
        if not isinstance(node, Reduce) or all(s.name.startswith(CANONICAL) for s in node.over):
            return None
        values: dict[Atom, Size] = {}
        over: list[Symbol] = []
        for symbol in node.over:
            if symbol.extent == 1:
                values[symbol] = 0
                continue
            over.append(Symbol(f"{CANONICAL}{next(names)}", symbol.extent))
            values[symbol] = atom(over[-1])
        symbols, body = _merged_reduction(tuple(over), walk_expr.substitute(node.body, values))
        return expr.reduce(node.name, symbols, body)

    return replace(piece, value=walk_expr.transform(piece.value, rule))


def _merged_reduction(
    over: tuple[Symbol, ...], body: Expression
) -> tuple[tuple[Symbol, ...], Expression]:
    merged = _merge(over, _Uses.of(body))
    if merged is None:
        return over, body
    symbols, values = merged
    return symbols, walk_expr.substitute(body, values)


def _merge_axes(piece: Piece) -> Piece:
    uses = _Uses.of(piece.value)
    uses.offsets.append(piece.offset)
    merged = _merge(piece.symbols, uses)
    if merged is None:
        return piece
    return _substituted(piece, merged[1], merged[0])


@dataclass
class _Uses:
    """Where symbols occur: in the offsets of loads, and anywhere else."""

    offsets: list[Size]
    others: set[Atom]

    @staticmethod
    def of(value: Expression) -> _Uses:
        uses = _Uses([], set())
        for node in walk_expr.all_nodes(value):
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
    """Joins two neighbouring axes that every offset walks through as one; None if there are
    none."""
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
