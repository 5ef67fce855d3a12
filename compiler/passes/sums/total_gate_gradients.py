"""Sums the gradients of gates over all steps and sequences in the kernel that computes them.

    reduce_sum(lstm_gradient(...), axes=(0, 1))     becomes     one more output of lstm_gradient

This is the gradient of the bias. A kernel of its own would read all gradients again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.ops.recurrence.recurrence_layout import TEAM_OPERATIONS

_FEWEST_COLUMNS = 64
"""Fewer columns are not worth a team of threads. Then threads share the rows, which sums over all
rows would prevent."""


def total_gate_gradients(graph: Graph) -> Graph:
    """The same network with such sums as outputs, also inside regions."""
    nodes = tuple(map_regions(node, total_gate_gradients) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    makers = {n.outputs[0]: n for n in graph.nodes if _is_large(n)}
    if not any(_maker(node, makers) for node in graph.nodes):
        return graph
    rewriter = GraphRewriter(graph)
    totals: dict[Node, Value] = {}
    summed = {maker for node in graph.nodes if (maker := _maker(node, makers))}
    for node in graph.nodes:
        maker = _maker(node, makers)
        if maker is not None:
            rewriter.stand(node.output, totals[maker])
        elif node in summed:
            totals[node] = _with_totals(rewriter, node)
        else:
            rewriter.visit(node)
    return rewriter.finish()


def _is_large(node: Node) -> bool:
    if node.operator.name != "lstm_gradient" or node.attributes.get("has_totals"):
        return False
    rows, width = node.inputs[1].type.shape
    batch = node.inputs[2].type.shape[0]
    if not (isinstance(rows, int) and isinstance(width, int) and isinstance(batch, int)):
        return False
    is_exact = node.inputs[0].type.dtype in (f32, f64)
    return is_exact and width >= _FEWEST_COLUMNS and 2 * rows * width * batch >= TEAM_OPERATIONS


def _maker(node: Node, makers: Mapping[Value, Node]) -> Node | None:
    """The node whose gradients this one adds up, over steps and sequences."""
    if node.operator.name != "reduce_sum" or set(node.attributes["axes"]) != {0, 1}:
        return None
    return makers.get(node.inputs[0])


def _with_totals(rewriter: GraphRewriter, node: Node) -> Value:
    """Writes the node with one more output; gives that."""
    rewriter.sources = node.sources
    current = rewriter.renewed(node)
    attributes = {**node.attributes, "has_totals": True}
    *found, totals = rewriter.emit_many("lstm_gradient", current.inputs, attributes)
    for old, new in zip(node.outputs, found, strict=True):
        rewriter.stand(old, new)
    return totals
