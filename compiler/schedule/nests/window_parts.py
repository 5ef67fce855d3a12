"""Cuts an axis where sliding windows reach beyond an image, so that windows inside need no
conditions.

    out[i] = sum k: i + k - 1 >= 0 and i + k - 1 < 35 ? x[i + k - 1] : 0      i in 0..35     becomes
    the same                                                                   i in 0..16
    out[i] = sum k: x[i + k - 1]                                               i in 16..32
    the same                                                                   i in 32..35

Without conditions, the divisor of a mean is a constant, too. The parts of a row begin at whole
vectors, because the conditions of a vector at a known place are decided at compile time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Constant,
    Expression,
    IndexValue,
    as_index,
    constant,
    index_value,
)
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.ir.walk_expr import all_nodes, reductions_of
from bessemer.compiler.schedule.nests.merge_axes import extent_of


def asks_in_windows(value: Expression) -> bool:
    """Whether there is a condition on the index in each step of a reduction."""
    bodies = (reduction.body for reduction in reductions_of(value))
    return any(_demand(node) is not None for node in all_nodes(*bodies))


class WindowPart(NamedTuple):
    """`length` places from `first` on. If it `is_inside`, the windows see nothing but the image; if
    it `is_begun`, they leave the image at its end only. If it `is_short`, it is a border with less
    than a vector, on an axis of unknown extent."""

    first: Size
    length: Size
    is_inside: bool = False
    is_begun: bool = False
    is_short: bool = False


def window_parts(value: Expression, axis: Symbol, lanes: int = 1) -> list[WindowPart]:
    """The parts of an axis, in order.

    The parts of a row begin at whole vectors, except if its extent is not known and windows are
    several elements apart: masks cost most there. If the extent is not known, some parts may be
    empty.
    """
    extent = extent_of(axis)
    whole = [WindowPart(0, extent)]
    found = [_fulfilled(demand, axis) for demand in _demands(value, axis)]
    ranges = [one for one in found if one is not None]
    if len(ranges) < len(found):
        return whole
    begin = max((one.first for one in ranges), default=0)
    end = extent
    for one in ranges:
        end = dims.minimum(end, one.end)
    is_dense = all(one.step == 1 for one in ranges)
    if not isinstance(extent, int) and lanes > 1 and ranges and is_dense:
        behind = [one.behind for one in ranges]
        return _of_whole_vectors(extent, begin, end, lanes, behind)
    if isinstance(extent, int):
        begin = -(-begin // lanes) * lanes
        if end != extent:
            end = dims.floordiv(end, lanes) * lanes
    if isinstance(extent, int) and isinstance(end, int):
        is_mostly_border = lanes == 1 and 2 * (end - begin) <= extent
        if begin >= end or is_mostly_border:
            return whole
    first = dims.minimum(begin, extent)
    last = dims.minimum(dims.maximum(begin, end), extent)
    is_known = isinstance(extent, int)
    few = all(one.usual is not None and one.usual < lanes for one in ranges)
    parts = [
        WindowPart(0, first, is_short=not is_known and begin < lanes),
        WindowPart(first, last - first, is_inside=True),
        WindowPart(last, extent - last, is_short=not is_known and few),
    ]
    return [part for part in parts if part.length != 0]


def _of_whole_vectors(
    extent: Size, begin: int, end: Size, lanes: int, behind: Sequence[int | None]
) -> list[WindowPart]:
    """The parts of an axis of any extent: whole vectors first, then the places left without a
    border, then the rest.

    `behind` is the number of places after the inside, at most, if it is known. Most rests are one
    vector, whose conditions are decided before the first row.
    """
    head = -(-begin // lanes)
    vectors = dims.maximum(dims.floordiv(end, lanes), head)
    rest = dims.maximum(extent - vectors * lanes, 0)
    known = [most for most in behind if most is not None]
    if len(known) == len(behind):
        rest = dims.minimum(rest, -(-(max(known) + lanes - 1) // lanes) * lanes)
    parts = [
        WindowPart(0, dims.minimum(head * lanes, extent)),
        WindowPart(head * lanes, (vectors - head) * lanes, is_inside=True),
        WindowPart(vectors * lanes, rest, is_begun=True),
    ]
    return [part for part in parts if part.length != 0]


def inside(value: Expression, axes: Collection[Symbol]) -> Expression:
    """The value where windows see nothing but the image along these axes. What it counts by minima
    and maxima of the windows' ends is a constant then."""
    if not axes:
        return value
    facts = [fact for axis in axes for fact in _facts(value, axis)]

    def rule(node: Expression) -> Expression | None:
        if isinstance(node, IndexValue):
            return index_value(_decided(node.size, facts))
        demand = _demand(node)
        if demand is None or dims.atoms(demand).isdisjoint(axes):
            return None
        return constant(True, boolean)

    return walk_expr.transform(value, rule)


