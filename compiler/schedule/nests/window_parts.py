"""Cuts an axis where windows that slide along it leave an image: between the borders nothing is
asked.

    out[i] = sum k: i + k - 1 >= 0 and i + k - 1 < 35 ? x[i + k - 1] : 0      i in 0..35     becomes
    the same                                                                   i in 0..16
    out[i] = sum k: x[i + k - 1]                                               i in 16..32
    the same                                                                   i in 32..35

Where nothing is asked, a mean's divisor is one number. What a vector at a known place asks is known
when it is compiled, so the parts of a row begin at whole vectors.
"""

from __future__ import annotations

import itertools

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Binary, Constant, Expression, IndexValue, as_index
from bessemer.compiler.ir.walk_expr import all_nodes, reductions_of
from bessemer.compiler.schedule.nests.merge_axes import extent_of


def asks_in_windows(value: Expression) -> bool:
    """Whether something is asked of the index in each step of a reduction."""
    bodies = (reduction.body for reduction in reductions_of(value))
    return any(_demand(node) is not None for node in all_nodes(*bodies))


def window_parts(value: Expression, axis: Symbol, lanes: int = 1) -> list[tuple[int, Size]]:
    """(first, count) of each part of an axis, in order; those of a row begin at whole vectors."""
    extent = extent_of(axis)
    if not isinstance(extent, int):
        return [(0, extent)]
    begin, end = 0, extent
    for node in all_nodes(value):
        demand = _demand(node)
        if demand is None or axis not in dims.atoms(demand):
            continue
        found = _fulfilled(demand, axis)
        if found is None:
            return [(0, extent)]
        begin, end = max(begin, found[0]), end if found[1] is None else min(end, found[1])
    begin = -(-begin // lanes) * lanes
    if end < extent:
        end = end // lanes * lanes
    if begin >= end or (lanes == 1 and 2 * (end - begin) <= extent):
        return [(0, extent)]
    cuts = [0, begin, end, extent]
    return [(a, b - a) for a, b in itertools.pairwise(cuts) if b > a]


def _demand(node: Expression) -> Size | None:
    """What is not negative where a comparison of index arithmetic holds; None for other nodes."""
    match node:
        case Binary(_, "ge", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(a) - as_index(b)
        case Binary(_, "lt", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(b) - as_index(a) - 1
        case _:
            return None


def _fulfilled(demand: Size, axis: Symbol) -> tuple[int, int | None] | None:
    """The first index, and that after the last, for which it holds whatever the others are."""
    slope = dims.coefficient_of(demand, axis)
    if not isinstance(slope, int) or slope == 0:
        return None
    least = dims.upper_bound(slope * dims.atom(axis) - demand) * -1
    if not isinstance(least, int):
        return None
    return (max(-(least // slope), 0), None) if slope > 0 else (0, least // -slope + 1)
