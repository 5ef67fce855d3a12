"""Splits axes that loads walk through as two axes, so that each of them has one stride in memory.

    out[32 * r + j] = in[9 * (r % 64) + r // 64 + 576 * j]
becomes
    out[32 * (64 * t + c) + j] = in[9 * c + t + 576 * j]

This example packs the weights of a convolution, which have PyTorch's layout, for a product whose
taps t lie side by side. An axis that is read backwards is reversed.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Mod, Size, Symbol, atom
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of


def part_axes(piece: Piece) -> Piece:
    """The same computation with split and reversed axes, in the order of the stores; the piece
    itself if there is nothing to split or reverse. Its loads must be flat."""
    parted = piece
    while (found := _first_part(parted)) is not None:
        parted = found
    for symbol in parted.symbols:
        if any(dims.coefficient_of(o, symbol) == -1 for o in _offsets(parted)):
            parted = _with(parted, symbol, extent_of(symbol) - 1 - atom(symbol), (symbol,))
    return parted if parted is piece else _in_order(parted)


def _in_order(piece: Piece) -> Piece:
    """The piece with its axes sorted by descending stride of the stores, so that the stores go
    through memory in order; unchanged if a stride is not known."""
    steps: dict[Symbol, int] = {}
    for symbol in piece.symbols:
        step = dims.coefficient_of(piece.offset, symbol)
        if not isinstance(step, int):
            return piece
        steps[symbol] = abs(step)
    return replace(piece, symbols=tuple(sorted(steps, key=lambda s: steps[s], reverse=True)))


def _first_part(piece: Piece) -> Piece | None:
    """The piece with one axis split; None if all loads walk through each axis with one stride."""
    for symbol in piece.symbols:
        extent = extent_of(symbol)
        for inner in _lengths(piece, symbol):
            if isinstance(extent, int) and extent % inner == 0 and 1 < inner < extent:
                outside = Symbol(f"{symbol.name}_{inner}", extent // inner)
                within = Symbol(symbol.name, inner)
                value = atom(outside) * inner + atom(within)
                return _with(piece, symbol, value, (outside, within))
    return None


def _lengths(piece: Piece, symbol: Symbol) -> list[int]:
    """The divisors of an axis whose remainder the offsets of loads use."""
    found: set[int] = set()
    for offset in _offsets(piece):
        for monomial in () if isinstance(offset, int) else offset.terms:
            for factor, _ in monomial:
                match factor:
                    case Mod(a, int(length)) if a == atom(symbol):
                        found.add(length)
    return sorted(found)


def _offsets(piece: Piece) -> list[Size]:
    return [load.indices[0] for load in walk_expr.loads_of(piece.value)]


def _with(piece: Piece, symbol: Symbol, value: Size, symbols: tuple[Symbol, ...]) -> Piece:
    """The piece with `value` in place of an axis, and `symbols` as the axes in its place."""
    at: dict[Atom, Size] = {symbol: value}
    kept: list[Symbol] = []
    for other in piece.symbols:
        kept.extend(symbols if other is symbol else (other,))
    offset = dims.substitute(piece.offset, at)
    return Piece(piece.target, offset, walk_expr.substitute(piece.value, at), tuple(kept))
