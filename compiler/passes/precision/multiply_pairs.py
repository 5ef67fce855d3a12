"""Lets products that decode their weights round these weights and the other operand to bfloat16.

    matmul_blocks(x, weights, scales)   becomes   matmul_blocks(x, weights, scales, pairs=True)

This is for machines with an instruction that multiplies pairs of such numbers. Products of few
rows, most of whose time is reading the weights, stay in float32
(ops/contractions/matmul_blocks.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph


def multiply_pairs(graph: Graph) -> Graph:
    """The same network with such products."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "matmul_blocks" or node.attributes.get("pairs"):
        return None
    attributes = {**node.attributes, "pairs": True}
    return (rewriter.emit("matmul_blocks", *node.inputs, **attributes),)
