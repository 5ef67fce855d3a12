"""Follows elements forwards through views: where reshapes and transposes move an element to.

x[n, h, s, d] -> transpose -> [n, s, h, d] -> reshape -> [n, s, h*d]
is stored at offset ((n*S + s)*H + h)*D + d
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Index
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.ravel import broadcast_index, ravel, unravel
from bessemer.compiler.schedule.grouping.fuse import as_index, index_symbols

MOVES = frozenset({"reshape", "transpose"})


def moved(index: Index, views: Sequence[Node]) -> Index:
    """The index of an element after the views, whose last one is outermost."""
    for view in views:
        shape = view.inputs[0].type.shape
        if view.operator.name == "transpose":
            index = tuple(index[axis] for axis in view.attributes["permutation"])
        else:
            after = view.output.type.shape
            index = broadcast_index(unravel(ravel(index, shape), after), after)
    return index


def moved_offset(index: Index, views: Sequence[Node]) -> Size:
    """The flat offset of an element after the views."""
    *others, last = views
    index = moved(index, others)
    if last.operator.name == "reshape":
        return ravel(index, last.inputs[0].type.shape)
    return ravel(moved(index, [last]), last.output.type.shape)


def keeps_columns(views: Sequence[Node]) -> bool:
    """Whether neighbours along the last axis stay neighbours, at offsets that are linear in the
    index."""
    if not views:
        return True
    shape = views[0].inputs[0].type.shape
    symbols = index_symbols(shape)
    offset = moved_offset(as_index(symbols, shape), views)
    steps = [dims.coefficient_of(offset, symbol) for symbol in symbols if symbol.extent != 1]
    return None not in steps and (shape[-1] == 1 or steps[-1] == 1)
