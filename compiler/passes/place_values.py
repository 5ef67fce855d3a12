"""Offsets for values of known sizes, such that none overlaps another that is alive with it.

Greedily by size: the largest value first, each at the lowest offset that is free during its life
(Pisarchyk & Lee 2020, arXiv 2001.03288); then other orders, while that helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.passes.lives import Life

REPAIRS = 60
"""How often a placement is tried again in another order, while it is above the lower bound."""


def place_values(
    wanted: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]
) -> tuple[dict[Value, int], int]:
    """The best of several greedy placements, the offsets and the extent.

    After the fixed orders, values that ended highest are placed earlier, as long as that helps.
    """
    bound = most_alive(wanted, lives)
    keys: list[Callable[[tuple[Value, int]], tuple[int, ...]]] = [
        lambda item: (-item[1],),
        lambda item: (lives[item[0]].first, -item[1]),
        lambda item: (-_length(lives[item[0]]), -item[1]),
        lambda item: (-item[1] * (1 + _length(lives[item[0]])),),
    ]
    order = sorted(wanted, key=keys[0])
    best, extent = _in_order(order, lives)
    for key in keys[1:]:
        if extent > bound:
            offsets, reached = _in_order(sorted(wanted, key=key), lives)
            if reached < extent:
                best, extent = offsets, reached
    tries = 0
    while extent > bound and tries < REPAIRS:
        offsets, reached = _in_order(order, lives)
        if reached < extent:
            best, extent = offsets, reached
        # The value that ends highest had to go where the others left room: it chooses earlier now.
        top = max(order, key=lambda item: offsets[item[0]] + item[1])
        place = order.index(top)
        order = [*order[: place // 2], top, *order[place // 2 : place], *order[place + 1 :]]
        if place == 0:
            break
        tries += 1
    return best, extent


def _length(life: Life) -> int:
    return life.last - life.first


def most_alive(wanted: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]) -> int:
    """The largest sum of sizes alive at one step: no placement needs less."""
    changes: dict[int, int] = {}
    for value, size in wanted:
        changes[lives[value].first] = changes.get(lives[value].first, 0) + size
        changes[lives[value].last + 1] = changes.get(lives[value].last + 1, 0) - size
    return max(itertools.accumulate(changes[time] for time in sorted(changes)), default=0)


def _in_order(
    order: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]
) -> tuple[dict[Value, int], int]:
    """Places values one after the other, each at the lowest offset that is free during its life."""
    first = np.array([lives[value].first for value, _ in order])
    last = np.array([lives[value].last for value, _ in order])
    starts, ends = np.zeros((2, len(order)), np.int64)
    for place, (_, size) in enumerate(order):
        meets = (first[:place] <= last[place]) & (last[:place] >= first[place])
        starts[place] = _lowest(starts[:place][meets], ends[:place][meets], size)
        ends[place] = starts[place] + size
    offsets = {value: int(start) for (value, _), start in zip(order, starts, strict=True)}
    return offsets, int(ends.max(initial=0))


def _lowest(starts: Array, ends: Array, size: int) -> int:
    """The lowest offset of so many bytes that are in none of these stretches."""
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
