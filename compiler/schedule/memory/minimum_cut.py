"""Finds a minimum vertex cut: the cheapest set of places that separates a network's sources from
its sinks."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

_K = TypeVar("_K", bound=Hashable)
_SOURCE, _SINK = "source", "sink"  # every other point is a pair (place, side)


def minimum_cut(
    prices: Mapping[_K, int],
    links: Iterable[tuple[_K, _K]],
    sources: Collection[_K],
    sinks: Collection[_K],
) -> set[_K]:
    """The set of places with the least total price that contains a place of every path from a
    source to a sink.

    Paths follow `links`, from one place to another. A source or a sink may be in the cut itself. Of
    several cheapest cuts, it is the one nearest to the sinks. Computed as a maximum flow along
    shortest augmenting paths: Dinic 1970.
    """
    network = _Network()
    for place, price in prices.items():
        network.link((place, 0), (place, 1), price)
    endless = sum(prices.values()) + 1
    for first, second in links:
        network.link((first, 1), (second, 0), endless)
    for place in sources:
        network.link(_SOURCE, (place, 0), endless)
    for place in sinks:
        network.link((place, 1), _SINK, endless)
    network.fill(_SOURCE, _SINK)
    reaching = network.reaching(_SINK)
    return {p for p in prices if (p, 1) in reaching and (p, 0) not in reaching}


class _Network(dict[object, dict[object, int]]):
    """The residual capacities from each point to its neighbours."""

    def link(self, first: object, second: object, amount: int) -> None:
        there = self.setdefault(first, {})
        there[second] = there.get(second, 0) + amount
        self.setdefault(second, {}).setdefault(first, 0)

    def fill(self, source: object, sink: object) -> None:
        if source not in self or sink not in self:
            return
        while levels := self._levels(source, sink):
            lists = {point: list(self[point]) for point in levels}
            while path := self._path(source, sink, levels, lists):
                amount = min(self[a][b] for a, b in pairwise(path))
                for a, b in pairwise(path):
                    self[a][b] -= amount
                    self[b][a] += amount

    def _levels(self, source: object, sink: object) -> dict[object, int]:
        levels = {source: 0}
        waiting = deque([source])
        while waiting:
            point = waiting.popleft()
            for other, left in self[point].items():
                if left and other not in levels:
                    levels[other] = levels[point] + 1
                    waiting.append(other)
        return levels if sink in levels else {}

    def _path(
        self,
        source: object,
        sink: object,
        levels: Mapping[object, int],
        lists: Mapping[object, list[object]],
    ) -> list[object]:
        path = [source]
        while path and path[-1] is not sink:
            point = path[-1]
            choices = lists[point]
            while choices:
                other = choices[-1]
                if self[point][other] and levels.get(other) == levels[point] + 1:
                    break
                choices.pop()
            if choices:
                path.append(choices[-1])
            else:
                path.pop()
                if path:
                    lists[path[-1]].pop()
        return path

    def reaching(self, sink: object) -> set[object]:
        """The points from which more could flow to the sink."""
        found = {sink}
        waiting = [sink]
        while waiting:
            point = waiting.pop()
            for other in self.get(point, {}):
                if other not in found and self[other][point]:
                    found.add(other)
                    waiting.append(other)
        return found
