"""Cuts a row where conditions on its index change: each part knows which they are.

    out[i] = i < 64 ? a[i] : b[i - 64]      becomes      out[i] = a[i]          i in 0 .. 64
                                                         out[i] = b[i - 64]     i in 64 .. 96

Without cuts, every vector would load from all parts of a concat under masks.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Binary, Constant, Expression, IndexValue
from bessemer.compiler.ir.walk_expr import all_nodes, reductions_of
from bessemer.compiler.schedule.nests.clamped_rows import clamped_parts
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

MOST_PARTS = 40
"""Each part is a loop of its own: more would be too much code."""
_AFTER = {"lt": 0, "ge": 0, "le": 1, "gt": 1, "eq": 0, "ne": 0}


def row_parts(piece: Piece, inner: Symbol, lanes: int) -> list[tuple[Size, Size]]:
    """(first, count) of each part, in order."""
    extent = extent_of(inner)
    if reductions_of(piece.value):
        return [(0, extent)]
    if not isinstance(extent, int):
        return clamped_parts(piece, inner, lanes)
    nodes = all_nodes(piece.value)
    cuts = {cut for node in nodes if (cut := _cut(node, inner)) is not None and 0 < cut < extent}
    if not cuts or len(cuts) >= MOST_PARTS or any(cut % lanes for cut in cuts):
        return clamped_parts(piece, inner, lanes)
    starts = [0, *sorted(cuts)]
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], extent], strict=True)]


def _cut(node: Expression, inner: Symbol) -> int | None:
    """The first index at which a comparison with a number changes its result."""
    if not isinstance(node, Binary) or node.name not in _AFTER:
        return None
    left, right = _size(node.left), _size(node.right)
    if left is None or right is None or dims.coefficient_of(left - right, inner) != 1:
        return None
    rest = dims.substitute(left - right, {inner: 0})
    return _AFTER[node.name] - rest if isinstance(rest, int) else None


def _size(node: Expression) -> Size | None:
    match node:
        case IndexValue(_, size):
            return size
        case Constant(_, int(value)):
            return value
    return None
