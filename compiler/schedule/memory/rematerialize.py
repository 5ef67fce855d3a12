"""Writes a graph in which late readers of a value compute it again, so that it need not be kept.

    %2 = relu(%1)                            %2 = relu(%1)
    ...                                      ...
    %9 = mul(%8, %2)         becomes         %12 = relu(%1)
                                             %9 = mul(%8, %12)

So %2 is not needed in between. A reader is late if it runs after a given place, the boundary: in a
training step, if it belongs to the backward half. A value is computed again just before its first
late reader, once for all of them, with the old order among such values. Or (`separately`) it is
computed once for each reader, and becomes a part of the reader's kernel. Random numbers are the
same both times: they depend only on the seed, the step and the place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.schedule.memory.live_memory import Work


@dataclass(frozen=True, eq=False)
class Again:
    """A graph that computes values again, and the nodes of the old graph that it repeats, as many
    times as it does. Views are not listed."""

    graph: Graph
    repeated: tuple[Node, ...]


def rematerialized(
    graph: Graph,
    works: tuple[Work, ...],
    boundary: int,
    again: Collection[Value],
    separately: Collection[Value] = (),
) -> Again:
    """The graph in which works after the place `boundary` compute the early values `again` anew,
    and those in `separately` each for itself."""
    return _Writer(graph, works, boundary, set(again) | set(separately), set(separately)).write()


class _Writer:
    def __init__(
        self,
        graph: Graph,
        works: tuple[Work, ...],
        boundary: int,
        again: set[Value],
        separately: set[Value],
    ) -> None:
        self.graph = graph
        self.works = works
        self.again = again
        self.separately = separately
        self.boundary = boundary
        self.producers = graph.producers()
        self.places = {node: place for place, node in enumerate(graph.nodes)}
        self.written = {value for work in works for value in work.writes}
        self.shared: dict[Value, Value] = {}
        self.nodes: dict[Node, None] = {}
        self.made: dict[Value, Node] = dict(self.producers)
        self.repeated: list[Node] = []

    def write(self) -> Again:
        for place, work in enumerate(self.works):
            if place > self.boundary:
                self._late(work)
            else:
                self._emit(self.producers[value] for value in work.writes)
        kept = (n for n in self.graph.nodes if n.operator.is_random or n.regions or not n.outputs)
        self._emit(self.made[node.outputs[0]] if node.outputs else node for node in kept)
        return Again(replace(self.graph, nodes=tuple(self.nodes)), tuple(self.repeated))

    def _emit(self, nodes: Iterable[Node]) -> None:
        """Adds nodes to the new graph, each after the nodes that it needs."""
        waiting = [(node, False) for node in nodes]
        while waiting:
            node, is_ready = waiting.pop()
            if node in self.nodes:
                continue
            if is_ready:
                self.nodes[node] = None
                continue
            waiting.append((node, True))
            sources = (self.made.get(value) for value in reversed(node.inputs))
            waiting += [(s, False) for s in sources if s is not None and s not in self.nodes]

    def _late(self, work: Work) -> None:
        self._prepare(work)
        known: dict[Value, Value] = {}
        for node in dict.fromkeys(self.producers[value] for value in work.writes):
            inputs = tuple(self._for(value, known) for value in node.inputs)
            if inputs != node.inputs:
                changed = replace(node, inputs=inputs)
                self.made |= dict.fromkeys(changed.outputs, changed)
        self._emit(self.made[value] for value in work.writes)

    def _prepare(self, work: Work) -> None:
        """Repeats what all late readers share, in the old order. This is not recursive because
        chains may be long."""
        needed: set[Node] = set()
        seen: set[Value] = set()
        waiting = [value for node in work.nodes for value in node.inputs]
        while waiting:
            value = waiting.pop()
            if value in seen or value in self.shared:
                continue
            seen.add(value)
            node = self.producers.get(value)
            if node is not None and (value in self.again or node.operator.is_view):
                waiting += node.inputs
                if value in self.again and value not in self.separately:
                    needed.add(node)
        for node in sorted(needed, key=self.places.__getitem__):
            self._repeat(node, self.shared, {})

    def _for(self, value: Value, known: dict[Value, Value]) -> Value:
        """The value that a late work reads in place of `value`. `known` are the values that it has
        computed for itself."""
        if value in self.shared:
            return self.shared[value]
        if value not in known:
            known[value] = self._found(value, known)
        return known[value]

    def _found(self, value: Value, known: dict[Value, Value]) -> Value:
        node = self.producers.get(value)
        if node is None:
            return value
        if value in self.again:
            self._repeat(node, known, known)
            return known[value]
        if value in self.written:
            return value
        inputs = tuple(self._for(source, known) for source in node.inputs)
        if inputs == node.inputs:
            return value
        return self._copied(node, inputs, known)[value]

    def _repeat(self, node: Node, found: dict[Value, Value], known: dict[Value, Value]) -> None:
        inputs = tuple(self._for(source, known) for source in node.inputs)
        self._copied(node, inputs, found)
        if not node.operator.is_view:
            self.repeated.append(node)

    def _copied(
        self, node: Node, inputs: tuple[Value, ...], found: dict[Value, Value]
    ) -> dict[Value, Value]:
        copy = replace(node, inputs=inputs, outputs=tuple(Value(v.type) for v in node.outputs))
        self.made |= dict.fromkeys(copy.outputs, copy)
        found |= zip(node.outputs, copy.outputs, strict=True)
        return found
