"""Sums up the cotangents of values that a loop captures, over its iterations.

What an iteration adds is often a scatter into zeros, if the loop gathers one row of a table for
example. A dense addition would touch the whole table in each iteration. Instead, the backward loop
collects the rows and their places, and one scatter after it adds all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ops.composite.composite import reshape, transpose

_SCATTERS = ("scatter_nd", "scatter_elements")
_VIEWS = ("transpose", "reshape")


@dataclass(frozen=True, eq=False)
class Scattered:
    """A scatter into zeros, and the transposes and reshapes between it and the sum, the last one
    first."""

    node: Node
    views: tuple[Node, ...]

    @property
    def parts(self) -> tuple[Value, Value]:
        """What an iteration collects: the indices and the updates."""
        return self.node.inputs[1], self.node.inputs[2]

    def added_to(self, b: GraphBuilder, total: Value, indices: Value, updates: Value) -> Value:
        """The sum `total` plus the entries of all iterations, which were collected along a new
        first axis."""
        given = dict(self.node.attributes)
        if self.node.operator.name == "scatter_elements":
            indices, updates = (_joined(b, x, given["axis"]) for x in (indices, updates))
        for view in self.views:
            total = _undone(b, view, total)
        total = b.apply(self.node.operator.name, total, indices, updates, **given)
        for view in reversed(self.views):
            total = b.apply(view.operator.name, total, **view.attributes)
        return total


def _undone(b: GraphBuilder, view: Node, x: Value) -> Value:
    if view.operator.name == "reshape":
        return reshape(b, x, view.inputs[0].type.shape)
    permutation = view.attributes["permutation"]
    return transpose(b, x, sorted(range(len(permutation)), key=permutation.__getitem__))


def _joined(b: GraphBuilder, x: Value, axis: int) -> Value:
    """[T, ..., n, ...] as [..., T n, ...]: only the entries along this axis are counted by a
    scatter."""
    rank = x.type.rank
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
    moved = transpose(b, x, order)
    shape = list(moved.type.shape)
    shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    return reshape(b, moved, shape)


def scattered_parts(b: GraphBuilder, cotangent: Value) -> tuple[list[Value], list[Scattered]]:
    """The summands of a cotangent: values, and scatters into zeros whose parts are smaller than the
    cotangent.

    What is collected may only contain symbols of the builder's inputs, because it must have one
    size in all iterations.
    """
    known = _symbols(b.inputs)
    makers = {output: node for node in b.nodes for output in node.outputs}
    dense: list[Value] = []
    scattered: list[Scattered] = []
    open_values = [cotangent]
    while open_values:
        value = open_values.pop()
        node = makers.get(value)
        if node is not None and node.operator.name == "add":
            open_values += reversed(node.inputs)
        elif (found := _scatter(makers, value)) and _is_small(found, known):
            scattered.append(found)
        else:
            dense.append(value)
    return dense, scattered


def _scatter(makers: Mapping[Value, Node], value: Value) -> Scattered | None:
    node, views = _behind_views(makers, value)
    if node is None or node.operator.name not in _SCATTERS:
        return None
    base, _ = _behind_views(makers, node.inputs[0])
    is_zero = base is not None and base.operator.name == "full" and base.attributes["value"] == 0
    is_sum = node.attributes.get("reduction", "none") == "add"
    return Scattered(node, views) if is_zero and is_sum else None


def _behind_views(
    makers: Mapping[Value, Node], value: Value
) -> tuple[Node | None, tuple[Node, ...]]:
    views: list[Node] = []
    while (node := makers.get(value)) is not None and node.operator.name in _VIEWS:
        views.append(node)
        value = node.inputs[0]
    return node, tuple(views)


def _is_small(scattered: Scattered, known: set[str]) -> bool:
    if not _symbols(scattered.parts) <= known:
        return False
    size, whole = (value.type.numel for value in (scattered.parts[1], scattered.node.outputs[0]))
    return not (isinstance(size, int) and isinstance(whole, int)) or size < whole


def _symbols(values: Sequence[Value]) -> set[str]:
    return {name for value in values for size in value.type.shape for name in symbol_names(size)}
