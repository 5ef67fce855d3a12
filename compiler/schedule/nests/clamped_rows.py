"""Cuts a row where an index stops or turns around: at the borders of padded images.

    out[i] = x[max(min(i - 3, 127), 0)]      becomes      out[i] = x[0]          i in 0 .. 3
                                                          out[i] = x[i - 3]      i in 3 .. 131
                                                          out[i] = x[127]        i in 131 .. 134

A vector that may lie anywhere gathers its elements one by one; between borders they are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Dim, FloorDiv, Max, Min, Mod, Size, Symbol, atom
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

MOST_PARTS = 5
FEWEST_VECTORS = 3
"""In a row, for loops of its own to pay."""
_PLACE = "place"


def clamped_parts(piece: Piece, inner: Symbol, lanes: int) -> list[tuple[int, Size]]:
    """(first, count) of each part, in order."""
    extent = extent_of(inner)
    if not isinstance(extent, int) or extent < FEWEST_VECTORS * lanes:
        return [(0, extent)]
    loads = loads_of(piece.value)
    parts = _split([load.indices[0] for load in loads], inner, 0, extent)
    return [*parts] if len(parts) <= MOST_PARTS else [(0, extent)]


def _split(offsets: Sequence[Size], inner: Symbol, start: int, count: int) -> list[tuple[int, int]]:
    place = Symbol(_PLACE, count)
    for offset in offsets:
        for clamp in _clamps(dims.substitute(offset, {inner: start + atom(place)})):
            cut = _change(clamp.left - clamp.right, place)
            if cut is not None and 0 < cut < count:
                before = _split(offsets, inner, start, cut)
                return before + _split(offsets, inner, start + cut, count - cut)
    return [(start, count)]


def _clamps(size: Size) -> Iterator[Min | Max]:
    """The minima and maxima in a size, those inside others first."""
    if not isinstance(size, Dim):
        return
    for monomial in size.terms:
        for factor, _ in monomial:
            match factor:
                case Min(a, b) | Max(a, b):
                    yield from _clamps(a)
                    yield from _clamps(b)
                    yield factor
                case FloorDiv(a, b) | Mod(a, b):
                    yield from _clamps(a)
                    yield from _clamps(b)


def _change(difference: Size, place: Symbol) -> int | None:
    """The first place at which a difference has another sign than at the first."""
    slope = dims.coefficient_of(difference, place)
    rest = dims.substitute(difference, {place: 0})
    if not isinstance(slope, int) or not isinstance(rest, int) or slope == 0:
        return None
    return -(rest // slope) if slope > 0 else -(-rest // -slope)
