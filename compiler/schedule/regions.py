"""Turns the regions of a graph into steps of the program around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.program import Copy, Step


def inlined(region: Graph, values: Mapping[Value, Value]) -> Graph:
    """A region as a graph whose inputs are values of the graph around it."""
    nodes = tuple(
        replace(node, inputs=tuple(values.get(v, v) for v in node.inputs)) for node in region.nodes
    )
    outputs = tuple(values.get(v, v) for v in region.outputs)
    return replace(region, inputs=tuple(values.values()), outputs=outputs, nodes=nodes)


def copies_between(new: Sequence[Value], places: Sequence[Value]) -> list[Step]:
    """The copies of new carried values to their places. Values that are swapped are copied
    elsewhere first."""
    first: list[Step] = []
    second: list[Step] = []
    for source, place in zip(new, places, strict=True):
        if source is place:
            continue
        if source in places:
            between = Value(source.type)
            first.append(Copy(source, between))
            second.append(Copy(between, place))
        else:
            second.append(Copy(source, place))
    return [*first, *second]
