"""Searches for the order in which each value of a graph is best stored, for move_transposes.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.passes.layout.axis_orders import (
    Order,
    given_order,
    identity,
    is_flexible,
    is_unit_reshape,
    key,
    wanted_order,
    with_units,
)

SWEEPS = 3
TYPICAL_SIZE = 8
"""What a symbol counts as when transposes are compared."""

Demand: TypeAlias = tuple[Value, Order]
"""A stored value and the key of an order in which it is read."""


def follows_freely(node: Node) -> bool:
    """Whether a node's output can be read in any order if its input is read in the corresponding
    one."""
    name = node.operator.name
    return name in ("transpose", "broadcast_to", "full", "iota") or is_unit_reshape(node)


def behind(node: Node, order: Order) -> Order:
    """The order in which the input of a transpose, broadcast or unit reshape is read, if its output
    is read in `order`."""
    match node.operator.name:
        case "transpose":
            return tuple(node.attributes["permutation"][axis] for axis in order)
        case "broadcast_to":
            extra = node.output.type.rank - node.inputs[0].type.rank
            return tuple(axis - extra for axis in order if axis >= extra)
        case _:
            found = wanted_order(node, None, order)
            assert found is not None  # a unit reshape can be made in every order
            return found


def before(node: Node, order: Order) -> Order:
    """The order of the output of such a node whose input is stored in `order`."""
    match node.operator.name:
        case "transpose":
            permutation = node.attributes["permutation"]
            return tuple(permutation.index(axis) for axis in order)
        case "broadcast_to":
            extra = node.output.type.rank - node.inputs[0].type.rank
            return (*range(extra), *(axis + extra for axis in order))
        case _:
            found = given_order(node, order)
            assert found is not None
            return found


class OrderSearch:
    """Orders for the outputs of flexible nodes, and their cost, which is the bytes that are
    transposed."""

    def __init__(self, graph: Graph) -> None:
        self.constants = graph.constants
        self.producers = graph.producers()
        self.variables = [
            node for node in graph.nodes if is_flexible(node) and not follows_freely(node)
        ]
        self.orders: dict[Value, Order] = {
            node.output: identity(node.output.type.rank) for node in self.variables
        }
        self.cost = 0
        self._demands: dict[Value, Counter[Order]] = {}
        self._bytes: dict[Value, int] = {}
        self._keys: dict[Value, Order] = {}
        self._bases: dict[tuple[Value, Order], Demand | None] = {}
        self._readers: dict[Value, list[Node]] = {value: [] for value in self.orders}
        self._demand_all(graph)

    def _demand_all(self, graph: Graph) -> None:
        """Counts the orders in which values are read at the start. Those of rigid nodes never
        change."""
        flexible = set(self.variables)
        for value in graph.outputs:
            self._change(self.base(value, identity(value.type.rank)), 1)
        for node in graph.nodes:
            if node in flexible:
                self._count(node, 1)
                for value in node.inputs:
                    base = self.base(value, identity(value.type.rank))
                    if base is not None and base[0] in self._readers:
                        self._readers[base[0]].append(node)
            elif not follows_freely(node):
                for value in node.inputs:
                    self._change(self.base(value, identity(value.type.rank)), 1)

    # What is read

    def base(self, value: Value, order: Order) -> Demand | None:
        """The stored value of which `value` in `order` is a view, and the order of that value.

        None for constants and for values that need no memory: any order of these is free.
        """
        start = (value, order)
        if start not in self._bases:
            while (node := self.producers.get(value)) is not None and follows_freely(node):
                if not node.inputs:
                    break
                order = behind(node, order)
                value = node.inputs[0]
            free = value in self.constants or (node is not None and follows_freely(node))
            self._bases[start] = None if free else (value, key(value.type, order))
        return self._bases[start]

    def order_at_hand(self, value: Value) -> Order | None:
        """The order in which a value can be read without a copy; None if that is true of all
        orders."""
        node = self.producers.get(value)
        if value in self.constants:
            return None
        if node is None or not follows_freely(node):
            return self.orders.get(value, identity(value.type.rank))
        inner = self.order_at_hand(node.inputs[0]) if node.inputs else None
        return None if inner is None else before(node, inner)

    def taken_order(self, node: Node, position: int) -> Order:
        """The order in which a flexible node reads an operand, given the order of its output."""
        have = self.order_at_hand(node.inputs[position]) if len(node.inputs) == 1 else None
        found = wanted_order(node, have, self.orders[node.output])
        assert found is not None  # no other order is ever given to a value
        return found

    def _count(self, node: Node, change: int) -> None:
        for position, value in enumerate(node.inputs):
            self._change(self.base(value, self.taken_order(node, position)), change)

    def _change(self, demand: Demand | None, change: int) -> None:
        if demand is None:
            return
        value, order = demand
        counts = self._demands.setdefault(value, Counter())
        was_read = order in counts
        counts[order] += change
        if not counts[order]:
            del counts[order]
        is_read = order in counts
        if was_read != is_read and order != self._own(value):
            self.cost += self._size(value) if is_read else -self._size(value)

    def _own(self, value: Value) -> Order:
        """The key of the order that a value is stored in."""
        if value not in self._keys:
            order = self.orders.get(value, identity(value.type.rank))
            self._keys[value] = key(value.type, order)
        return self._keys[value]

    def _cost_of(self, value: Value) -> int:
        """The bytes that are moved to store a value in the other orders in which it is read."""
        own = self._own(value)
        return self._size(value) * sum(order != own for order in self._demands.get(value, ()))

    def _size(self, value: Value) -> int:
        if value not in self._bytes:
            self._bytes[value] = max(evaluate(value.type.nbytes, lambda _: TYPICAL_SIZE), 1)
        return self._bytes[value]

    # The search

    def run(self) -> bool:
        """Searches for orders with a lower cost; returns whether it found any."""
        start, kept = self.cost, dict(self.orders)
        found = [kept]
        # There are three starts: the graph as it is, and with all transposes pushed down or pulled
        # up at any cost. A transpose may have to pass a pad, which makes the value larger, first.
        for push in (None, self._sweep_down, self._sweep_up):
            self._set_all(kept)
            if push is not None:
                push(at_any_price=True)
            found.append(self._descend())
        self._set_all(kept)
        self._choose(found)
        return self.cost < start

    def _descend(self) -> dict[Value, Order]:
        """The best orders found while sweeping down and up."""
        best, orders = self.cost, dict(self.orders)
        for _ in range(SWEEPS):
            cost = self.cost
            self._sweep_down()
            self._sweep_up()
            if self.cost < best:
                best, orders = self.cost, dict(self.orders)
            if self.cost == cost:
                break
        return orders

    def _sweep_down(self, at_any_price: bool = False) -> None:
        """Tries for every value the orders that follow from its operands'."""
        for node in self.variables:
            for value in node.inputs:
                have = self.order_at_hand(value)
                given = None if have is None else given_order(node, have)
                if given is not None:
                    self._offer(node, given, at_any_price)

    def _sweep_up(self, at_any_price: bool = False) -> None:
        """Tries for every value the orders in which it is read."""
        for node in reversed(self.variables):
            for order in list(self._demands.get(node.output, ())):
                offered = with_units(node.output.type, order)
                if wanted_order(node, None, offered) is not None:
                    self._offer(node, offered, at_any_price)

    def _offer(self, node: Node, order: Order, at_any_price: bool) -> None:
        """Gives a node's output an order, if that does not raise the cost."""
        value = node.output
        before, cost = self.orders[value], self.cost
        if key(value.type, before) == key(value.type, order):
            return
        if at_any_price and key(value.type, order) == key(value.type, identity(value.type.rank)):
            return
        self._set(value, order)
        if self.cost > cost and not at_any_price:
            self._set(value, before)

    def _set(self, value: Value, order: Order) -> None:
        touched = [self.producers[value], *self._readers[value]]
        for node in touched:
            self._count(node, -1)
        self.cost -= self._cost_of(value)
        self.orders[value] = order
        del self._keys[value]
        self.cost += self._cost_of(value)
        for node in touched:
            self._count(node, 1)

    def _set_all(self, orders: Mapping[Value, Order]) -> None:
        for value, order in orders.items():
            if self.orders[value] != order:
                self._set(value, order)

    def _choose(self, found: list[dict[Value, Order]]) -> None:
        """Gives each connected part of the graph the first of the best orders found for it."""
        for part in self._parts():
            best, orders = self.cost, {value: self.orders[value] for value in part}
            for candidate in found:
                self._set_all({value: candidate[value] for value in part})
                if self.cost < best:
                    best, orders = self.cost, {value: candidate[value] for value in part}
            self._set_all(orders)

    def _parts(self) -> list[set[Value]]:
        """The sets of values whose orders depend on each other."""
        part_of = {value: {value} for value in self.orders}
        for value, readers in self._readers.items():
            for reader in readers:
                small, large = sorted((part_of[value], part_of[reader.output]), key=len)
                if small is not large:
                    large |= small
                    part_of |= dict.fromkeys(small, large)
        return list({id(part): part for part in part_of.values()}.values())
