"""Removes nodes whose outputs are not used.

    %2 = exp(%1)        (no reader)          becomes    nothing

A node stays if it gives a value to a dimension symbol that is still used, if it is random, or if it
is a bind: binds also check their input, and frontends write some for the check alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bessemer.compiler.ir.dims import Dim, symbol_names
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import defined_symbols, map_regions


def remove_dead(graph: Graph) -> Graph:
    """The graph without dead nodes and constants, also inside regions."""
    live: set[Value] = set(graph.outputs)
    symbols = _symbols_of(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not _is_needed(node, live, symbols):
            continue
        cleaned = map_regions(node, remove_dead)
        kept.append(cleaned)
        live.update(cleaned.inputs)
        symbols |= _used_symbols(cleaned)
    kept.reverse()
    constants = {value: array for value, array in graph.constants.items() if value in live}
    same_nodes = len(kept) == len(graph.nodes) and all(a is b for a, b in zip(kept, graph.nodes))
    if same_nodes and len(constants) == len(graph.constants):
        return graph
    return replace(graph, nodes=tuple(kept), constants=constants)


def _is_needed(node: Node, live: set[Value], symbols: set[str]) -> bool:
    if node.operator.is_random or node.operator.name == "bind":
        return True
    if any(output in live for output in node.outputs):
        return True
    return any(name in symbols for name in defined_symbols(node))


def _symbols_of(values: Iterable[Value]) -> set[str]:
    return {name for value in values for size in value.type.shape for name in symbol_names(size)}


def _used_symbols(node: Node) -> set[str]:
    """The symbols in a node's types and attributes. To define a symbol does not count as using
    it."""
    found = _symbols_of((*node.inputs, *node.outputs))
    for entry in node.attributes.values():
        found |= _in_attribute(entry)
    for region in node.regions:
        found |= _symbols_of(region.outputs)
        for inner in region.nodes:
            found |= _used_symbols(inner)
    return found


def _in_attribute(entry: object) -> set[str]:
    if isinstance(entry, Dim):
        return symbol_names(entry)
    if isinstance(entry, tuple):
        return {name for inner in entry for name in _in_attribute(inner)}
    return set()
