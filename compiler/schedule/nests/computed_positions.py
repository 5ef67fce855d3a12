"""Finds the axis along which positions in an image are computed, as those of a warp or a sample.

    for pixel: position = floor(grid[pixel] * scale)          16 pixels a vector, if pixels are the
        for channel: out[pixel, channel] = in[position]       vectors' axis, and else one by one

Computing a position takes tens of operations, and reading there one, so that vectors of pixels are
better even where an image of three channels is written with the channels next to each other.
"""

from __future__ import annotations

from collections.abc import Iterable

from bessemer.compiler.ir import walk_expr
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.schedule.dependence import Dependence


def axis_of_positions(
    value: Expression, inner: Symbol, longer: Iterable[Symbol], dependence: Dependence
) -> Symbol | None:
    """The last of the axes `longer` that positions computed in floats depend on; None where there
    is none, or where a position depends on `inner`, too."""
    found: set[object] = set()
    for load in walk_expr.loads_of(value):
        for index in load.indices:
            for position in walk_expr.index_expressions(index):
                if any(node.dtype.is_float for node in walk_expr.all_nodes(position)):
                    found |= dependence.of(position)
    if inner in found:
        return None
    return next((axis for axis in reversed([*longer]) if axis in found), None)
