"""Turns gathers and scatters of single elements into those of whole rows, if all elements of a row
have the same index.

    %2 = broadcast_to(%1 : i64[n, 1]) : i64[n, 128]
    %3 = scatter_elements(%x : f32[m, 128], %2, %u : f32[n, 128], axis=0)
    becomes  scatter_nd(%x, %1, %u)

Exporters write torch's scatter_add and gather with an expanded index in this form (messages in
graph networks). The index then need not be computed for each element, and a row is written by
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph


def take_whole_rows(graph: Graph) -> Graph:
    """The graph with such gathers and scatters by rows."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    match node.operator.name:
        case "gather_elements":
            return _gather(rewriter, node)
        case "scatter_elements" if node.attributes["axis"] == 0:
            return _scatter(rewriter, node)
        case _:
            return None


def _gather(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    x, indices = node.inputs
    axis: int = node.attributes["axis"]
    places = _along(rewriter, indices, axis)
    if places is None or _others(x, axis) != _others(indices, axis):
        return None
    return (rewriter.emit("gather", x, places, axis=axis),)


def _scatter(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    x, indices, updates = node.inputs
    places = _along(rewriter, indices, 0)
    if places is None or _others(x, 0) != _others(indices, 0):
        return None
    width = product(_others(x, 0))
    flat, rows = (
        rewriter.emit("reshape", value, shape=(value.type.shape[0], width))
        for value in (x, updates)
    )
    column = rewriter.emit("reshape", places, shape=(*places.type.shape, 1))
    reduction = node.attributes.get("reduction", "none")
    made = rewriter.emit("scatter_nd", flat, column, rows, reduction=reduction)
    return (rewriter.emit("reshape", made, shape=x.type.shape),)


def _along(rewriter: GraphRewriter, indices: Value, axis: int) -> Value | None:
    """The indices as a vector, if they are repeated along all axes but one; else None."""
    node = rewriter.producer(indices, "broadcast_to")
    if node is None or indices.type.rank < 2:
        return None
    (x,) = node.inputs
    shape = (*(1 for _ in range(indices.type.rank - x.type.rank)), *x.type.shape)
    if any(size != 1 for place, size in enumerate(shape) if place != axis):
        return None
    if shape[axis] != indices.type.shape[axis]:
        return None
    return rewriter.emit("reshape", x, shape=(shape[axis],))


def _others(value: Value, axis: int) -> tuple[Size, ...]:
    return (*value.type.shape[:axis], *value.type.shape[axis + 1 :])
