"""Decides whether a node may be computed in the group of its readers (form_groups.py)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.byte_chains import (
    looks_up,
    narrows,
    readers_across,
    stores_bytes,
)
from bessemer.compiler.schedule.grouping.columns import is_once_a_column, may_join_columns
from bessemer.compiler.schedule.grouping.destinations import fills_inside, is_of_phases
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.grouping.kinds import NOT_SAME_INDEX, Kind, is_costly, kind_of
from bessemer.compiler.schedule.grouping.moves import MOVES, keeps_columns
from bessemer.compiler.schedule.grouping.repeated_work import repeats_much
from bessemer.compiler.schedule.nests.row_shapes import (
    is_of_rows,
    is_row_reduction,
    moves_last_axis,
    picks_in_rows,
    same_leading,
    spreads_in_rows,
)

MAXIMUM_NODES = 48
MAXIMUM_OPERANDS = 24


@dataclass(frozen=True, eq=False)
class FusionRules:
    """The rules for the nodes of one graph, given the nodes that compute and read each value."""

    producers: Mapping[Value, Node]
    users: Mapping[Value, Sequence[Node]]
    outputs: Collection[Value]
    by_columns: bool = True

    def may_join(self, group: Group, node: Node, kind: Kind) -> bool:
        """Whether a node that only this group reads may become part of it: little is then computed
        twice, and the group keeps a form that its lowering knows."""
        if len(group.nodes) >= MAXIMUM_NODES or repeats_much(node, group, self.users):
            return False
        if group.root is not None and self._is_written_by_parts(self.producers[group.root]):
            return False  # its parts are written in place by kernels of their own
        turns = any(map(moves_last_axis, group.nodes))
        if narrows(node) and (group.reductions or group.heavy or (turns and self._has_sums(node))):
            return False  # bytes are the cheapest to store and to read again
        if node.output.type.numel != product(group.shape) and stores_bytes(node, self.producers):
            return False
        operands = {value for member in group.nodes for value in member.inputs}
        operands -= {value for member in group.nodes for value in member.outputs}
        if len(operands) + len(node.inputs) > MAXIMUM_OPERANDS:
            return False
        match kind:
            case "pointwise":
                return self._may_join_pointwise(group, node)
            case "reduction":
                return self._may_join_reduction(group, node)
            case "heavy":
                return (
                    not (group.heavy or group.reductions or group.anchor)
                    and group.packs is None
                    and product(group.shape) == node.output.type.numel
                    and not any(moves_last_axis(member) for member in group.nodes)
                )
            case "contraction":
                return self._may_anchor(group, node)
            case _:
                return True

    def _is_written_by_parts(self, node: Node) -> bool:
        if node.operator.name != "pad":
            return node.operator.name == "concat"
        producer = self.producers.get(node.inputs[0])
        return fills_inside(node, self.users, producer, self.outputs)

    def _may_join_pointwise(self, group: Group, node: Node) -> bool:
        numel = node.output.type.numel
        is_concat = node.operator.name == "concat"
        if is_concat and any(map(self._ends_contraction, group.nodes)):
            return False  # an epilogue does not choose among parts, one element at a time
        moves = any(map(moves_last_axis, group.nodes))
        if is_concat and (is_of_phases(node, self.producers) or (moves and self._has_sums(node))):
            return False  # its parts' kernels write it
        if moves and node.operator.name == "pad" and node.attributes["mode"] != "constant":
            return False  # it copies rows where they lie in one piece
        if self._is_picked_apart(group, node):
            return False
        if numel == product(group.shape):
            later = group.reductions or group.packs is not None
            return not (later and self._ends_contraction(node))
        if group.anchor is not None or group.heavy:
            return False
        if group.reductions:
            if self._ends_contraction(node):
                return False
            reduction = group.reductions[0]
            return numel in (reduction.output.type.numel, reduction.inputs[0].type.numel)
        if group.packs is not None:
            return False
        if not is_costly(node) or self._is_once_a_row(node, group):
            return True
        return self.by_columns and is_once_a_column(node, group, self.producers)

    def _is_once_a_row(self, node: Node, group: Group) -> bool:
        """Whether a value, or what is computed from it and reshaped, has one element for each row.
        (Statistics of channels may have been reshaped for an image whose channels are last.)"""
        seen, waiting = {node.output}, [node.output]
        while waiting:
            value = waiting.pop()
            if is_of_rows(value.type.shape, group.shape):
                return True
            computed = {
                user.output
                for user in self.users.get(value, [])
                if kind_of(user) in ("pointwise", "view")
                and user.output.type.numel == value.type.numel
            }
            waiting += computed - seen
            seen |= computed
        return False

    def _is_picked_apart(self, group: Group, node: Node) -> bool:
        """Whether the group gathers elements of rows, at least as many as there are, from what the
        node computes of several values. Each of these would be gathered, and all parts of a concat
        would; that costs several times what loads of neighbours do."""
        whole = [v for v in node.inputs if v.type.numel == node.output.type.numel]
        if node.operator.name != "concat" and len(set(whole)) < 2:
            return False
        waiting, seen = [node.output], {node.output}
        while waiting:
            value = waiting.pop()
            for user in self.users.get(value, []):
                if user not in group.nodes or user.output in seen:
                    continue
                if picks_in_rows(user) and user.inputs[0] is value:
                    return True
                if user.output.type.shape == value.type.shape and kind_of(user) == "pointwise":
                    seen.add(user.output)
                    waiting.append(user.output)
        return False

    def _has_sums(self, node: Node) -> bool:
        """Whether a node's input is computed from a product's sums, pointwise and for it alone."""
        waiting = list(node.inputs)
        while waiting:
            made = self.producers.get(value := waiting.pop())
            kind = "" if made is None or len(self.users[value]) != 1 else kind_of(made)
            if kind == "contraction":
                return True
            if made and kind == "pointwise" and made.operator.name not in ("concat", "pad"):
                waiting += [v for v in made.inputs if v.type.shape == value.type.shape]
        return False

    def is_added_across(self, group: Group, node: Node) -> bool:
        """Whether pointwise work after a product reads bytes that a transpose has moved apart."""
        found = readers_across(group, node, self.users)
        return bool(found) and (group.anchor is not None or any(map(self._has_sums, found)))

    def _ends_contraction(self, node: Node) -> bool:
        """Whether a pointwise node is better off as the epilogue of a contraction."""
        shape = node.output.type.shape
        for value in node.inputs:
            producer = self.producers.get(value)
            if (
                producer is not None
                and kind_of(producer) == "contraction"
                and value.type.shape == shape
                and len(self.users[value]) == 1
            ):
                return True
        return False

    def _may_join_reduction(self, group: Group, node: Node) -> bool:
        if group.anchor is not None or group.heavy or group.packs is not None:
            return False
        outer, whole = node.output.type, node.inputs[0].type
        numel = product(group.shape)
        if not group.reductions and numel == outer.numel:
            return True
        if self.by_columns and may_join_columns(group, node):
            return True
        if not is_row_reduction(node) or not spreads_in_rows(node.output, group.nodes[::-1]):
            return False
        if group.reductions:
            other = group.reductions[0]
            return (
                is_row_reduction(other)
                and other.inputs[0].type.numel == whole.numel
                and other.output.type.numel == outer.numel
                and numel in (outer.numel, whole.numel)
            )
        return numel == whole.numel and same_leading(group.shape, outer.shape)

    def _may_anchor(self, group: Group, node: Node) -> bool:
        if group.anchor is not None or group.reductions or group.heavy or group.packs is not None:
            return False
        tail = self.tail(group, node)
        core = tail[0].inputs[0] if tail else group.root
        assert core is not None
        if core.type.shape != node.output.type.shape:
            return False
        members = set(group.nodes).difference(tail)
        waiting, seen = [node.output], set()
        while waiting:
            value = waiting.pop()
            for user in self.users.get(value, []):
                if user not in members or user in seen:
                    continue
                seen.add(user)
                if kind_of(user) != "pointwise" or user.output.type.shape != core.type.shape:
                    return False
                if user.operator.name in NOT_SAME_INDEX and not looks_up(user, value):
                    return False
                waiting.append(user.output)
        return True

    def tail(self, group: Group, node: Node) -> tuple[Node, ...]:
        """The views from a value of the contraction's shape to the root, if they only move elements
        and keep neighbouring columns neighbours; else none."""
        value, found = group.root, list[Node]()
        if node.operator.name != "matmul":
            return ()
        members = set(group.nodes)
        while value is not None and value.type.shape != node.output.type.shape:
            view = self.producers[value]
            if view not in members or view.operator.name not in MOVES:
                return ()
            value = view.inputs[0]
            if len(self.users[value]) != 1 or value in self.outputs:
                return ()
            found.insert(0, view)
        return tuple(found) if keeps_columns(found) else ()
