"""Cuts a row where an index stops growing or turns around, as it does at the borders of padded
images.

    out[i] = x[max(min(i - 3, 127), 0)]      becomes      out[i] = x[0]          i in 0 .. 3
                                                          out[i] = x[i - 3]      i in 3 .. 131
                                                          out[i] = x[127]        i in 131 .. 134

Without cuts a vector might lie at a border, so all vectors would be gathered element by element.
Between the borders, the elements are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Dim, FloorDiv, Max, Min, Mod, Size, Symbol, atom
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

MOST_PARTS = 5
FEWEST_VECTORS = 3
"""A row with fewer vectors than this is not cut: loops for each part would not pay."""
_PLACE = "place"


def clamped_parts(piece: Piece, inner: Symbol, lanes: int) -> list[tuple[Size, Size]]:
    """The parts of a row as (first, count), in order. A part whose count is negative is empty; only
    the run may know whether it is."""
    extent = extent_of(inner)
    if isinstance(extent, int) and extent < FEWEST_VECTORS * lanes:
        return [(0, extent)]
    loads = loads_of(piece.value)
    parts = _split([load.indices[0] for load in loads], inner, 0, extent, frozenset())
    return parts if len(parts) <= MOST_PARTS else [(0, extent)]


def _split(
    offsets: Sequence[Size], inner: Symbol, start: Size, count: Size, done: frozenset[Size]
) -> list[tuple[Size, Size]]:
    """The parts of `count` elements from `start` on. `done` are the places at which the row has
    been cut."""
    place = Symbol(_PLACE, count)
    for offset in offsets:
        for clamp in _clamps(dims.substitute(offset, {inner: start + atom(place)})):
            cut = _change(clamp.left - clamp.right, place)
            if cut is not None and start + cut not in done and _is_inside(cut, count):
                known = done | {start + cut}
                before = _split(offsets, inner, start, dims.minimum(cut, count), known)
                return before + _split(offsets, inner, start + cut, count - cut, known)
    return [(start, count)]


def _is_inside(cut: Size, count: Size) -> bool:
    """Whether a cut may lie inside of a part with `count` elements."""
    if isinstance(cut, int) and isinstance(count, int):
        return 0 < cut < count
    return cut != 0 and dims.is_nonnegative(cut) and not dims.is_nonnegative(cut - count)


def _clamps(size: Size) -> Iterator[Min | Max]:
    """The minima and maxima in a size, inner ones first."""
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


def _change(difference: Size, place: Symbol) -> Size | None:
    """The first place (or the one after it) at which the difference has another sign than at place
    0. None if there is none, or it is not the same in all rows."""
    slope = dims.coefficient_of(difference, place)
    rest = dims.substitute(difference, {place: 0})
    if not isinstance(slope, int) or slope == 0:
        return None
    if isinstance(rest, int):
        return -(rest // slope) if slope > 0 else -(-rest // -slope)
    is_known = all(isinstance(leaf, Symbol) and leaf.extent is None for leaf in dims.atoms(rest))
    # It may be cut where both are equal, too. One element later, most cuts have an element before
    # them, so that the part in front is not empty.
    return 1 - slope * rest if is_known and abs(slope) == 1 else None
