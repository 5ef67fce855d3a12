"""Multiplies a table once instead of the many rows that are looked up in it.

    gather(E, i) @ W                          becomes      gather(E @ W, i)
    scatter_add(i, G @ W)                     becomes      scatter_add(i, G) @ W
    transpose(gather(E, i)) @ G               becomes      transpose(E) @ scatter_add(i, G)

Differentiation makes the last two forms from the first: the cotangents of rows that are the same
entry of the table are added up before they are multiplied. An entry that is looked up ten times is
then multiplied once. This pays if the vocabulary is small and the texts are long, as with
characters, bytes and positions. Half precision is left as it is, because sums of its rows would be
rounded one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

FEWEST = 2
"""The pass applies from this many rows per entry of the table on: rows are cheaper to move than to
multiply, but not free."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows [n, K] looked up in a table [V, K], by indices [n]."""

    table: Value
    indices: Value
    merged: tuple[Node, ...]


def multiply_tables(graph: Graph) -> Graph:
    """The same network with fewer rows to multiply."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    match node.operator.name:
        case "matmul" if not node.attributes.get("dtype"):  # its sums have the factors' type
            found = _looked_up_product(rewriter, node) or _transposed_product(rewriter, node)
        case "scatter_nd":
            found = _scattered_product(rewriter, node)
        case _:
            return None
    return None if found is None else (found,)


def _looked_up_product(rewriter: GraphRewriter, node: Node) -> Value | None:
    """gather(E, i) @ W"""
    left, right = node.inputs
    rows = _rows(rewriter, left) if right.type.rank == 2 else None
    if rows is None:
        return None
    small = rewriter.emit("matmul", rows.table, right)
    shape = left.type.shape[:-1]
    indices = _reshaped(rewriter, rows.indices, shape)
    return rewriter.emit("gather", small, indices, merged=rows.merged, axis=0)


def _transposed_product(rewriter: GraphRewriter, node: Node) -> Value | None:
    """transpose(gather(E, i)) @ G"""
    left, right = node.inputs
    transposed = rewriter.producer(left, "transpose")
    if transposed is None or left.type.rank != 2 or right.type.rank != 2:
        return None
    rows = _rows(rewriter, transposed.inputs[0])
    if rows is None:
        return None
    added = _added_up(rewriter, rows.table.type.shape[0], rows.indices, right)
    table = rewriter.emit("transpose", rows.table, permutation=(1, 0))
    return rewriter.emit("matmul", table, added, merged=rows.merged)


def _scattered_product(rewriter: GraphRewriter, node: Node) -> Value | None:
    """scatter_add(i, G @ W), into zeros"""
    zeros, places, updates = node.inputs
    full = rewriter.producer(zeros, "full")
    if full is None or full.attributes["value"] != 0 or node.attributes["reduction"] != "add":
        return None
    if zeros.type.rank != 2 or places.type.shape[-1] != 1 or zeros.type.dtype not in (f32, f64):
        return None
    shape = updates.type.shape[:-1]
    if not _pays(zeros.type.shape[0], shape):
        return None
    indices = _reshaped(rewriter, places, shape)
    # The rows in the order in which the product has them.
    merged: list[Node] = []
    while (view := rewriter.producer(updates)) is not None and _keeps_rows(view):
        if view.operator.name == "transpose":
            axes = view.attributes["permutation"][:-1]
            back = tuple(axes.index(axis) for axis in range(len(axes)))
            indices = rewriter.emit("transpose", indices, permutation=back)
        updates = view.inputs[0]
        indices = _reshaped(rewriter, indices, updates.type.shape[:-1])
        merged.append(view)
    matmul = rewriter.producer(updates, "matmul")
    if matmul is None or matmul.inputs[1].type.rank != 2 or matmul.attributes.get("dtype"):
        return None
    factor, weights = matmul.inputs
    count = product(updates.type.shape[:-1])
    flat = _reshaped(rewriter, factor, (count, factor.type.shape[-1]))
    indices = _reshaped(rewriter, indices, (count,))
    added = _added_up(rewriter, zeros.type.shape[0], indices, flat)
    return rewriter.emit("matmul", added, weights, merged=(*merged, matmul))


def _rows(rewriter: GraphRewriter, value: Value) -> _Rows | None:
    """How a value's rows are looked up in a table; None if they are not, or if it does not pay."""
    views: list[Node] = []
    base = value
    while (view := rewriter.producer(base)) is not None and _keeps_rows(view):
        views.append(view)
        base = view.inputs[0]
    gather = rewriter.producer(base, "gather")
    if gather is None or gather.attributes["axis"] != 0:
        return None
    table, indices = gather.inputs
    if table.type.rank != 2 or table.type.dtype not in (f32, f64):
        return None
    if not _pays(table.type.shape[0], indices.type.shape):
        return None
    for view in reversed(views):
        if view.operator.name == "transpose":
            axes = view.attributes["permutation"][:-1]
            indices = rewriter.emit("transpose", indices, permutation=axes)
        else:
            indices = _reshaped(rewriter, indices, view.output.type.shape[:-1])
    indices = _reshaped(rewriter, indices, (product(indices.type.shape),))
    return _Rows(table, indices, (*views, gather))


def _keeps_rows(node: Node) -> bool:
    """Whether a view moves whole rows, runs of the last axis."""
    if node.operator.name == "transpose":
        permutation = node.attributes["permutation"]
        return len(permutation) > 1 and bool(permutation[-1] == len(permutation) - 1)
    if node.operator.name != "reshape":
        return False
    before, after = node.inputs[0].type.shape, node.output.type.shape
    return bool(before) and bool(after) and before[-1] == after[-1]


def _pays(entries: Size, rows: Sequence[Size]) -> bool:
    count = product(rows)
    if not isinstance(entries, int) or not isinstance(count, int):
        return False
    return count >= FEWEST * entries


def _added_up(rewriter: GraphRewriter, entries: Size, indices: Value, rows: Value) -> Value:
    """[entries, N]: the sums of the rows [n, N] that have the same index."""
    shape = (entries, rows.type.shape[-1])
    zeros = rewriter.emit("full", shape=shape, value=0, dtype=rows.type.dtype)
    places = _reshaped(rewriter, indices, (*indices.type.shape, 1))
    return rewriter.emit("scatter_nd", zeros, places, rows, reduction="add")


def _reshaped(rewriter: GraphRewriter, value: Value, shape: Sequence[Size]) -> Value:
    if value.type.shape == tuple(shape):
        return value
    return rewriter.emit("reshape", value, shape=tuple(shape))
