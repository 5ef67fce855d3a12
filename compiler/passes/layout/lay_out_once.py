"""Writes a transposed value to memory once, if readers need it in several shapes.

    %2 = transpose(%1, permutation=(0, 2, 1, 3))
    %3 = reshape(%2, shape=(8, 128, 256))           a product's rows, in the forward half
    %4 = reshape(%2, shape=(1024, 256))             the same rows, for the gradient of its weights

becomes %4 = reshape(%3, shape=(1024, 256)). The kernel that computes %1 then writes %3 directly, in
the order in which both are read. Otherwise each of them would be a copy of %1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions


def lay_out_once(graph: Graph) -> Graph:
    """The same network with one of the shapes made from another, also inside of regions."""
    nodes = tuple(map_regions(node, lay_out_once) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    users, producers = graph.users(), graph.producers()
    firsts: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.operator.name == "transpose" and node.output not in graph.outputs:
            first = _first_of_several(node, users, producers)
            if first is not None:
                firsts[node.output] = first
    rewriter = GraphRewriter(graph)
    made: dict[Value, Value] = {}
    for node in graph.nodes:
        moved = node.inputs[0] if node.inputs else None
        if moved not in firsts:
            rewriter.visit(node)
            continue
        if moved not in made:
            first = firsts[moved]
            rewriter.sources = first.sources
            made[moved] = rewriter.emit(
                "reshape", rewriter.now(moved), shape=first.output.type.shape
            )
        rewriter.sources = node.sources
        if node is firsts[moved]:
            rewriter.stand(node.output, made[moved])
        else:
            shape = node.output.type.shape
            rewriter.stand(node.output, rewriter.emit("reshape", made[moved], shape=shape))
    return rewriter.finish()


def _first_of_several(
    transpose: Node, users: Mapping[Value, Sequence[Node]], producers: Mapping[Value, Node]
) -> Node | None:
    """Of several reshapes, the one that a product reads row by row; None if anything else reads the
    transposed value or the value before it."""
    (source,) = transpose.inputs
    readers = users.get(transpose.output, ())
    maker = producers.get(source)
    if maker is None or maker.operator.is_view or len(users[source]) != 1 or len(readers) < 2:
        return None
    if any(reader.operator.name != "reshape" for reader in readers):
        return None
    for reader in readers:
        for user in users.get(reader.output, ()):
            if user.operator.name == "matmul" and user.inputs[0] is reader.output:
                return reader
    return None
