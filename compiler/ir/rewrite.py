"""Rebuilds a graph node by node: what passes write their results with.

A rewriter walks the old graph in order and keeps, for every old value, the new one that stands for
it. Values of the old graph that nothing changes are used again as they are, so that an untouched
graph stays the same object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array, type_of


class GraphRewriter:
    """A graph being rebuilt. A `rule` sees every node that is about to be added, also those that
    rules emit, and may give values to stand for its outputs; None keeps the node."""

    def __init__(self, graph: Graph, rule: Rule | None = None) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.constants: dict[Value, Array] = dict(graph.constants)
        self.changed = False
        self.sources: tuple[str, ...] = ()
        self._rule = rule
        self._standing: dict[Value, Value] = {}
        self._producers: dict[Value, Node] = {}
        self._read: set[Value] = set(graph.outputs)
        # How often old nodes that are still to be visited read what a new value stands for.
        self._waiting = Counter(value for node in graph.nodes for value in node.inputs)

    def now(self, old: Value) -> Value:
        """The new value that stands for an old one."""
        while old in self._standing:
            old = self._standing[old]
        return old

    def producer(self, value: Value, operator: str = "") -> Node | None:
        """The new node that computes a new value, if there is one (and it is that operator)."""
        node = self._producers.get(value)
        return node if node is not None and operator in ("", node.operator.name) else None

    def stand(self, old: Value, new: Value) -> None:
        """Lets a new value stand for an old one."""
        if old.type != new.type:
            raise InternalError(f"a value {old.type} was replaced by one {new.type}")
        if old is not new:
            self._waiting[new] += self._waiting[old]
            if old in self._read:
                self._read.add(new)
            self._standing[old] = self._named(new, old.name)
            self.changed = True

    def constant(self, array: Array, name: str = "") -> Value:
        """A new constant."""
        value = Value(type_of(array), name)
        self.constants[value] = array
        self.changed = True
        return value

    def emit(
        self,
        operator: str,
        *inputs: Value,
        merged: Sequence[Node] = (),
        regions: tuple[Graph, ...] = (),
        **attributes: Any,
    ) -> Value:
        """The only output of a new node; its sources are those of the nodes `merged` and the node
        being visited (`sources`)."""
        return self.emit_many(operator, inputs, attributes, merged, regions)[0]

    def emit_many(
        self,
        operator: str,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any],
        merged: Sequence[Node] = (),
        regions: tuple[Graph, ...] = (),
    ) -> tuple[Value, ...]:
        """Adds a new node of new values, after the rule has seen it."""
        record = OPS[operator]
        told = {**attributes, "regions": regions} if regions else attributes
        types = record.infer_types([value.type for value in inputs], told)
        sources = merge_sources(*(node.sources for node in merged), self.sources)
        outputs = tuple(Value(type) for type in types)
        self.changed = True
        return self._settle(Node(record, tuple(inputs), outputs, attributes, regions, sources))

    def visit(self, node: Node) -> None:
        """Takes an old node over, through the rule; its regions first."""
        self.sources = node.sources
        current = self.renewed(node)
        for old, new in zip(node.outputs, self._settle(current), strict=True):
            self.stand(old, new)
        for value in node.inputs:
            self._release(self.now(value))

    def inline(self, region: Graph, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """The region's outputs for these inputs, its nodes added to this graph."""
        self.constants.update(region.constants)
        self._waiting.update(value for node in region.nodes for value in node.inputs)
        for old, new in zip(region.inputs, inputs, strict=True):
            self.stand(old, new)
        for node in region.nodes:
            self.visit(node)
        return tuple(self.now(value) for value in region.outputs)

    def _release(self, value: Value) -> None:
        """Forgets a constant after its last reading: folding weights must not pile up memory."""
        self._waiting[value] -= 1
        if self._waiting[value] == 0 and value not in self._read:
            self.constants.pop(value, None)

    def renewed(self, node: Node) -> Node:
        """An old node reading the new values, its regions rewritten, not yet added."""
        rule = self._rule
        current = node
        if rule is not None:
            current = map_regions(node, lambda region: rewrite_graph(region, rule))
        inputs = tuple(self.now(value) for value in node.inputs)
        if any(a is not b for a, b in zip(inputs, node.inputs)):
            current = replace(current, inputs=inputs)
        if current is not node:
            self.changed = True
        return current

    def append(self, node: Node) -> tuple[Value, ...]:
        """Adds a node that reads new values, without asking the rule."""
        self.nodes.append(node)
        self._read.update(node.inputs)
        for output in node.outputs:
            self._producers[output] = node
        return node.outputs

    def _settle(self, node: Node) -> tuple[Value, ...]:
        found = None if self._rule is None else self._rule(self, node)
        return self.append(node) if found is None else tuple(found)

    def _named(self, value: Value, name: str) -> Value:
        """The value under the user's name, if it has just been computed and has none."""
        node = self.nodes[-1] if self.nodes else None
        if not name or value.name or node is None or value not in node.outputs:
            return value
        named = replace(value, name=name)
        outputs = tuple(named if output is value else output for output in node.outputs)
        self.nodes.pop()
        self.append(replace(node, outputs=outputs))
        self._standing[value] = named
        return named

    def finish(self) -> Graph:
        """The new graph, without constants that are never read; the old one if nothing changed."""
        outputs = tuple(self.now(value) for value in self.graph.outputs)
        if not self.changed and outputs == self.graph.outputs:
            return self.graph
        read = {value for node in self.nodes for value in node.inputs} | set(outputs)
        constants = {v: array for v, array in self.constants.items() if v in read}
        return replace(self.graph, outputs=outputs, nodes=tuple(self.nodes), constants=constants)


Rule: TypeAlias = Callable[[GraphRewriter, Node], Sequence[Value] | None]


def rewrite_graph(graph: Graph, rule: Rule) -> Graph:
    """The graph with a rule applied to every node, in order and inside regions.

    Gives back the same object if the rule changed nothing.
    """
    rewriter = GraphRewriter(graph, rule)
    for node in graph.nodes:
        rewriter.visit(node)
    return rewriter.finish()


def merge_sources(*sources: Sequence[str]) -> tuple[str, ...]:
    """All sources in order, each once."""
    return tuple(dict.fromkeys(name for listed in sources for name in listed))


def map_regions(node: Node, function: Callable[[Graph], Graph]) -> Node:
    """The node with a function applied to its regions; itself if that changes none."""
    regions = tuple(function(region) for region in node.regions)
    if all(a is b for a, b in zip(regions, node.regions)):
        return node
    return replace(node, regions=regions)


def defined_symbols(node: Node) -> tuple[str, ...]:
    """The dimension symbols that a node gives values to while running, those of its regions too."""
    names: list[str] = list(node.attributes.get("symbols", ()))
    names += [node.attributes[key] for key in ("symbol", "count") if key in node.attributes]
    for region in node.regions:
        names += [name for inner in region.nodes for name in defined_symbols(inner)]
    return tuple(name for name in names if name)
