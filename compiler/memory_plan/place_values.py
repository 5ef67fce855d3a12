"""Offsets for values of known sizes, such that none overlaps another that is alive with it.

Greedily by size: the largest value first, each at the lowest offset that is free during its live
(Pisarchyk & Lee 2020, arXiv 2001.03288); then other orders, while that helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.memory_plan.live_ranges import LiveRange

REPAIRS = 60
"""How often a placement is tried again in another order, while it is above the lower bound."""


def place_values(
    wanted: Sequence[tuple[Value, int]], ranges: Mapping[Value, LiveRange]
) -> tuple[dict[Value, int], int]:
    """The best of several greedy placements, the offsets and the extent.

    After the fixed orders, values that ended highest are placed earlier, as long as that helps.
    """
    bound = most_alive(wanted, ranges)
    keys: list[Callable[[tuple[Value, int]], tuple[int, ...]]] = [
        lambda item: (-item[1],),
        lambda item: (ranges[item[0]].first, -item[1]),
        lambda item: (-_length(ranges[item[0]]), -item[1]),
        lambda item: (-item[1] * (1 + _length(ranges[item[0]])),),
    ]
    order = sorted(wanted, key=keys[0])
    starts = best = _in_order(order, ranges)
    extent = _extent(order, starts)
    found = order
    for key in keys[1:]:
        if extent > bound:
            other = sorted(wanted, key=key)
            placed = _in_order(other, ranges)
            if (reached := _extent(other, placed)) < extent:
                best, found, extent = placed, other, reached
    for _ in range(REPAIRS - 1):
        if extent <= bound:
            break
        # The value that ends highest had to go where the others left room: it chooses earlier now.
        ends = [start + size for start, (_, size) in zip(starts, order)]
        place = ends.index(max(ends))
        if place == 0:
            break
        early = place // 2
        order = [*order[:early], order[place], *order[early:place], *order[place + 1 :]]
        starts = _in_order(order, ranges, starts[:early])
        if (reached := _extent(order, starts)) < extent:
            best, found, extent = starts, order, reached
    return {value: start for (value, _), start in zip(found, best, strict=True)}, extent


def _length(live: LiveRange) -> int:
    return live.last - live.first


def most_alive(wanted: Sequence[tuple[Value, int]], ranges: Mapping[Value, LiveRange]) -> int:
    """The largest sum of sizes alive at one step: no placement needs less."""
    changes: dict[int, int] = {}
    for value, size in wanted:
        changes[ranges[value].first] = changes.get(ranges[value].first, 0) + size
        changes[ranges[value].last + 1] = changes.get(ranges[value].last + 1, 0) - size
    return max(itertools.accumulate(changes[time] for time in sorted(changes)), default=0)


def _extent(order: Sequence[tuple[Value, int]], starts: Sequence[int]) -> int:
    return max((start + size for start, (_, size) in zip(starts, order)), default=0)


def _in_order(
    order: Sequence[tuple[Value, int]],
    ranges: Mapping[Value, LiveRange],
    known: Sequence[int] = (),
) -> list[int]:
    """Offsets of values placed one after the other, each at the lowest one that is free during its
    life; `known` are those of the first values."""
    first = np.array([ranges[value].first for value, _ in order])
    last = np.array([ranges[value].last for value, _ in order])
    starts, ends = np.zeros((2, len(order)), np.int64)
    for place, (_, size) in enumerate(order):
        if place < len(known):
            starts[place] = known[place]
        else:
            meets = (first[:place] <= last[place]) & (last[:place] >= first[place])
            starts[place] = _lowest(starts[:place][meets], ends[:place][meets], size)
        ends[place] = starts[place] + size
    return [int(start) for start in starts]


def _lowest(starts: Array, ends: Array, size: int) -> int:
    """The lowest offset of so many bytes that are in none of these ranges."""
    if not len(starts):
        return 0
    by_start = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[by_start])
    room = starts[by_start]
    room[1:] -= reached[:-1]
    fits = np.flatnonzero(room >= size)
    if not len(fits):
        return int(reached[-1])
    return int(reached[fits[0] - 1]) if fits[0] else 0
