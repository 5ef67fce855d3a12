"""Finds nodes that may write over their first input, so that it need not be copied.

rows' = scatter_nd(rows, at, row)     rows is carried by a loop: an iteration writes one row
keys' = tensor_scatter(keys, at, key) keys is an input, keys' an output: the caller may pass one
                                      array for both, and a step of a decoder writes one key;
                                      if keys' may be larger, this is so where it is not
b = scatter_nd(a, at, row)            a is computed: b takes its place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.order_nodes import ancestors
from bessemer.compiler.ir.program import Alias, Copy, Step
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.lowering.lower_elements import lower_elements
from bessemer.compiler.schedule.lowering.lowering import Lowering


def with_updates(graph: Graph) -> Graph:
    """The graph with `updates` for outputs that are inputs written over, unless it already has
    updates."""
    if graph.updates:
        return graph
    producers, users = graph.producers(), graph.users()
    found: dict[int, int] = {}
    for position, value in enumerate(graph.outputs):
        node = producers.get(value)
        if node is None or graph.outputs.count(value) > 1 or not _may_update(node, users, graph):
            continue
        is_known = set().union(*map(symbol_names, value.type.shape)) <= set(graph.symbols)
        if node.inputs[0] in graph.inputs and is_known:
            found[position] = graph.inputs.index(node.inputs[0])
    return replace(graph, updates=tuple(found.items())) if found else graph


def copied_first(graph: Graph) -> list[Node]:
    """The nodes of a whole graph whose output begins as a copy of their first input. The memory
    plan or the caller may put both in the same place, and then nothing is copied."""
    producers, users = graph.producers(), graph.users()
    updated = {graph.outputs[output] for output, _ in graph.updates}
    return [
        node
        for node in graph.nodes
        if _may_update(node, users, graph)
        and (node.output in updated or _is_computed(node, producers, graph))
    ]


def begun(node: Node, first: type[Alias | Copy], lowering: Lowering) -> Step:
    """The step that initializes the output of such a node with its first input: an alias or a copy,
    as `first` says, or a launch that also pads with zeros if the output may be larger."""
    source, target = node.inputs[0], node.output
    if _keeps_type(node):
        return first(source, target)
    pairs = zip(source.type.shape, target.type.shape, strict=True)
    attributes = {
        "low": (0,) * source.type.rank,
        "high": tuple(wide - size for size, wide in pairs),
        "mode": "constant",
        "value": 0,
    }
    pad = Node(OPS["pad"], (source,), (target,), attributes, sources=node.sources)
    (launch,) = lower_elements(Group(target, nodes=[pad]), lowering)
    lowering.origins.pieces.pop(
        target, None
    )  # what the target holds in the end is another launch's
    return replace(launch, unless_in=source)


def carried_over(
    graph: Graph, results: Sequence[Value], places: Sequence[Value]
) -> list[list[Node]]:
    """For each value that a loop carries, the nodes of the body that make its new value by writing
    over it. Empty if other nodes are needed for that, too. `places` are the values at the start of
    the body."""
    producers, users = graph.producers(), graph.users()
    found: list[list[Node]] = []
    for result, place in zip(results, places, strict=True):
        nodes: list[Node] = []
        value = result
        while value is not place:
            node = producers.get(value)
            if node is None or not (_is_free(node, users, graph) and _keeps_type(node)):
                nodes = []
                break
            nodes.append(node)
            value = node.inputs[0]
        found.append(nodes)
    return found


def _is_free(node: Node, users: Mapping[Value, Sequence[Node]], graph: Graph) -> bool:
    """Whether a node can write over its first input because nothing else needs it."""
    return (
        node.operator.over is not None
        and len(users[node.inputs[0]]) == 1
        and node.inputs[0] not in graph.outputs
    )


def _may_update(node: Node, users: Mapping[Value, Sequence[Node]], graph: Graph) -> bool:
    """The same for a node of a whole graph, whose input may also be read by what the node is
    computed from, if an output takes the input's place: order_updates.py makes all other readers
    run first."""
    first = node.inputs[0] if node.operator.over is not None else None
    if first is None or first not in graph.inputs or node.output not in graph.outputs:
        return _is_free(node, users, graph)
    others = {reader for reader in users[first] if reader is not node}
    is_alone = first not in graph.outputs and node.inputs.count(first) == 1
    return is_alone and others <= ancestors(graph, node)


def _is_computed(node: Node, producers: Mapping[Value, Node], graph: Graph) -> bool:
    """Whether a node's first input and its output are both in the arena."""
    maker = producers.get(node.inputs[0])
    if maker is None or (maker.operator.is_view and maker.inputs) or maker.regions:
        return False
    return _keeps_type(node) and node.output not in graph.outputs


def _keeps_type(node: Node) -> bool:
    return node.inputs[0].type == node.output.type
