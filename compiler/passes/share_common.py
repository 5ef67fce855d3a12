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
from collections.abc import Hashable, Mapping, Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, defined_symbols, merge_sources
from bessemer.compiler.ir.types import Array


def share_common(graph: Graph) -> Graph:
    """The graph without repetitions, also inside regions (each for itself)."""
    rewriter = GraphRewriter(graph, _share)
    for old, new in _equal_constants(graph.constants).items():
        rewriter.stand(old, new)
    shared: dict[Hashable, Node] = {}
    for node in graph.nodes:
        current = rewriter.renewed(node)
        key = _key(current)
        first = shared.setdefault(key, current) if key is not None else current
        if first is current:
            rewriter.append(current)
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            rewriter.stand(old, new)
    return rewriter.finish()
