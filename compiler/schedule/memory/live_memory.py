"""Estimates which values are live while a graph runs, from the graph's groups alone.

Lowering a graph gives this exactly (memory_plan/plan_memory.py) but takes a second. This takes a
twentieth of that, so that passes can compare many orders and many graphs. Of what a group's kernels
need for themselves only one thing is counted, roughly: the packed right operand of a contraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.schedule.grouping.destinations import destinations
from bessemer.compiler.schedule.grouping.few_rows import reads_in_place, tiles_read_in_place
from bessemer.compiler.schedule.grouping.form_groups import form_groups
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.grouping.kinds import NOT_SAME_INDEX, kind_of
from bessemer.compiler.schedule.grouping.shared_windows import is_of_shared_windows
from bessemer.compiler.schedule.grouping.views import source_of

Count = Callable[[Size], int]
"""Turns sizes into numbers."""

VECTOR = 16
"""The number of columns of a packed operand is a multiple of this."""


@dataclass(frozen=True, eq=False)
class Work:
    """What one group computes, or one node that is not in a group.

    `nodes` are in the graph's order. `reads` and `writes` are values in memory. An output may
    overwrite one of `replaceable`, if that is read for the last time. `scratch` is the working
    memory in bytes.
    """

    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    replaceable: tuple[Value, ...] = ()
    scratch: int = 0


@dataclass(frozen=True, eq=False)
class LiveMemory:
    """The works of a graph in order.

    `holder` gives, for a value that lies inside of another's memory, that other value. `sizes` are
    the bytes of the holders that take memory (inputs, outputs and weights do not count).
    """

    works: tuple[Work, ...]
    holder: Mapping[Value, Value]
    sizes: Mapping[Value, int]

    def held(self, values: Sequence[Value]) -> set[Value]:
        """The holders of these values, as far as they take memory."""
        return {h for h in (self.holder.get(v, v) for v in values) if h in self.sizes}

    @cached_property
    def reads(self) -> dict[Work, set[Value]]:
        """The holders that each work reads."""
        return {work: self.held(work.reads) for work in self.works}

    @cached_property
    def writes(self) -> dict[Work, set[Value]]:
        """The holders that each work writes."""
        return {work: self.held(work.writes) for work in self.works}

    def live_ranges(self, works: Sequence[Work] | None = None) -> dict[Value, tuple[int, int]]:
        """The positions of the first and the last work that need each holder, in this or another
        order."""
        found: dict[Value, tuple[int, int]] = {}
        for time, work in enumerate(self.works if works is None else works):
            for value in self.reads[work] | self.writes[work]:
                first, _ = found.get(value, (time, time))
                found[value] = (first, time)
        return found

    @cached_property
    def highest(self) -> int:
        """The most bytes alive at once."""
        return self.peak()

    def peak(self, works: Sequence[Work] | None = None) -> int:
        """The most bytes alive at once, in this or another order."""
        return max(self.profile(works), default=0)

    def profile(self, works: Sequence[Work] | None = None) -> list[int]:
        """The bytes alive at each work."""
        order = self.works if works is None else works
        live_ranges = self.live_ranges(order)
        change = [0] * (len(order) + 1)
        for value, (first, last) in live_ranges.items():
            change[first] += self.sizes[value]
            change[last + 1] -= self.sizes[value]
        found: list[int] = []
        alive = 0
        for time, work in enumerate(order):
            alive += change[time]
            found.append(alive + work.scratch - self._replaced(work, time, live_ranges))
        return found

    def _replaced(self, work: Work, time: int, live_ranges: Mapping[Value, tuple[int, int]]) -> int:
        """The bytes that are saved because an output overwrites an input."""
        target = next(iter(self.writes[work]), None)
        if not work.replaceable or target is None or live_ranges[target][0] != time:
            return 0
        dying = {
            v for v in self.held(work.replaceable) if live_ranges[v][1] == time and v is not target
        }
        return self.sizes[target] if dying else 0


def live_memory(graph: Graph, count: Count | None = None) -> LiveMemory:
    """The works of a graph, with the memory that they use. Regions are part of the nodes that
    contain them.

    `count` turns sizes into numbers; without it every symbol counts as 64.
    """
    return _Finder(graph, count or typical).find()


def typical(size: Size) -> int:
    """A size where every symbol is 64."""
    return evaluate(size, lambda _: 64)


class _Finder:
    def __init__(self, graph: Graph, count: Count) -> None:
        self.graph = graph
        self.count = count
        self.grouping: Grouping = form_groups(graph)
        self.producers = graph.producers()
        self.place = {node: number for number, node in enumerate(graph.nodes)}
        self.fixed = {*graph.inputs, *graph.constants}
        self.outputs = set(graph.outputs)
        self.holder: dict[Value, Value] = {}

    def find(self) -> LiveMemory:
        places = destinations(self.graph, self.grouping.roots, derived={})
        for part, where in places.items():
            self.holder[part] = where.value
        works: list[Work] = []
        for node in self.graph.nodes:
            if kind_of(node) in ("statements", "structural"):
                works.append(Work((node,), self._behind(node.inputs), node.outputs))
            elif node.output in self.grouping.roots:
                works.append(self._group(self.grouping.roots[node.output], node))
        sizes: dict[Value, int] = {}
        for work in works:
            for value in work.writes:
                held = self._held(value)
                if held not in self.fixed and held not in self.outputs:
                    sizes[held] = self._bytes(held)
        return LiveMemory(tuple(works), {v: self._held(v) for v in self.holder}, sizes)

    def _held(self, value: Value) -> Value:
        while value in self.holder:
            value = self.holder[value]
        return value

    def _bytes(self, value: Value) -> int:
        return self.count(value.type.numel) * value.type.dtype.bytes

    def _packed(self, value: Value) -> int:
        """The bytes of a packed right operand, whose columns are filled up to whole vectors."""
        columns = self.count(value.type.shape[-1])
        return self._bytes(value) // max(columns, 1) * (-(-columns // VECTOR) * VECTOR)

    def _group(self, group: Group, node: Node) -> Work:
        nodes = self._inside(node)
        produced = {value for member in nodes for value in member.outputs}
        reads = {
            value: None for member in nodes for value in member.inputs if value not in produced
        }
        if self._is_alias(group, node):
            self.holder[node.output] = node.inputs[0]
        scratch = 0
        pack = self.grouping.packs.get(group.anchor) if group.anchor else None
        if group.anchor and pack and not self._reads_in_place(group.anchor, pack):
            scratch = self._packed(group.anchor.inputs[1])
        replaceable = tuple(reads) if self._is_even(nodes, node) else ()
        kept = tuple(v for v in replaceable if v.type == node.output.type)
        return Work(nodes, tuple(reads), node.outputs, kept, scratch)

    def _reads_in_place(self, anchor: Node, pack: Group) -> bool:
        if anchor.operator.name != "matmul":
            return False
        if reads_in_place(anchor, pack.nodes, self.grouping.own_sources(anchor)):
            return True
        operands = [source_of(value, self.grouping.views(value)) for value in anchor.inputs]
        if is_of_shared_windows(anchor, operands[1]):
            return True
        return tiles_read_in_place(anchor, pack.nodes, operands)

    def _is_alias(self, group: Group, node: Node) -> bool:
        return (
            node.operator.name == "reshape"
            and len(group.nodes) == 1
            and node.inputs[0] not in self.fixed
            and node.output not in self.outputs
        )

    def _is_even(self, nodes: Sequence[Node], root: Node) -> bool:
        """Whether each element of the root is computed from the elements at the same place of what
        it reads."""
        return (
            all(
                kind_of(node) == "view"
                or (kind_of(node) == "pointwise" and node.operator.name not in NOT_SAME_INDEX)
                for node in nodes
            )
            and not root.operator.is_view
        )

    def _inside(self, root: Node) -> tuple[Node, ...]:
        """The nodes between a root and the memory from which it is computed."""
        found = {root}
        waiting = [root]
        while waiting:
            for value in waiting.pop().inputs:
                node = self.producers.get(value)
                if node is not None and node not in found and not self._lies(value, node):
                    found.add(node)
                    waiting.append(node)
        return tuple(sorted(found, key=self.place.__getitem__))

    def _lies(self, value: Value, node: Node) -> bool:
        """Whether a node's output is in memory."""
        return value in self.grouping.roots or kind_of(node) in ("statements", "structural")

    def _behind(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """The values without duplicates. What a node outside of groups reads is in memory
        itself."""
        return tuple(dict.fromkeys(values))
