"""Divides the trees of a large ensemble into parts, which threads share, and adds up their results.

    tree_ensemble(x)    becomes    cast(reduce_sum(tree_ensemble(x, parts=...), axes=(1,)))

For a single sample there is no other work that a second thread could do. For many samples, each
thread evaluates only some of the trees, so that their nodes fit its caches. The parts are the same
for every number of threads, and so are the bits; sums are in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph

PARTS = (16, 8, 4, 2)
FEWEST_TREES = 32
"""The fewest trees of a part."""
FEWEST_NODES = 2048
"""The fewest nodes of a part: some microseconds for one sample."""


def split_forests(graph: Graph) -> Graph:
    """The same network with such ensembles in parts, also inside regions."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    attributes = node.attributes
    if node.operator.name != "tree_ensemble" or attributes["aggregation"] != "add":
        return None
    nodes, trees = node.inputs[1].type.shape[0], node.inputs[5].type.shape[0]
    if attributes.get("parts") or not isinstance(nodes, int) or not isinstance(trees, int):
        return None
    most = min(trees // FEWEST_TREES, nodes // FEWEST_NODES)
    parts = next((parts for parts in PARTS if parts <= most), None)
    if parts is None:
        return None
    of_parts = rewriter.emit("tree_ensemble", *node.inputs, **{**attributes, "parts": parts})
    total = rewriter.emit("reduce_sum", of_parts, axes=(1,))
    return (rewriter.emit("cast", total, dtype=node.output.type.dtype),)
