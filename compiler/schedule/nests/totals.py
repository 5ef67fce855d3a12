"""Computes totals over several axes once for all the rows that use them.

    out[n, t, c] = x[n, t, c] * w[c] / reduce add (s, d): x[n, s, d]          becomes

    parallel n
      acc = 0
      for s, vector d:  acc += x[n, s, d]
      for t
        vector c:  out[n, t, c] = x[n, t, c] * w[c] / acc

w keeps t and c from being merged, so a row is one run of c. If each row computed the total anew,
the number of steps would grow with the square of t.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression, Reduce
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.row_passes import next_pass, replaced
from bessemer.compiler.schedule.nests.rows import RowWriter, Values

FEWEST_ROWS = 4
"""Rows for which totals are computed apart, with fewer items left to share among threads."""


def axes_behind_totals(piece: Piece, inner: Symbol, outer: Sequence[Symbol]) -> tuple[Symbol, ...]:
    """The last ones of the outer axes, on which no total depends that takes longer than a row."""
    found: tuple[Symbol, ...] = ()
    for node in _totals(piece.value, inner):
        behind = len(outer)
        while behind and outer[behind - 1] not in Dependence().of(node):
            behind -= 1
        axes = tuple(outer[behind:])
        rows = dims.product(map(extent_of, axes))
        is_long = _may_exceed(dims.product(map(extent_of, node.over)), extent_of(inner))
        if is_long and _may_exceed(rows, FEWEST_ROWS - 1) and len(axes) > len(found):
            found = axes
    return found


def with_totals(writer: RowWriter, moving: Sequence[Symbol], values: Values) -> Expression:
    """The writer's value for these outer indices, after loops for the totals that do not depend on
    `moving`."""
    value = walk_expr.substitute(writer.piece.value, values)
    bound = writer.bound.union(moving)

    def stays(node: Reduce) -> bool:
        return not writer.dependence.of(node) & bound

    while (step := next_pass(value, stays, None)) is not None:
        (node,) = step.reductions
        value = replaced(value, {node: writer.hoist_reductions(node, None)})
    return value


def _totals(value: Expression, inner: Symbol) -> list[Reduce]:
    """The reductions that are the same for a whole row and for the sums of others."""
    nodes = walk_expr.reductions_of(value)
    bound = {inner, *(symbol for node in nodes for symbol in node.over)}
    return [node for node in nodes if not Dependence().of(node) & bound]


def _may_exceed(size: Size, most: Size) -> bool:
    return not dims.is_nonnegative(most - size)
