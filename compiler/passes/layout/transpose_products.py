"""Computes the transpose of a matrix product, if that is what its readers need.

    %2 = transpose(%x, permutation=(0, 2, 1))
    %3 = matmul(%2, %y)
    %4 = transpose(%3, permutation=(0, 2, 1))        becomes       matmul(transpose(%y), %x)

Differentiation writes the gradient of keys, which a product has read transposed, in this form.
Either way one operand is read across its rows, but then the readers need not transpose the result.
In a product with a depth of one, such as the gradient of a weight for a single sample, both
operands stay as they are. The gradient of a weight that is used several times is a sum of such
products, all of which are transposed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions


def transpose_products(graph: Graph) -> Graph:
    """The same network with such products transposed, also inside of regions."""
    nodes = tuple(map_regions(node, transpose_products) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    producers = graph.producers()
    chosen = _chosen(graph, producers)
    rewriter = GraphRewriter(graph)
    turned: dict[Value, Value] = {}
    for node in graph.nodes:
        if not chosen.isdisjoint(node.outputs):
            rewriter.sources = node.sources
            turned[node.output] = _transposed(rewriter, node, producers, turned)
        elif node.inputs and node.inputs[0] in turned:
            rewriter.sources = node.sources
            product = turned[node.inputs[0]]
            order = tuple(map(_swapped(product).__getitem__, node.attributes["permutation"]))
            is_same = order == tuple(range(len(order)))
            moved = product if is_same else rewriter.emit("transpose", product, permutation=order)
            rewriter.stand(node.output, moved)
        else:
            rewriter.visit(node)
    return rewriter.finish()


def _chosen(graph: Graph, producers: Mapping[Value, Node]) -> set[Value]:
    """The products, and the sums of products, to transpose: all readers need neighbours along the
    columns, and none needs neighbours along the rows."""
    users = graph.users()
    chosen: set[Value] = set()
    for node in graph.nodes:
        if node.operator.name not in ("matmul", "add") or node.output in graph.outputs:
            continue
        rank, readers = node.output.type.rank, users.get(node.output, ())
        is_read_across = bool(readers) and all(
            user.operator.name == "transpose" and user.attributes["permutation"][-1] == rank - 2
            for user in readers
        )
        if is_read_across and (whole := _summed(node, graph, users, producers)):
            products = [each for each in whole if each.operator.name == "matmul"]
            if all(_may_transpose(product, producers, chosen) for product in products):
                chosen.update(each.output for each in whole)
    return chosen


def _summed(
    node: Node, graph: Graph, users: Mapping[Value, Sequence[Node]], producers: Mapping[Value, Node]
) -> list[Node]:
    """A product by itself, or a sum with all sums and products in it, which nothing else reads;
    nothing if other values are added, too."""
    found, waiting = [], [node]
    while waiting:
        each = waiting.pop()
        found.append(each)
        if each.operator.name == "matmul":
            continue
        for value in each.inputs:
            part = producers.get(value)
            if part is None or part.operator.name not in ("matmul", "add"):
                return []
            if value.type.shape != node.output.type.shape:
                return []
            if len(users[value]) > 1 or value in graph.outputs:
                return []
            waiting.append(part)
    return found


def _may_transpose(node: Node, producers: Mapping[Value, Node], turned: Collection[Value]) -> bool:
    """Whether a product is of a transposed matrix or a column. The transpose of a product that is
    `turned` itself costs nothing, and that of a row is a view."""
    left, right = node.inputs
    if left.type.rank > 1 and left.type.shape[-2] == 1:
        return False
    across = _axes_across(left, producers)
    if not _is_column(left) and (across is None or across.inputs[0] in turned):
        return False
    return left.type.shape[:-2] == right.type.shape[:-2] and left.type.dtype == right.type.dtype


def _transposed(
    rewriter: GraphRewriter,
    node: Node,
    producers: Mapping[Value, Node],
    turned: Mapping[Value, Value],
) -> Value:
    left, right = node.inputs
    if node.operator.name == "add":
        return rewriter.emit("add", turned[left], turned[right])
    x, y = _now_transposed(rewriter, left, producers), rewriter.now(right)
    across = rewriter.emit("transpose", y, permutation=_swapped(y))
    return rewriter.emit("matmul", across, x, **node.attributes)


def _axes_across(left: Value, producers: Mapping[Value, Node]) -> Node | None:
    """The transpose that moves apart the neighbours along a matrix's last axis. Its output is the
    matrix, or an array whose axes except the last are merged in the matrix."""
    before = producers.get(left)
    if before is not None and before.operator.name == "transpose":
        return before if before.attributes["permutation"] == _swapped(left) else None
    if before is None or before.operator.name != "reshape" or left.type.rank != 2:
        return None
    moved = producers.get(before.inputs[0])
    if moved is None or moved.operator.name != "transpose":
        return None
    order, shape = moved.attributes["permutation"], moved.output.type.shape
    return moved if shape[-1] == left.type.shape[-1] and order[-1] == 0 else None


def _now_transposed(rewriter: GraphRewriter, left: Value, producers: Mapping[Value, Node]) -> Value:
    """The transpose of a left operand, which often exists already."""
    across = _axes_across(left, producers)
    if across is None:
        return rewriter.emit("transpose", rewriter.now(left), permutation=_swapped(left))
    given, order = rewriter.now(across.inputs[0]), across.attributes["permutation"]
    if across.output is left:
        return given
    order = (order[-1], *order[:-1])
    if order != tuple(range(len(order))):
        given = rewriter.emit("transpose", given, permutation=order)
    return rewriter.emit("reshape", given, shape=(left.type.shape[1], left.type.shape[0]))


def _is_column(left: Value) -> bool:
    """Whether a product with it has a depth of one, so that its transpose is a view."""
    return left.type.rank > 1 and left.type.shape[-1] == 1


def _swapped(value: Value) -> tuple[int, ...]:
    """The order of a value's axes with the last two exchanged."""
    rank = value.type.rank
    return (*range(rank - 2), rank - 1, rank - 2)
