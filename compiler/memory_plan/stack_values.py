"""Places for values whose sizes are known only when a model runs.

At compile time, a plan for example sizes says of every two values that are alive together which one
lies below the other. That order is kept for all sizes. When the run knows the sizes, it puts each
value on the highest end of those below it. So no two values ever overlap, whatever the sizes are.
For the example sizes the arena is no larger than the example's plan; for other sizes it is the
better the more alike their proportions are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.memory_plan.live_ranges import LiveRange
from bessemer.compiler.memory_plan.place_values import most_alive, place_values

PLACE, END = "place {}", "end of places"
"""Names of sizes that the run computes; no dimension symbol is called so."""


@dataclass(frozen=True)
class Stack:
    """Values from the bottom up, each with those that it lies on, and those on which nothing lies.

    What follows by way of another value is left out: x on y and y on z say where x and z are.
    """

    below: Mapping[Value, tuple[Value, ...]]
    tops: tuple[Value, ...]
    alignment: int

    def places(
        self, sizes: Mapping[Value, Size]
    ) -> tuple[dict[str, Size], dict[Value, Size], Size]:
        """(definitions, offsets, end): names of sizes in the order of their computation, each of
        which may use those before it; and what values' offsets and the arena's end are by them."""
        definitions: dict[str, Size] = {}
        offsets: dict[Value, Size] = {}
        ends: dict[Value, Size] = {}
        for value, under in self.below.items():
            offset = _highest([ends[each] for each in under])
            if not isinstance(offset, int):
                name = PLACE.format(len(definitions))
                definitions[name] = offset
                offset = dims.symbol(name)
            offsets[value] = offset
            ends[value] = offset + dims.ceildiv(sizes[value], self.alignment) * self.alignment
        definitions[END] = _highest([ends[each] for each in self.tops])
        return definitions, offsets, dims.symbol(END)

    def height(self, sizes: Mapping[Value, int]) -> int:
        """The arena's end for numbers of bytes."""
        ends: dict[Value, int] = {}
        for value, under in self.below.items():
            ends[value] = max((ends[each] for each in under), default=0) + _up(
                sizes[value], self.alignment
            )
        return max(ends.values(), default=0)


def best_stack(
    examples: Sequence[Sequence[tuple[Value, int]]],
    ranges: Mapping[Value, LiveRange],
    alignment: int,
) -> tuple[Stack, float]:
    """The best of the stacks that the examples' own plans give: the one that wastes least in its
    worst example. Also returns what it takes there, as a multiple of the bytes alive at once."""

    def waste(stack: Stack) -> float:
        return max(
            stack.height(dict(wanted)) / max(most_alive(wanted, ranges), 1) for wanted in examples
        )

    stacks = []
    for wanted in examples:
        rounded = [(value, _up(size, alignment)) for value, size in wanted]
        stacks.append(_stack(place_values(rounded, ranges)[0], ranges, alignment))
    wastes = [waste(stack) for stack in stacks]
    best = wastes.index(min(wastes))
    return stacks[best], wastes[best]


def _stack(
    offsets: Mapping[Value, int], ranges: Mapping[Value, LiveRange], alignment: int
) -> Stack:
    values = sorted(offsets, key=lambda value: offsets[value])
    first = np.array([ranges[value].first for value in values])
    last = np.array([ranges[value].last for value in values])
    under: dict[Value, tuple[Value, ...]] = {}
    is_top = np.ones(len(values), np.bool_)
    for upper, value in enumerate(values):
        begin, end = int(first[upper]), int(last[upper])
        below = np.flatnonzero((first[:upper] <= end) & (last[:upper] >= begin))
        is_top[below] = False
        direct = _met_first(begin, end, first[below[::-1]], last[below[::-1]])
        under[value] = tuple(values[below[-1 - place]] for place in reversed(direct))
    return Stack(under, tuple(values[place] for place in np.flatnonzero(is_top)), alignment)


def _met_first(begin: int, end: int, first: Array, last: Array) -> list[int]:
    """The places of those values, all alive between `begin` and `end`, in whose part of that time
    none of those before them is alive."""
    found: list[int] = []
    whole, met = (1 << (end - begin + 1)) - 1, 0  # a bit for each step
    for place in range(len(first)):
        low, high = max(int(first[place]), begin), min(int(last[place]), end)
        steps = (1 << (high - begin + 1)) - (1 << (low - begin))
        if not met & steps:
            found.append(place)
        met |= steps
        if met == whole:
            break
    return found


def _up(size: int, alignment: int) -> int:
    return -(-max(size, 0) // alignment) * alignment


def _highest(ends: Sequence[Size]) -> Size:
    # By halves: one in the other, hundreds of maxima are deeper than Python compares.
    different = [*dict.fromkeys(ends)]
    if len(different) < 2:
        return dims.maximum(0, dims.total(different))
    half = len(different) // 2
    return dims.maximum(_highest(different[:half]), _highest(different[half:]))
