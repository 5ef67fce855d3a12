"""Decides how many neighbours a thread loads or stores at once: up to 16 bytes that surely lie in a
row."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.schedule.nests.merge_axes import Piece

ACCESS = 16
"""Bytes of the widest load or store."""
WIDEST = 8
"""The most elements that a thread takes at once."""


def width_along(piece: Piece, inner: Symbol) -> int:
    """The number of neighbours along an axis that a thread takes: a power of two; 1 if no access is
    contiguous."""
    types = [(piece.target.dtype, piece.offset)]
    types += [(load.dtype, load.indices[0]) for load in loads_of(piece.value)]
    neighbours = [t for t, offset in types if dims.coefficient_of(offset, inner) == 1]
    if not neighbours:
        return 1
    return min(WIDEST, max(ACCESS // dtype.bytes for dtype in neighbours))


def dividing(extent: Size, width: int) -> int:
    """The largest power of two up to `width` that divides the extent for all values of its
    symbols."""
    terms = (extent,) if isinstance(extent, int) else tuple(extent.terms.values())
    while width > 1 and any(term % width for term in terms):
        width //= 2
    return width