def _facts(value: Expression, axis: Symbol) -> Iterator[Size]:
    """Sizes that are not negative where the conditions along an axis are true for every tap of a
    window."""
    for demand in _demands(value, axis):
        slope = dims.coefficient_of(demand, axis)
        if isinstance(slope, int):
            yield slope * dims.atom(axis) - dims.upper_bound(slope * dims.atom(axis) - demand)


def _decided(size: Size, facts: Sequence[Size]) -> Size:
    """The size without the minima and maxima that the facts decide."""

    def is_at_least(a: Size, b: Size) -> bool:
        return any(dims.is_nonnegative(a - b - fact) for fact in facts)

    def decide(factor: Atom) -> Size:
        match factor:
            case dims.Min(a, b) | dims.Max(a, b):
                a, b = _decided(a, facts), _decided(b, facts)
                low, high = (a, b) if is_at_least(b, a) else (b, a)
                if not is_at_least(high, low):
                    is_minimum = isinstance(factor, dims.Min)
                    return dims.minimum(a, b) if is_minimum else dims.maximum(a, b)
                return low if isinstance(factor, dims.Min) else high
            case _:
                return dims.atom(factor)

    return dims.map_factors(size, decide)


def begun(value: Expression, axis: Symbol) -> Expression:
    """The value where windows see nothing before the image's start along an axis."""

    def rule(node: Expression) -> Expression | None:
        demand = _demand(node)
        slope = 0 if demand is None else dims.coefficient_of(demand, axis)
        return constant(True, boolean) if isinstance(slope, int) and slope > 0 else None

    return walk_expr.transform(value, rule)


def _demands(value: Expression, axis: Symbol) -> Iterator[Size]:
    for node in all_nodes(value):
        demand = _demand(node)
        if demand is not None and axis in dims.atoms(demand):
            yield demand


def _demand(node: Expression) -> Size | None:
    """A size that is not negative where a comparison of index arithmetic is true; None for other
    nodes."""
    match node:
        case Binary(_, "ge", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(a) - as_index(b)
        case Binary(_, "lt", IndexValue() as a, (IndexValue() | Constant()) as b):
            return as_index(b) - as_index(a) - 1
        case _:
            return None


class _Fulfilled(NamedTuple):
    """The indices, from `first` to the one before `end`, at which a condition is true for all taps.

    `behind` is the number of indices after these, at most, if it is known. `usual` is by how many
    steps a window is longer than one; None if windows differ in length. Windows are `step` apart.
    """

    first: int
    end: Size
    behind: int | None
    usual: int | None
    step: int


def _fulfilled(demand: Size, axis: Symbol) -> _Fulfilled | None:
    slope, extent = dims.coefficient_of(demand, axis), extent_of(axis)
    if not isinstance(slope, int) or slope == 0:
        return None
    others = demand - slope * dims.atom(axis)
    least = dims.upper_bound(-1 * others) * -1
    if not all(isinstance(a, Symbol) and a.extent is None for a in dims.atoms(least)):
        return None
    if slope < 0:
        window = dims.upper_bound(others) - least
        usual = -(window // slope) if isinstance(window, int) else None
        counts = range(-1 if usual is None else usual + 1)
        known = (n for n in counts if dims.is_nonnegative((extent - n - 1) * slope + least))
        end = dims.floordiv(dims.maximum(least - slope, 0), -slope)
        return _Fulfilled(0, end, next(known, None), usual, -slope)
    if not isinstance(least, int):
        return None
    return _Fulfilled(max(-(least // slope), 0), extent, 0, 0, slope)
