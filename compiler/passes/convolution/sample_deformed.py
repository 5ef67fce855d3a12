"""Replaces deformable convolutions by matrix products, so that every tap is read once, and not once
for every output channel.

    deform_conv(x, w, offsets, mask)
becomes
    deform_columns(x, offsets, mask) : [n, *out, groups of offsets, taps, c]
    matmul of them as rows [(n, *out), (groups of offsets, taps, c)] with w
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph


def sample_deformed(graph: Graph) -> Graph:
    """The same network without deformable convolutions whose kernel sizes are known."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "deform_conv":
        return None
    x, w, *moves = (rewriter.now(value) for value in node.inputs)
    *kernel, inner, features = w.type.shape
    if not all(isinstance(size, int) for size in kernel):
        return None
    attributes = dict(node.attributes)
    groups = attributes.pop("groups", 1)
    columns = rewriter.emit("deform_columns", x, *moves, kernel=tuple(kernel), **attributes)
    *places, parts, taps, each = columns.type.shape
    count, rank = product(places), len(places)
    if groups == 1:
        split = rewriter.emit("reshape", w, shape=(taps, parts, each, features))
        transposed = rewriter.emit("transpose", split, permutation=(1, 0, 2, 3))
        weight = rewriter.emit("reshape", transposed, shape=(parts * taps * each, features))
        rows = rewriter.emit("reshape", columns, shape=(count, parts * taps * each))
        result = rewriter.emit("matmul", rows, weight)
    else:
        order = (*range(rank), rank + 1, rank, rank + 2)
        tap_first = rewriter.emit("transpose", columns, permutation=order)
        split = rewriter.emit("reshape", tap_first, shape=(count, taps, groups, inner))
        transposed = rewriter.emit("transpose", split, permutation=(2, 0, 1, 3))
        rows = rewriter.emit("reshape", transposed, shape=(groups, count, taps * inner))
        split = rewriter.emit("reshape", w, shape=(taps, inner, groups, features // groups))
        transposed = rewriter.emit("transpose", split, permutation=(2, 0, 1, 3))
        shape = (groups, taps * inner, features // groups)
        product_of_groups = rewriter.emit(
            "matmul", rows, rewriter.emit("reshape", transposed, shape=shape)
        )
        result = rewriter.emit("transpose", product_of_groups, permutation=(1, 0, 2))
    return (rewriter.emit("reshape", result, shape=node.output.type.shape),)
