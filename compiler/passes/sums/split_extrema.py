"""Computes the smallest and the largest number of a whole array from those of its parts.

    reduce_max(x)    becomes    reduce_max(reduce_max(x : [parts, numbers], axes=(1,)), axes=(0,))

Networks that quantize their activations at run time need both before every product. Without this
pass, one thread would compute them alone. It would also read what the other threads have written,
which moves those lines out of their caches. The parts are in order, so each thread mostly reads
what it has in its own caches. They are the same for every number of threads, and extremes do not
depend on the order, so neither do the bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph

MOST_PARTS, FEWEST_PARTS = 16, 8
FEWEST_NUMBERS = 1 << 16
"""With fewer numbers, another launch takes longer than threads could save."""


def split_extrema(graph: Graph) -> Graph:
    """The same network with such extremes in parts, also inside regions."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name not in ("reduce_min", "reduce_max"):
        return None
    (given,), count = node.inputs, dims.product(node.inputs[0].type.shape)
    if not isinstance(count, int) or count < FEWEST_NUMBERS or node.output.type.shape:
        return None
    parts = max(parts for parts in range(1, MOST_PARTS + 1) if count % parts == 0)
    if parts < FEWEST_PARTS:
        return None
    cut = rewriter.emit("reshape", given, shape=(parts, count // parts))
    extremes = rewriter.emit(node.operator.name, cut, axes=(1,))
    return (rewriter.emit(node.operator.name, extremes, axes=(0,)),)
