"""Rebuilds a graph with its values in the memory orders that were found for them (see
order_search.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.passes.layout.axis_orders import (
    Order,
    channels_first,
    given_order,
    identity,
    key,
    makes_planes,
    ordered_attributes,
    permuted,
    pools_planes,
)
from bessemer.compiler.passes.layout.order_search import OrderSearch, behind, follows_freely
from bessemer.compiler.passes.layout.planes import Planes


def apply_orders(graph: Graph, search: OrderSearch) -> Graph:
    """The graph in which every flexible node computes its output in the order that was found.

    Transposes, broadcasts and the like are written anew in front of their readers.
    """
    return _Application(graph, search).run()


class _Application:
    def __init__(self, graph: Graph, search: OrderSearch) -> None:
        self.graph = graph
        self.search = search
        self.rewriter = GraphRewriter(graph)
        self.planes = Planes(self.rewriter)
        self.flexible = set(search.variables)
        self.stored: dict[Value, tuple[Value, Order]] = {}  # the new value, and its order
        self.made: dict[tuple[Value, Order], Value] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if node in self.flexible:
                self._flexible(node)
            elif not follows_freely(node):
                self._rigid(node)
        for value in self.graph.outputs:
            self.rewriter.stand(value, self.obtain(value, identity(value.type.rank)))
        return self.rewriter.finish()

    def _rigid(self, node: Node) -> None:
        self.rewriter.sources = node.sources
        for value in node.inputs:
            self.rewriter.stand(value, self.obtain(value, identity(value.type.rank)))
        self.rewriter.visit(node)

    def _flexible(self, node: Node) -> None:
        value, out = node.output, self.search.orders[node.output]
        self.rewriter.sources = node.sources
        taken = [self.search.taken_order(node, at) for at in range(len(node.inputs))]
        inputs = [self.obtain(v, order) for v, order in zip(node.inputs, taken)]
        if pools_planes(node, taken[0]):
            # An operand whose axes of size 1 are broadcast is in several orders, its output in one.
            out = taken[0]
        elif node.operator.name == "conv":
            out = channels_first(len(out)) if makes_planes(node, out) else identity(len(out))
        elif node.operator.name != "reshape":
            # A reduction's operand may be in an order that gives `out` up to axes of size 1.
            given = given_order(node, taken[0])
            assert given is not None
            out = given
        if out == identity(value.type.rank) and all(
            a is b for a, b in zip(inputs, node.inputs, strict=True)
        ):
            self.rewriter.append(node)
            return
        attributes = ordered_attributes(node, taken[0], out)
        if pools_planes(node, out):
            new = self._pool_planes(node, inputs[0])
        elif makes_planes(node, out):
            new = self.planes.multiply(node, *inputs)
        else:
            new = self.planes.pointwise(node, inputs) or self._emitted(node, inputs, attributes)
        if out == identity(value.type.rank):
            self.rewriter.stand(value, new)
        self.stored[value] = (new, out)

    def _emitted(self, node: Node, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
        return self.rewriter.emit_many(node.operator.name, inputs, attributes)[0]

    def _pool_planes(self, node: Node, x: Value) -> Value:
        """A pool of [N, C, *spatial] as one of [N * C, *spatial, 1]."""
        samples, channels, *spatial = x.type.shape
        planes = self.rewriter.emit("reshape", x, shape=(samples * channels, *spatial, 1))
        pooled = self.rewriter.emit(node.operator.name, planes, **node.attributes)
        shape = (samples, channels, *pooled.type.shape[1:-1])
        return self.rewriter.emit("reshape", pooled, shape=shape)

    def obtain(self, value: Value, order: Order) -> Value:
        """The new value that equals `value` with its axes in the given order."""
        if (value, order) not in self.made:
            self.made[value, order] = self._make(value, order)
        return self.rewriter.now(self.made[value, order])

    def _make(self, value: Value, order: Order) -> Value:
        node = self.search.producers.get(value)
        array = self.graph.constants.get(value)
        if array is not None:
            if order == identity(value.type.rank):
                return value
            return self.rewriter.constant(np.transpose(array, order), value.name)
        if node is not None and follows_freely(node):
            return self._follow(node, order)
        new, stored = self._stored(value)
        if order == stored:
            return new
        if key(value.type, order) == key(value.type, stored):
            return self.rewriter.emit("reshape", new, shape=permuted(value.type.shape, order))
        permutation = tuple(stored.index(axis) for axis in order)
        return self.rewriter.emit("transpose", new, permutation=permutation)

    def _stored(self, value: Value) -> tuple[Value, Order]:
        new, order = self.stored.get(value, (value, identity(value.type.rank)))
        return self.rewriter.now(new) if value in self.stored else new, order

    def _follow(self, node: Node, order: Order) -> Value:
        """A transpose, broadcast or the like, written for one order."""
        outer, self.rewriter.sources = self.rewriter.sources, node.sources
        new = self._following(node, order)
        self.rewriter.sources = outer
        if order == identity(node.output.type.rank):
            self.rewriter.stand(node.output, new)
        return new

    def _following(self, node: Node, order: Order) -> Value:
        shape = permuted(node.output.type.shape, order)
        match node.operator.name:
            case "transpose":
                return self.obtain(node.inputs[0], behind(node, order))
            case "full":
                return self.rewriter.emit("full", **{**node.attributes, "shape": shape})
            case "iota":
                axis = order.index(node.attributes["axis"])
                attributes = {**node.attributes, "shape": shape, "axis": axis}
                return self.rewriter.emit("iota", **attributes)
            case "broadcast_to":
                return self._broadcast(node, order)
            case _:
                part = self._up_to_units(node.inputs[0], behind(node, order))
                return self._reshaped(part, shape)

    def _up_to_units(self, value: Value, order: Order) -> Value:
        """The value in an order that differs from its own only in axes of size 1."""
        new, stored = self._stored(value)
        node = self.search.producers.get(value)
        if node is not None and follows_freely(node):
            return self.obtain(value, order)
        return (
            new if key(value.type, stored) == key(value.type, order) else self.obtain(value, order)
        )

    def _broadcast(self, node: Node, order: Order) -> Value:
        (x,) = node.inputs
        extra = node.output.type.rank - x.type.rank
        shape: list[Size] = [1 if axis < extra else x.type.shape[axis - extra] for axis in order]
        while len(shape) > x.type.rank and shape[0] == 1 and order[len(order) - len(shape)] < extra:
            del shape[0]
        part = self._up_to_units(x, behind(node, order))
        return self.rewriter.emit(
            "broadcast_to",
            self._reshaped(part, tuple(shape)),
            shape=permuted(node.output.type.shape, order),
        )

    def _reshaped(self, value: Value, shape: tuple[Size, ...]) -> Value:
        if value.type.shape == shape:
            return value
        array = self.rewriter.constants.get(value)
        if array is not None:
            sizes = [size for size in shape if isinstance(size, int)]
            return self.rewriter.constant(array.reshape(sizes), value.name)
        return self.rewriter.emit("reshape", value, shape=shape)
