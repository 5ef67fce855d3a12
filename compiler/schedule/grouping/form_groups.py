"""Partitions a graph into groups: the nodes that one kernel computes together.

Every group has a root, the value that its kernel writes; values inside a group never reach memory.
Nodes are visited from the outputs to the inputs. A node joins the group of its readers when they
are all in one group and that group can take it without computing anything twice:

    views            always, in as many groups as read them: they are only index arithmetic
    pointwise        yes; one that is smaller than the root (broadcast) only if it is cheap
    a contraction    one a group, if between it and the root there is only pointwise work of its
                     own shape: that becomes the epilogue
    reductions       if the root has the reduction's shape (its epilogue), or if the group works on
                     rows: all its reductions run over the same trailing axes, so that a row is
                     loaded once into cache (softmax, norms, losses)
    the rest         statement kernels and control flow stand alone

The right operand of a contraction, where it is not a constant, is packed by a group of its own.
A contraction may be followed by views that only move its elements (heads put side by side): it
writes them where they belong. An attention (attention.py) is one group around its second product.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ops.contractions.conv import is_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import is_by_channels
from bessemer.compiler.schedule.convolution.padding_regions import copies_for, read_without_padding
from bessemer.compiler.schedule.grouping.attention import Attention, find_attentions, in_registers
from bessemer.compiler.schedule.grouping.byte_chains import (
    decodes,
    looks_up,
    narrows,
    readers_across,
    stores_bytes,
)
from bessemer.compiler.schedule.grouping.destinations import fills_inside, is_of_phases
from bessemer.compiler.schedule.grouping.diagonal_bands import find_bands
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.grouping.kinds import (
    NOT_SAME_INDEX,
    Kind,
    is_costly,
    is_widening,
    kind_of,
    pools_what_costs,
    samples_channels,
)
from bessemer.compiler.schedule.grouping.moves import MOVES, keeps_columns
from bessemer.compiler.schedule.grouping.views import (
    adds_up_channels,
    before_transposes,
    has_neighbours_last,
    is_affine_operand,
    parts_neighbours,
    pools_moved_channels,
)
from bessemer.compiler.schedule.nests.row_shapes import (
    is_of_rows,
    is_row_reduction,
    moves_last_axis,
    same_leading,
    spreads_in_rows,
)

MAXIMUM_NODES = 48
MAXIMUM_OPERANDS = 24


def form_groups(
    graph: Graph,
    wanted: Callable[[Attention], bool] = in_registers,
    by_pairs: bool = True,
    by_regions: bool = True,
) -> Grouping:
    """The groups of a graph. The graphs of its regions have groups of their own.

    `wanted` says which attentions become one group each. If `by_pairs`, products of bfloat16 and
    bytes read two or four neighbours along the depth at once; if `by_regions`, convolutions with
    much padding may read the image without it.
    """
    return _Former(graph, wanted, by_pairs, by_regions).form()


def separate_groups(graph: Graph) -> Grouping:
    """A group for every node with an element rule."""
    alone = ("statements", "structural")
    roots = {
        node.output: Group(node.output, nodes=[node])
        for node in graph.nodes
        if kind_of(node) not in alone
    }
    return Grouping(roots, packs={}, producers=graph.producers(), bands={})


class _Former:
    def __init__(
        self, graph: Graph, wanted: Callable[[Attention], bool], by_pairs: bool, by_regions: bool
    ) -> None:
        self.graph = graph
        self.by_pairs = by_pairs
        self.users = graph.users()
        self.outputs = set(graph.outputs)
        self.producers = graph.producers()
        self.roots: dict[Value, Group] = {}
        self.packs: dict[Node, Group] = {}
        self.readers: dict[Value, set[Group]] = {}  # the groups that evaluate each value
        self.forced: set[Value] = set(graph.outputs)
        found = find_attentions(graph)
        self.attentions = {node: one for node, one in found.items() if wanted(one)}
        self.absorbed = {
            n for a in self.attentions.values() for n in (a.scores, *a.before, *a.between)
        }
        self.unpadded = read_without_padding(graph) if by_regions else {}
        self.absorbed |= copies_for(self.unpadded, graph)

    def form(self) -> Grouping:
        for node in reversed(self.graph.nodes):
            if node not in self.absorbed:
                self._place(node)
        bands = find_bands(self.graph)
        return Grouping(self.roots, self.packs, self.producers, bands, self.unpadded)

    def _place(self, node: Node) -> None:
        kind = kind_of(node)
        if kind in ("statements", "structural"):
            for value in node.inputs:
                self.forced.add(value)
            return
        value = node.output
        groups = self.readers.get(value, set())
        free = kind == "view" or is_widening(node) or decodes(node, self.producers)
        if any(self._is_added_across(group, node) for group in groups):
            self.forced.add(value)
        if free and value not in self.forced:
            for group in groups:
                group.nodes.append(node)
            self._read(node, groups)
            return
        reader = next(iter(groups)) if len(groups) == 1 else None
        if reader is not None and value not in self.forced and self._may_join(reader, node, kind):
            self._join(reader, node, kind)
            return
        self.roots[value] = Group(value)
        self._join(self.roots[value], node, kind)

    def _join(self, group: Group, node: Node, kind: Kind) -> None:
        group.nodes.append(node)
        if kind == "contraction":
            group.anchor = node
            group.tail = self._tail(group, node)
            group.attention = self.attentions.get(node)
            if group.attention is None:
                self._read_contraction(node)
            else:
                self._read_attention(group, group.attention)
            return
        if kind == "reduction":
            group.reductions.append(node)
        if kind == "heavy":
            group.heavy.append(node)
            moved = samples_channels(node) or pools_moved_channels(node, self.producers)
            if moved or pools_what_costs(node, self.producers):
                self.forced.add(node.inputs[0])
            elif node.operator.name == "plane_conv":
                self._force_neighbours(node.inputs[0])
        self._read(node, {group})

    def _read(self, node: Node, groups: set[Group]) -> None:
        for value in node.inputs:
            self.readers.setdefault(value, set()).update(groups)

    def _read_attention(self, group: Group, attention: Attention) -> None:
        """The query must lie in memory; keys and values are packed. All else that the weights are
        computed from is read through the attention's own views."""
        self._force_behind_views(attention.scores.inputs[0])
        self._read_right(attention.scores)
        self._read_right(attention.product)
        for value in attention.others:
            if value not in self.graph.constants:
                self.forced.add(value)
        for view in attention.views:
            self.readers.setdefault(view.output, set()).add(group)

    def _read_contraction(self, node: Node) -> None:
        """The left operand must lie in memory; the right one is packed, by a group if necessary."""
        if node in self.unpadded:
            self.forced.add(self.producers[node.inputs[0]].inputs[0])
        elif is_by_channels(node) or adds_up_channels(node):
            self._force_behind_widening(node.inputs[0])
        elif self.by_pairs and parts_neighbours(node, self.producers):
            self.forced.add(node.inputs[0])
        else:
            self._force_behind_views(node.inputs[0])
        self._read_right(node)

    def _read_right(self, node: Node) -> None:
        right = node.inputs[1]
        if right in self.graph.constants:
            return
        if is_depthwise(node):
            self.forced.add(right)
            return
        pack = self.packs[node] = Group(None, packs=node)
        self.readers.setdefault(right, set()).add(pack)

    def _force_behind_views(self, value: Value) -> None:
        if not is_affine_operand(value, self.producers):
            self.forced.add(before_transposes(value, self.producers))
            return
        while (node := self.producers.get(value)) is not None and kind_of(node) == "view":
            if not node.inputs:
                break  # a tensor full of one number: a view of nothing
            value = node.inputs[0]
        self.forced.add(value)

    def _force_behind_widening(self, value: Value) -> None:
        """A depthwise convolution converts 16-bit floats itself; its vectors are of channels."""
        while (node := self.producers.get(value)) is not None and is_widening(node):
            value = node.inputs[0]
        self._force_neighbours(value)

    def _force_neighbours(self, value: Value) -> None:
        """What many windows read is computed once, in the order that vectors of channels need."""
        if has_neighbours_last(value, self.producers):
            self._force_behind_views(value)
        else:
            self.forced.add(value)

    def _may_join(self, group: Group, node: Node, kind: Kind) -> bool:
        if len(group.nodes) >= MAXIMUM_NODES:
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
        return fills_inside(node, self.users, producer, self.graph.outputs)

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
        return not is_costly(node) or self._is_once_a_row(node, group)

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

    def _is_added_across(self, group: Group, node: Node) -> bool:
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
        tail = self._tail(group, node)
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

    def _tail(self, group: Group, node: Node) -> tuple[Node, ...]:
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
            if len(self.users[value]) != 1 or value in self.graph.outputs:
                return ()
            found.insert(0, view)
        return tuple(found) if keeps_columns(found) else ()
