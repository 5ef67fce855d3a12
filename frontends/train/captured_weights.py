"""Weights that branches and loops read from outside, as the values outside that gradients reach.

The reader copies a constant into every region that reads it. A parameter has to come in through
the inputs of the node and of the region, as all else does that a region captures. Copies have the
very array: a constant of the region's own may have the same name.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array


def region_constants(node: Node) -> Iterator[tuple[Value, Array]]:
    """The constants of a node's regions, and of those inside of them."""
    for region in node.regions:
        yield from region.constants.items()
        for inner in region.nodes:
            yield from region_constants(inner)


def with_captures(graph: Graph, names: Container[str]) -> Graph:
    """The graph with constants of these names only outside; regions capture them."""
    arrays = {value.name: array for value, array in graph.constants.items() if value.name in names}
    outside = {value.name: value for value in graph.constants if value.name in names}
    return replace(graph, nodes=tuple(_capturing(node, outside, arrays) for node in graph.nodes))


def _capturing(node: Node, outside: Mapping[str, Value], arrays: Mapping[str, Array]) -> Node:
    inside = {v.name for v, array in region_constants(node) if array is arrays.get(v.name)}
    captured = {name: value for name, value in outside.items() if name in inside}
    if not captured:
        return node
    regions = tuple(_with_inputs(region, captured, arrays) for region in node.regions)
    return replace(node, inputs=(*node.inputs, *captured.values()), regions=regions)


def _with_inputs(
    region: Graph, captured: Mapping[str, Value], arrays: Mapping[str, Array]
) -> Graph:
    """The region with these as its last inputs, in place of its copies of their arrays."""
    inputs = {name: Value(value.type, name) for name, value in captured.items()}
    stands = {
        value: inputs[value.name]
        for value, array in region.constants.items()
        if value.name in inputs and array is arrays[value.name]
    }
    nodes = [
        replace(node, inputs=tuple(stands.get(value, value) for value in node.inputs))
        for node in region.nodes
    ]
    return replace(
        region,
        inputs=(*region.inputs, *inputs.values()),
        outputs=tuple(stands.get(value, value) for value in region.outputs),
        nodes=tuple(_capturing(node, inputs, arrays) for node in nodes),
        constants={v: array for v, array in region.constants.items() if v not in stands},
    )
