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

from collections.abc import Collection, Iterator
from typing import NamedTuple

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Constant,
    Expression,
    IndexValue,
    as_index,
    constant,
)
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.ir.walk_expr import all_nodes, reductions_of
from bessemer.compiler.schedule.nests.merge_axes import extent_of


def asks_in_windows(value: Expression) -> bool:
    """Whether something is asked of the index in each step of a reduction."""
    bodies = (reduction.body for reduction in reductions_of(value))
    return any(_demand(node) is not None for node in all_nodes(*bodies))


class WindowPart(NamedTuple):
    """So many places from `first` on. Where it `is_inside`, windows see nothing but the image."""

    first: Size
    length: Size
    is_inside: bool


def window_parts(value: Expression, axis: Symbol, lanes: int = 1) -> list[WindowPart]:
    """The parts of an axis, in order; those of a row begin at whole vectors. Where the extent is
    not a number, some may be empty, and they begin anywhere: nothing is known of a vector there."""
    extent = extent_of(axis)
    lanes = lanes if isinstance(extent, int) else 1
    whole = [WindowPart(0, extent, False)]
    begin = 0
    end = extent
    for demand in _demands(value, axis):
        found = _fulfilled(demand, axis)
        if found is None:
            return whole
        begin = max(begin, found[0])
        end = end if found[1] is None else dims.minimum(end, found[1])
    begin = -(-begin // lanes) * lanes
    if end != extent:
        end = dims.floordiv(end, lanes) * lanes
    if isinstance(extent, int) and isinstance(end, int):
        is_short = lanes == 1 and 2 * (end - begin) <= extent
        if begin >= end or is_short:
            return whole
    first = dims.minimum(begin, extent)
    last = dims.minimum(dims.maximum(begin, end), extent)
    cuts: list[tuple[Size, Size, bool]] = [
        (0, first, False),
        (first, last, True),
        (last, extent, False),
    ]
    return [WindowPart(a, b - a, is_inside) for a, b, is_inside in cuts if b != a]


def inside(value: Expression, axes: Collection[Symbol]) -> Expression:
    """The value where windows see nothing but the image along these axes."""

    def rule(node: Expression) -> Expression | None:
        demand = _demand(node)
        if demand is None or dims.atoms(demand).isdisjoint(axes):
            return None
        return constant(True, boolean)

    return walk_expr.transform(value, rule) if axes else value


def _demands(value: Expression, axis: Symbol) -> Iterator[Size]:
    for node in all_nodes(value):
        demand = _demand(node)
        if demand is not None and axis in dims.atoms(demand):
            yield demand


def _demand(node: Expression) -> Size | None:
    """What is not negative where a comparison of index arithmetic holds; None for other nodes."""
    match node:
        case Binary(_, "ge", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(a) - as_index(b)
        case Binary(_, "lt", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(b) - as_index(a) - 1
        case _:
            return None


def _fulfilled(demand: Size, axis: Symbol) -> tuple[int, Size | None] | None:
    """The first index, and that after the last, for which it holds whatever the others are."""
    slope = dims.coefficient_of(demand, axis)
    if not isinstance(slope, int) or slope == 0:
        return None
    least = dims.upper_bound(slope * dims.atom(axis) - demand) * -1
    if slope < 0:
        return 0, dims.floordiv(dims.maximum(least - slope, 0), -slope)
    if not isinstance(least, int):
        return None
    return max(-(least // slope), 0), None
