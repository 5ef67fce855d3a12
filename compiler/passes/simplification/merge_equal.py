"""Computes equal things once.

    %2 = exp(%1)
    %3 = exp(%1)
    %4 = add(%2, %3)                         becomes    %4 = add(%2, %2)

Constants with equal contents become one. Random nodes, control flow and nodes that define dimension
symbols are never merged.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, defined_symbols, map_regions, merge_sources
from bessemer.compiler.ir.types import Array


def merge_equal(graph: Graph) -> Graph:
    """The graph without repeated computations, also inside of regions (each region by itself)."""
    rewriter = GraphRewriter(graph)
    for old, new in _equal_constants(graph.constants).items():
        rewriter.stand(old, new)
    first: dict[Hashable, int] = {}  # the position of the first node of each kind
    for node in graph.nodes:
        current = map_regions(rewriter.renewed(node), merge_equal)
        rewriter.changed |= current is not node
        key = _key(current)
        position = None if key is None else first.setdefault(key, len(rewriter.nodes))
        if position is None or position == len(rewriter.nodes):
            rewriter.append(current)
            continue
        same = rewriter.nodes[position]
        sources = merge_sources(same.sources, node.sources)
        rewriter.nodes[position] = replace(same, sources=sources)
        for old, new in zip(node.outputs, same.outputs, strict=True):
            rewriter.stand(old, new)
    return rewriter.finish()


def _key(node: Node) -> Hashable | None:
    """What nodes that may be merged have in common; None if a node may not be merged."""
    if node.regions or node.operator.is_random or not node.outputs or defined_symbols(node):
        return None
    attributes = tuple((name, _exact(entry)) for name, entry in sorted(node.attributes.items()))
    return node.operator, node.inputs, attributes


def _exact(entry: object) -> Hashable:
    """An attribute in a form in which 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(entry, tuple):
        return tuple(_exact(inner) for inner in entry)
    if isinstance(entry, (bool, float)):
        return type(entry), repr(entry)
    assert isinstance(entry, Hashable)
    return entry


def _equal_constants(constants: Mapping[Value, Array]) -> dict[Value, Value]:
    """The first constant with the same contents, for every one that is not the first."""
    alike: dict[Hashable, list[Value]] = defaultdict(list)
    for value, array in constants.items():
        # A few elements show that most weights differ; only the others are compared in full.
        ends = (array[:1, ...], array[-1:, ...]) if array.ndim else (array,)
        glance = b"".join(end.flat[:16].tobytes() for end in ends)  # copies no more than that
        alike[value.type, glance].append(value)
    same: dict[Value, Value] = {}
    for values in alike.values():
        if len(values) > 1:
            first: dict[bytes, Value] = {}
            for value in values:
                digest = hashlib.sha256(constants[value].tobytes()).digest()
                if first.setdefault(digest, value) is not value:
                    same[value] = first[digest]
    return same
