"""Parts axes that loads walk through as two, so that each of them has one step in memory.

    out[32 * r + j] = in[9 * (r % 64) + r // 64 + 576 * j]
becomes
    out[32 * (64 * t + c) + j] = in[9 * c + t + 576 * j]

which packs the weights of a convolution, as torch has them, for a product: its taps t lie side by
side. An axis that is read from its end on is turned round.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Mod, Size, Symbol, atom
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of


def part_axes(piece: Piece) -> Piece:
    """The same computation with parted axes, the outer ones of the stores first; the piece itself
    if there is nothing to part or to turn. Its loads must be flat."""
    parted = piece
    while (found := _first_part(parted)) is not None:
        parted = found
    for symbol in parted.symbols:
        if any(dims.coefficient_of(o, symbol) == -1 for o in _offsets(parted)):
            parted = _with(parted, symbol, extent_of(symbol) - 1 - atom(symbol), (symbol,))
    return parted if parted is piece else _in_order(parted)


def _in_order(piece: Piece) -> Piece:
    """The piece with the axes that stores take the longest steps along first, so that stores go
    through memory piece by piece; as it is where steps are not known."""
    steps: dict[Symbol, int] = {}
    for symbol in piece.symbols:
        step = dims.coefficient_of(piece.offset, symbol)
        if not isinstance(step, int):
            return piece
        steps[symbol] = abs(step)
    return replace(piece, symbols=tuple(sorted(steps, key=lambda s: steps[s], reverse=True)))


def _first_part(piece: Piece) -> Piece | None:
    """The piece with one axis parted; None if all loads walk through each axis in one step."""
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
    """What the offsets of loads divide an axis by, where they use the remainder."""
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
    """The piece with this value in place of an axis, and these axes."""
    at: dict[Atom, Size] = {symbol: value}
    kept: list[Symbol] = []
    for other in piece.symbols:
        kept.extend(symbols if other is symbol else (other,))
    offset = dims.substitute(piece.offset, at)
    return Piece(piece.target, offset, walk_expr.substitute(piece.value, at), tuple(kept))
