"""Partitions a graph into groups: the nodes that one kernel computes together.

Every group has a root, the value that its kernel writes; values inside a group never reach memory.
Nodes are visited from the outputs to the inputs. A node joins the group of its readers when they
are all in one group and that group can take it without computing anything often
(fusion_rules.py, repeated_work.py):

    views            always, in as many groups as read them: they are only index arithmetic
    pointwise        yes; one that is smaller than the root (broadcast) only if it is cheap
    a contraction    one a group, if between it and the root there is only pointwise work of its
                     own shape: that becomes the epilogue
    reductions       if the root has the reduction's shape (its epilogue), or if the group works on
                     rows: all its reductions run over the same trailing axes, so that a row is
                     loaded once into cache (softmax, norms, losses); or over the same few elements
                     along other axes (columns.py)
    the rest         statement kernels and control flow stand alone

The right operand of a contraction, where it is not a constant, is packed by a group of its own.
A contraction may be followed by views that only move its elements (heads put side by side): it
writes them where they belong. An attention (attention.py) is one group around its second product.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ops.contractions.conv import is_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import (
    has_narrow_groups,
    is_by_channels,
)
from bessemer.compiler.schedule.convolution.padding_regions import copies_for, read_without_padding
from bessemer.compiler.schedule.grouping.attention import Attention, find_attentions, in_registers
from bessemer.compiler.schedule.grouping.byte_chains import (
    decodes,
)
from bessemer.compiler.schedule.grouping.crossed_operands import is_crossed
from bessemer.compiler.schedule.grouping.diagonal_bands import find_bands
from bessemer.compiler.schedule.grouping.fusion_rules import FusionRules
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.grouping.kinds import (
    Kind,
    is_widening,
    kind_of,
    pools_what_costs,
    samples_channels,
)
from bessemer.compiler.schedule.grouping.shared_windows import seen_through_windows
from bessemer.compiler.schedule.grouping.views import (
    adds_up_channels,
    before_transposes,
    has_neighbours_last,
    is_affine_operand,
    parts_neighbours,
    pools_moved_channels,
)


def form_groups(
    graph: Graph,
    wanted: Callable[[Attention], bool] = in_registers,
    by_pairs: bool = True,
    by_regions: bool = True,
    by_squares: bool = True,
    by_columns: bool = True,
) -> Grouping:
    """The groups of a graph. The graphs of its regions have groups of their own.

    `wanted` says which attentions become one group each. If `by_pairs`, products of bfloat16 and
    bytes read two or four neighbours along the depth at once; if `by_regions`, convolutions with
    much padding may read the image without it; if `by_squares`, transposes are done by squares in
    registers; if `by_columns`, softmax and norms over axes before the last are one group.
    """
    return _Former(graph, wanted, by_pairs, by_regions, by_squares, by_columns).form()


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
        self,
        graph: Graph,
        wanted: Callable[[Attention], bool],
        by_pairs: bool,
        by_regions: bool,
        by_squares: bool,
        by_columns: bool,
    ) -> None:
        self.graph = graph
        self.by_pairs = by_pairs
        self.by_squares = by_squares
        self.producers = graph.producers()
        self.rules = FusionRules(self.producers, graph.users(), graph.outputs, by_columns)
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
        if any(self.rules.is_added_across(group, node) for group in groups):
            self.forced.add(value)
        if self.by_squares and is_crossed(node, groups, self.producers):
            self.forced.add(value)
        if free and value not in self.forced:
            for group in groups:
                group.nodes.append(node)
            self._read(node, groups)
            return
        reader = next(iter(groups)) if len(groups) == 1 and value not in self.forced else None
        if reader is None or not self.rules.may_join(reader, node, kind):
            reader = self.roots[value] = Group(value)
        self._join(reader, node, kind)

    def _join(self, group: Group, node: Node, kind: Kind) -> None:
        group.nodes.append(node)
        if kind == "contraction":
            group.anchor = node
            group.tail = self.rules.tail(group, node)
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
        """The query must lie in memory; keys and values are packed. All other operands of the
        weights are read through the attention's own views."""
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
        elif is_by_channels(node) or adds_up_channels(node) or self._has_narrow_groups(node):
            self._force_behind_widening(node.inputs[0])
        elif self.by_pairs and parts_neighbours(node, self.producers):
            self.forced.add(node.inputs[0])
        else:
            self._force_behind_views(node.inputs[0])
        self._read_right(node)

    def _has_narrow_groups(self, node: Node) -> bool:
        return has_narrow_groups(node) and node.inputs[1] in self.graph.constants

    def _read_right(self, node: Node) -> None:
        right = node.inputs[1]
        if right in self.graph.constants:
            return
        if is_depthwise(node):
            self.forced.add(right)
            return
        image = seen_through_windows(node, self.producers)
        if image is not None:
            self.forced.add(image)
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
