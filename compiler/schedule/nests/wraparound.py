"""Splits the loop over a row where an index wraps around, if it is read by quotient and remainder.

    out[i] = x[(i + a) % n]      becomes      out[i] = x[i + a]          i in 0 .. n - a
                                              out[i] = x[i + a - n]      i in n - a .. 2 * n - a
                                              and so on

The elements between two wraparounds are contiguous. Without the split, each element would take a
division, and a gather. Padding in mode "wrap" is read in this way, and so are rows that a reshape
shifts, as in attention with relative positions.
"""

from __future__ import annotations

from collections.abc import Iterator

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Dim, FloorDiv, Mod, Size, Symbol, atom
from bessemer.compiler.ir.walk_expr import loads_of, reductions_of
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.rows import RowWriter, Values


def write_at_wraparound(
    rows: RowWriter, inner: Symbol, values: Values, first: Size, count: Size
) -> None:
    """Adds a part of the row with these outer indices, split where its index wraps around."""
    piece, builder = rows.piece, rows.builder
    may_cut = rows.vectorize and not reductions_of(piece.value)
    found = _division(piece, inner) if may_cut else None
    if found is None:
        rows.row(inner, values, first, count)
        return
    dividend, divisor = found
    # A row without elements may divide by the size of an axis that has none.
    length = builder.local(dims.maximum(divisor, 1))
    start = dims.substitute(dividend, {**values, inner: first})
    before = builder.local(dims.floordiv(start, length))
    skipped = builder.local(start - before * length)
    with builder.loop(dims.ceildiv(skipped + count, length)) as period:
        begin = builder.local(dims.maximum(period * length - skipped, 0))
        end = dims.minimum((period + 1) * length - skipped, count)
        remainder = builder.local(begin + skipped - period * length)
        place = Symbol(inner.name, builder.local(end - begin))
        here: Values = {
            inner: first + begin + atom(place),
            FloorDiv(dividend, divisor): before + period,
            Mod(dividend, divisor): remainder + atom(place),
        }
        symbols = tuple(place if symbol is inner else symbol for symbol in piece.symbols)
        offset, value = dims.substitute(piece.offset, here), walk_expr.substitute(piece.value, here)
        RowWriter(builder, Piece(piece.target, offset, value, symbols), rows.lanes).row(
            place, values
        )


def _division(piece: Piece, inner: Symbol) -> tuple[Size, Size] | None:
    """The dividend, which moves by one along the row, and the divisor, which nobody knows, of an
    index; None if no load has such an index."""
    for load in loads_of(piece.value):
        for dividend, divisor in _divisions(load.indices[0]):
            is_free = not isinstance(divisor, int) and _is_of_sizes(divisor)
            if is_free and dims.coefficient_of(dividend, inner) == 1:
                return dividend, divisor
    return None


def _divisions(size: Size) -> Iterator[tuple[Size, Size]]:
    """What is divided in a size, and by what."""
    if isinstance(size, Dim):
        for monomial in size.terms:
            for factor, _ in monomial:
                if isinstance(factor, FloorDiv | Mod):
                    yield factor.numerator, factor.denominator
                    yield from _divisions(factor.numerator)


def _is_of_sizes(size: Size) -> bool:
    """Whether a size is the same for all elements."""
    return all(isinstance(leaf, Symbol) and leaf.extent is None for leaf in dims.atoms(size))
