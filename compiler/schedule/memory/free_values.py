"""Finds values that the backward half of a training step can recompute at no cost, from others that
are in memory anyway.

Pointwise values are computed inside of the kernels that read them: a ReLU after a batch
normalization, or the parts of a GELU or a softmax. The values that have to be kept, so that
everything else follows from them, are a cut of the graph, and the cut with the fewest bytes is kept
(as the "partitioner" of torch.compile does). A value that would have to be computed from much more
than its own bytes counts as one that cannot be computed again, so that chains of sums along a
residual network stay short.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.schedule.grouping.kinds import NOT_SAME_INDEX, is_widening, kind_of
from bessemer.compiler.schedule.memory.live_memory import Count, Work
from bessemer.compiler.schedule.memory.minimum_cut import minimum_cut

TWELFTHS = 15
"""A value may be computed again from values of at most this many twelfths of its own bytes."""
LITTLE = 1 << 15
"""Fewer bytes than this do not matter."""
LONGEST = 24
"""A value may be computed again by a chain of at most this many operations. Every kernel that reads
it repeats them: without a bound, a chain of n values would become n * n of them."""


def free_values(graph: Graph, works: Sequence[Work], boundary: int, count: Count) -> set[Value]:
    """The values that works up to the place `boundary` compute, and later works should compute
    again."""
    return _Cutter(graph, works, boundary, count).free()


@dataclass(eq=False)
class _Cutter:
    graph: Graph
    works: Sequence[Work]
    boundary: int
    count: Count

    def free(self) -> set[Value]:
        early = dict.fromkeys(n for work in self.works[: self.boundary + 1] for n in work.nodes)
        given = {*self.graph.inputs, *self.graph.constants, *self.graph.outputs}
        origins = self._origins(early, given)
        used = self._late_values(early)
        simple = {value for value, others in origins.items() if others is not None}
        nodes = [node for node in early if any(v in simple for v in node.outputs)]
        links = [
            (source, node.output)
            for node in nodes
            for source in node.inputs
            if source in origins and source not in given
        ]
        touched = {v for link in links for v in link} | used
        written = {value for work in self.works for value in work.writes}
        views = {n.output for n in early if n.operator.is_view and n.output not in written}
        wanted = [v for v in touched if v in origins and v not in given]
        dearest = 64 * (1 + sum(self._bytes(v) for v in wanted))
        prices = {v: dearest if v in views else self._price(v, written) for v in wanted}
        sources = [value for value in prices if value not in simple]
        kept = minimum_cut(prices, links, sources, [value for value in prices if value in used])
        return self._behind(used, kept, simple, given)

    def _price(self, value: Value, written: Collection[Value]) -> int:
        """The price of keeping a value: its bytes, and a little more if it was not stored
        before."""
        size = 32 * self._bytes(value)
        return size if value in written else size + size // 16

    def _behind(
        self, used: set[Value], kept: set[Value], simple: set[Value], given: set[Value]
    ) -> set[Value]:
        """What late works need and nothing keeps."""
        producers = self.graph.producers()
        found: set[Value] = set()
        waiting = list(used)
        while waiting:
            value = waiting.pop()
            if value in simple and value not in kept and value not in found and value not in given:
                found.add(value)
                waiting += producers[value].inputs
        return found

    def _late_values(self, early: dict[Node, None]) -> set[Value]:
        """The early values that late works read."""
        made = {value for node in early for value in node.outputs}
        late = {n for work in self.works[self.boundary + 1 :] for n in work.nodes if n not in early}
        return {value for node in late for value in node.inputs if value in made}

    def _origins(
        self, early: dict[Node, None], given: set[Value]
    ) -> dict[Value, frozenset[Value] | None]:
        """For each early value, the values from which it can be computed again at no cost; None if
        it cannot."""
        found: dict[Value, frozenset[Value] | None] = {}
        lengths: dict[Value, int] = {}
        for node in early:
            found |= dict.fromkeys(node.outputs)
            length = max((lengths.get(source, 0) for source in node.inputs), default=0)
            length += not node.operator.is_view
            if not is_simple(node) or length > LONGEST:
                continue
            sources: set[Value] = set()
            for source in node.inputs:
                if source in found and source not in given:
                    origins = found[source]
                    sources |= {source} if origins is None else origins
            whole = sum(map(self._bytes, sources))
            if whole <= LITTLE or 12 * whole <= TWELFTHS * self._bytes(node.output):
                found[node.output] = frozenset(sources)
                lengths[node.output] = length
        return found

    def _bytes(self, value: Value) -> int:
        return self.count(value.type.numel) * value.type.dtype.bytes


def is_simple(node: Node) -> bool:
    """Whether a kernel that reads a node's output can compute it itself, element by element."""
    if len(node.outputs) != 1 or node.operator.is_random or node.operator.name == "pow":
        return False
    if node.operator.is_view or is_widening(node):
        return True
    is_even = node.operator.name in ("one_hot", "pad") or node.operator.name not in NOT_SAME_INDEX
    return kind_of(node) == "pointwise" and is_even
