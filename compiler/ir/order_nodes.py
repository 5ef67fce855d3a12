"""Reorders the nodes of a graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value


def delayed(graph: Graph, waits: Mapping[Node, Collection[Node]]) -> Graph | None:
    """The graph where some nodes, and what reads them, come later: behind the nodes that they wait
    for. None where a node would wait for itself, or what comes later sets sizes."""
    awaited = {node for nodes in waits.values() for node in nodes}
    order: dict[Node, None] = {}
    missing: set[Value] = set()
    late: list[Node] = []

    def is_ready(node: Node) -> bool:
        known = order.keys()
        return missing.isdisjoint(node.inputs) and all(one in known for one in waits.get(node, ()))

    def add(node: Node) -> None:
        order[node] = None
        missing.difference_update(node.outputs)

    for node in graph.nodes:
        if not is_ready(node):
            late.append(node)
            missing.update(node.outputs)
            continue
        add(node)
        if node in awaited:
            while (ready := next(filter(is_ready, late), None)) is not None:
                late.remove(ready)
                add(ready)
    if late or any(_sets_sizes(node) for node in _moved(graph, order)):
        return None
    return replace(graph, nodes=tuple(order))


def _moved(graph: Graph, order: Collection[Node]) -> list[Node]:
    return [node for node, other in zip(graph.nodes, order, strict=True) if node is not other]


def _sets_sizes(node: Node) -> bool:
    return "symbol" in node.attributes or "symbols" in node.attributes


def ancestors(graph: Graph, node: Node) -> set[Node]:
    """The nodes from which a node is computed."""
    producers = graph.producers()
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            maker = producers.get(value)
            if maker is not None and maker not in found:
                found.add(maker)
                waiting.append(maker)
    return found
