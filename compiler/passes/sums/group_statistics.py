"""Keeps channels apart where the statistics of groups of channels are computed.

Models write a group norm as a reshape that merges a group's channels with its pixels, the
statistics over the merged axis, and a reshape back. Of all memory orders, only channels-first
allows that. Instead:

    [b, (g, k), h, w] -> reshape [b, g, k*h*w] -> sum -> [b, g]
becomes
    [b, (g, k), h, w] -> sum over pixels -> [b, (g, k)] -> matmul with a matrix of ones and zeros

so that every channel has the sum of its group. If all channels are one group, they are simply added
up. What is computed from the sums is then computed for each channel, and what was computed for each
element is computed without a reshape. A gradient is reshaped in the same way as its value, and the
two meet again in the same region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.passes.known_values import known_array, uniform_number
from bessemer.compiler.passes.pointwise import is_pointwise

MOST_CHANNELS = 1024
"""The matrix has the square of that many elements."""


@dataclass(frozen=True, eq=False)
class _Region:
    """The nodes between reshapes that merge groups in the same way and the reshapes that undo this.

    `groups` says on which axis each value in between has the groups. Values that also have the
    merged axis are `wide`.
    """

    first: Node
    entries: frozenset[Node]
    nodes: tuple[Node, ...]
    groups: Mapping[Value, int]
    wide: frozenset[Value]


def group_statistics(graph: Graph) -> Graph:
    """The same network without such reshapes, also inside of regions."""
    nodes = tuple(map_regions(node, group_statistics) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    users = graph.users()
    members: dict[Node, _Region] = {}
    for node in graph.nodes:
        if node in members or not _merges_groups(node):
            continue
        region = _region(graph, users, node)
        if region is not None:
            members |= dict.fromkeys(region.nodes, region)
    if not members:
        return graph
    rewriter = GraphRewriter(graph)
    twins: dict[Value, Value] = {}
    matrices: dict[tuple[int, int], Value] = {}
    for node in graph.nodes:
        if node in members:
            rewriter.sources = node.sources
            _Writer(rewriter, members[node], twins, matrices).write(node)
        else:
            rewriter.visit(node)
    return rewriter.finish()


def _merges_groups(node: Node) -> bool:
    """Whether a node reshapes [b, c, *pixels] to [b, groups, channels of a group with their
    pixels]. A single group may also be the last axis."""
    if node.operator.name != "reshape" or node.output.type.dtype not in (f32, f64):
        return False
    source, target = node.inputs[0].type.shape, node.output.type.shape
    if len(source) < 3 or len(target) != 3 or source[0] != target[0]:
        return False
    channels, groups = source[1], target[1]
    if target[2] == 1:
        groups = 1
    if not isinstance(channels, int) or not isinstance(groups, int):
        return False
    if groups > 1 and channels > MOST_CHANNELS:
        return False
    if not 1 <= groups < channels or channels % groups:
        return False
    return product(source[2:]) * (channels // groups) == product(target[1:]) // groups


def _region(graph: Graph, users: Mapping[Value, Sequence[Node]], first: Node) -> _Region | None:
    """The region that begins with a reshape, and with others like it whose values meet this one's;
    else None."""
    entries: set[Node] = {first}
    while True:
        search = _Search(graph, users, first, frozenset(entries))
        region = search.region()
        if search.met <= entries:
            return region
        entries |= search.met


class _Search:
    """Follows the readers of merged values. There is no region if one of them is not understood.
    `met` are the other reshapes like the first one that are found on the way."""

    def __init__(
        self,
        graph: Graph,
        users: Mapping[Value, Sequence[Node]],
        first: Node,
        entries: frozenset[Node],
    ) -> None:
        self.graph = graph
        self.users = users
        self.first = first
        self.entries = entries
        self.met: set[Node] = set()
        self.producers = graph.producers()
        batch, *shape = first.output.type.shape
        self.one_group = 1 in shape
        self.shapes: dict[int, tuple[Size, ...]] = {
            1: (batch, shape[0], shape[1]),
            2: (batch, shape[1], shape[0]),
        }
        """The shapes of wide values, by the axis that has the groups."""
        if shape[1] == 1:
            self.shapes = {1: self.shapes[2], 2: self.shapes[1]}
        self.groups: dict[Value, int] = {first.output: 2 if shape[1] == 1 else 1}
        self.wide: set[Value] = {first.output}

    def region(self) -> _Region | None:
        nodes = [self.first]
        outputs = set(self.graph.outputs)
        has_sum = False
        start = self.graph.nodes.index(self.first)
        for node in self.graph.nodes[start + 1 :]:
            if node in self.entries:
                self.groups[node.output] = self.groups[self.first.output]
                self.wide.add(node.output)
                nodes.append(node)
                continue
            if not any(value in self.groups for value in node.inputs):
                continue
            if not self._ends(node) and not self._goes_on(node):
                return None
            has_sum = has_sum or node.operator.name == "reduce_sum"
            nodes.append(node)
        if not has_sum or any(value in outputs for value in self.groups):
            return None
        return _Region(self.first, self.entries, tuple(nodes), self.groups, frozenset(self.wide))

    def _ends(self, node: Node) -> bool:
        value = node.inputs[0] if node.inputs else None
        return (
            node.operator.name == "reshape"
            and value in self.wide
            and (self.groups[value] == 1 or self.one_group)
            and node.output.type == self.first.inputs[0].type
        )

    def _goes_on(self, node: Node) -> bool:
        """Whether a node can be computed for each channel. Notes on which axis its output has the
        groups."""
        value = node.inputs[0]
        if is_pointwise(node.operator):
            return self._pointwise(node)
        axis = self.groups.get(value)
        if axis is None or len(node.outputs) != 1:
            return False
        shape = node.output.type.shape
        match node.operator.name:
            case "transpose" if value in self.wide and node.attributes["permutation"][0] == 0:
                self.wide.add(node.output)
                self.groups[node.output] = node.attributes["permutation"].index(axis)
            case "reduce_sum" if value in self.wide and node.attributes["axes"] == (3 - axis,):
                self.groups[node.output] = 1
            case "reshape" if value not in self.wide and shape[0] == value.type.shape[0]:
                found = [a for a, size in enumerate(shape) if a and size != 1]
                if not found and self.one_group:
                    found = [1]
                if len(found) != 1 or len(shape) == 1:
                    return False
                self.groups[node.output] = found[0]
            case "reshape" if value in self.wide and self.one_group:
                if shape not in self.shapes.values():
                    return False
                self.wide.add(node.output)
                self.groups[node.output] = 2 if shape == self.shapes[2] else 1
            case "broadcast_to" if value not in self.wide and value.type.rank == 3:
                if self.one_group:
                    axis = 2 if shape == self.shapes[2] else 1
                if shape != self.shapes[axis]:
                    return False
                self.wide.add(node.output)
                self.groups[node.output] = axis
            case _:
                return False
        return True

    def _pointwise(self, node: Node) -> bool:
        known = [value for value in node.inputs if value in self.groups]
        if len({(self.groups[value], value in self.wide) for value in known}) != 1:
            return False
        for value in node.inputs:
            if value in self.groups or self.number(value) is not None:
                continue
            if _repeated(value, self.producers.get) is None:
                self._meet(value)
                return False
        if node.output.type.dtype != self.first.output.type.dtype:
            return False
        self.groups[node.output] = self.groups[known[0]]
        if known[0] in self.wide:
            self.wide.add(node.output)
        return True

    def _meet(self, value: Value) -> None:
        """Notes the reshapes like the first one from which an unknown value is computed."""
        before, after = self.first.inputs[0].type, self.first.output.type
        waiting, seen = [value], {value}
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None:
                continue
            name = node.operator.name
            if name == "reshape" and (node.inputs[0].type, node.output.type) == (before, after):
                self.met.add(node)
            elif name == "transpose" or is_pointwise(node.operator):
                waiting += [v for v in node.inputs if v not in seen and v not in self.groups]
                seen.update(node.inputs)

    def number(self, value: Value) -> float | int | bool | None:
        return uniform_number(known_array(value, self.graph.constants, self.producers.get))


def _repeated(value: Value, producer: Callable[[Value], Node | None]) -> Value | None:
    """The single number that a value repeats, which may be known only when the model runs; else
    None."""
    while value.type.numel != 1:
        node = producer(value)
        if node is None or node.operator.name not in ("broadcast_to", "reshape"):
            return None
        value = node.inputs[0]
    return value


@dataclass(frozen=True, eq=False)
class _Writer:
    """Writes the nodes of a region for each channel. `twins` are the new values in place of the
    region's."""

    rewriter: GraphRewriter
    region: _Region
    twins: dict[Value, Value]
    matrices: dict[tuple[int, int], Value]

    def write(self, node: Node) -> None:
        rewriter, twins = self.rewriter, self.twins
        if node in self.region.entries:
            twins[node.output] = rewriter.now(node.inputs[0])
            return
        value = node.inputs[0]
        if node.output not in self.region.groups:
            rewriter.stand(node.output, twins[value])
        elif is_pointwise(node.operator):
            twins[node.output] = self._pointwise(node)
        elif node.operator.name == "reduce_sum":
            twins[node.output] = self._sums(twins[value])
        elif node.operator.name == "broadcast_to":
            batch, channels, *pixels = self.region.first.inputs[0].type.shape
            one = rewriter.emit(
                "reshape", twins[value], shape=(batch, channels, *(1 for _ in pixels))
            )
            shape = (batch, channels, *pixels)
            twins[node.output] = rewriter.emit("broadcast_to", one, shape=shape)
        else:
            twins[node.output] = twins[value]

    def _sums(self, value: Value) -> Value:
        """For each channel, the sum over its group's channels and pixels."""
        rewriter = self.rewriter
        sums = rewriter.emit("reduce_sum", value, axes=tuple(range(2, value.type.rank)))
        if 1 not in self.region.first.output.type.shape[1:]:
            return rewriter.emit("matmul", sums, self._matrix())
        batch, channels = sums.type.shape
        total = rewriter.emit("reduce_sum", sums, axes=(1,))
        total = rewriter.emit("reshape", total, shape=(batch, 1))
        return rewriter.emit("broadcast_to", total, shape=(batch, channels))

    def _pointwise(self, node: Node) -> Value:
        shape = next(self.twins[v].type.shape for v in node.inputs if v in self.twins)
        inputs = [self.twins.get(value) or self._number(value, shape) for value in node.inputs]
        return self.rewriter.emit(node.operator.name, *inputs, **node.attributes)

    def _number(self, value: Value, shape: tuple[Size, ...]) -> Value:
        new = self.rewriter.now(value)
        found = known_array(new, self.rewriter.constants, self.rewriter.producer)
        number = uniform_number(found)
        if number is not None:
            return self.rewriter.emit("full", shape=shape, value=number, dtype=value.type.dtype)
        only = _repeated(new, self.rewriter.producer)
        assert only is not None
        scalar = self.rewriter.emit("reshape", only, shape=())
        return self.rewriter.emit("broadcast_to", scalar, shape=shape)

    def _matrix(self) -> Value:
        channels = self.region.first.inputs[0].type.shape[1]
        count = self.region.first.output.type.shape[1]
        assert isinstance(channels, int) and isinstance(count, int)
        key = (channels, count)
        if key not in self.matrices:
            share = channels // count
            dtype = self.region.first.output.type.dtype.numpy
            ones = np.kron(np.eye(count), np.ones((share, share)))
            self.matrices[key] = self.rewriter.constant(ones.astype(dtype), "groups")
        return self.matrices[key]
