"""Multiplies vectors by matrices that are looked up, reading each matrix where it lies in its
table.

    w = gather(experts : [e, m, k], which, axis=0) : [n, m, k]
    y = matmul(w, x : [n, k, 1])
    becomes   y = reduce_sum(mul(w, x), axes=(2))

Mixtures of experts have this form: every token has matrices of its own. As a product, w would first
be copied to memory for every token. A kernel of sums reads the rows directly from the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import f32, f64

SHORTEST = 16
"""The fewest products in a row for which a sum of vectors pays."""


def multiply_looked_up(graph: Graph) -> Graph:
    """The same network with such products as sums, also inside regions."""
    nodes = tuple(map_regions(node, multiply_looked_up) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    users, producers = graph.users(), graph.producers()
    rewriter = GraphRewriter(graph)
    for node in graph.nodes:
        if not _is_of_vectors(node) or not _is_looked_up_once(
            graph, node.inputs[0], producers, users
        ):
            rewriter.visit(node)
            continue
        rewriter.sources = node.sources
        rewriter.stand(node.output, _as_sum(rewriter, node))
    return rewriter.finish()


def _is_of_vectors(node: Node) -> bool:
    """Whether a node multiplies vectors by a matrix each, of rows that are long enough."""
    if node.operator.name != "matmul" or node.output.type.dtype not in (f32, f64):
        return False
    matrices, vectors = (value.type.shape for value in node.inputs)
    depth = matrices[-1]
    is_each = node.output.type.shape == (*matrices[:-1], 1) and vectors[:-2] == matrices[:-2]
    return is_each and isinstance(depth, int) and depth >= SHORTEST


def _is_looked_up_once(
    graph: Graph,
    matrices: Value,
    producers: Mapping[Value, Node],
    users: Mapping[Value, Sequence[Node]],
) -> bool:
    """Whether the matrices are looked up in a table by their numbers, and nothing else reads
    them."""
    node = producers.get(matrices)
    if node is None or len(users[matrices]) != 1 or matrices in graph.outputs:
        return False
    match node.operator.name:
        case "gather":
            return node.attributes["axis"] == 0 and node.inputs[0].type.rank == 3
        case "gather_nd":
            table, places = (value.type for value in node.inputs)
            return not node.attributes["batch_dims"] and places.shape[-1] == table.rank - 2
        case _:
            return False


def _as_sum(rewriter: GraphRewriter, node: Node) -> Value:
    matrices, vectors = map(rewriter.now, node.inputs)
    shape = matrices.type.shape
    row = rewriter.emit("reshape", vectors, shape=(*shape[:-2], 1, shape[-1]))
    rows = rewriter.emit("broadcast_to", row, shape=shape)
    products = rewriter.emit("mul", matrices, rows)
    total = rewriter.emit("reduce_sum", products, axes=(len(shape) - 1,))
    return rewriter.emit("reshape", total, shape=node.output.type.shape)
