"""Adds up scatters in one array, where each would have one of its own.

    %3 = scatter_nd(zeros, %1, %2, reduction=add)     %3 = scatter_nd(zeros, %1, %2, reduction=add)
    %6 = scatter_nd(zeros, %4, %5, reduction=add)
    %7 = add(%3, %6)                     becomes      %7 = scatter_nd(%3, %4, %5, reduction=add)

The gradient of a table that is looked up several times is such a sum, and the array is as large as
the table. A step of gradient descent needs no such array if it moves few rows:

    %8 = sub(table, mul(rate, %3))       becomes      %8 = scatter_nd(table, %1, -(rate * %2), ...)

What is scattered into zeros also gets zeros that nobody else reads: then it is written over them
(schedule/in_place_updates.py), and they are not copied. A table that is updated is written over,
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph

_SCATTERS = ("scatter_nd", "scatter_elements")

_FEW = 4
"""Rows are few if the table is at least this many times as large. A row that comes often is moved
in as many steps, each of which is rounded; where all are in the thousands, all come often."""

_TYPICAL = 64
"""The value assumed for every symbol where sizes are compared."""


def scatter_sums(graph: Graph) -> Graph:
    """The same network with such sums; regions are left as they are."""
    once = {value for value, readers in graph.users().items() if len(readers) == 1}
    rule = _Rule(once.difference(graph.outputs))
    return rewrite_graph(graph, rule)


@dataclass(frozen=True, eq=False)
class _Rule:
    """Rewrites sums and scatters; `once` are the values that one node reads, and nobody else."""

    once: set[Value]

    def __call__(self, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        if node.operator.name == "add":
            x, y = node.inputs
            found = self._summed(rewriter, x, y) or self._summed(rewriter, y, x)
        elif node.operator.name == "sub":
            found = self._moved(rewriter, *node.inputs)
        elif node.operator.name in _SCATTERS:
            found = self._into_own_zeros(rewriter, node)
        else:
            return None
        if found is None:
            return None
        if node.output in self.once:
            self.once.add(found)
        return (found,)

    def _summed(self, rewriter: GraphRewriter, x: Value, y: Value) -> Value | None:
        """x + y, where y is scattered into zeros, and x or a summand of it is a scatter."""
        late = _scatter(rewriter, y)
        if late is None or y not in self.once or _zeros(rewriter, late) is None:
            return None
        if _scatter(rewriter, x):
            return _over(rewriter, x, late)
        inner = rewriter.producer(x, "add")
        if inner is None or x not in self.once:
            return None
        first, second = inner.inputs
        for other, early in ((first, second), (second, first)):
            if _scatter(rewriter, early):
                total = _over(rewriter, early, late)
                return rewriter.emit("add", other, total, merged=(inner,))
        return None

    def _moved(self, rewriter: GraphRewriter, table: Value, distance: Value) -> Value | None:
        """table - scalar * rows, where the rows are few and scattered into zeros."""
        product = rewriter.producer(distance, "mul")
        if product is None or distance not in self.once:
            return None
        x, y = product.inputs
        for factor, total in ((x, y), (y, x)):
            spread, late = rewriter.producer(factor, "broadcast_to"), _scatter(rewriter, total)
            if spread is None or late is None or total not in self.once:
                continue
            scalar, rows = spread.inputs[0], late.inputs[2]
            is_scalar = scalar.type.rank == 0
            if is_scalar and _zeros(rewriter, late) is not None and _are_few(rows, table):
                each = rewriter.emit("broadcast_to", scalar, shape=rows.type.shape)
                moves = rewriter.emit("neg", rewriter.emit("mul", each, rows), merged=(product,))
                return _scattered(rewriter, table, moves, late)
        return None

    def _into_own_zeros(self, rewriter: GraphRewriter, node: Node) -> Value | None:
        zeros, indices, updates = node.inputs
        full = _zeros(rewriter, node)
        if full is None or zeros in self.once:
            return None
        own = rewriter.emit("full", **full.attributes)
        self.once.add(own)
        return rewriter.emit(node.operator.name, own, indices, updates, **node.attributes)


def _over(rewriter: GraphRewriter, x: Value, late: Node) -> Value:
    return _scattered(rewriter, x, late.inputs[2], late)


def _scattered(rewriter: GraphRewriter, x: Value, updates: Value, late: Node) -> Value:
    """x with updates at the places of a scatter."""
    name, indices = late.operator.name, late.inputs[1]
    return rewriter.emit(name, x, indices, updates, merged=(late,), **late.attributes)


def _are_few(rows: Value, table: Value) -> bool:
    moved, held = (evaluate(x.type.numel, lambda _: _TYPICAL) for x in (rows, table))
    return moved * _FEW <= held


def _scatter(rewriter: GraphRewriter, value: Value) -> Node | None:
    """The scatter that makes a value, if it adds floats up."""
    node = rewriter.producer(value)
    if node is None or node.operator.name not in _SCATTERS or not value.type.dtype.is_float:
        return None
    return node if node.attributes.get("reduction") == "add" else None


def _zeros(rewriter: GraphRewriter, scatter: Node) -> Node | None:
    full = rewriter.producer(scatter.inputs[0], "full")
    return full if full is not None and full.attributes["value"] == 0 else None
