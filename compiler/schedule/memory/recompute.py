"""Rematerialization: chooses what the backward half of a training step recomputes instead of
keeping it in memory.

Without a budget, only what is free is computed again (free_values.py). With a budget for the peak
of memory, more is, as far as the budget requires:

- Values are given up in order of cost per byte: pointwise ones, then products and convolutions (as
  in XLA's rematerialization; the cost is operations and memory traffic).
- Or only the values at a few boundaries are kept, and everything between two boundaries is computed
  again when the backward half comes to it (Chen et al. 2016, Training deep nets with sublinear
  memory cost). What remains of the budget goes to the values that cost most.

Every plan is judged by the bytes alive in the graph that it leads to (live_memory.py). Of those
that fit, the plan with the least cost is taken. Except for what is free, nothing is computed more
than twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.schedule.memory.free_values import free_values
from bessemer.compiler.schedule.memory.live_memory import Count, LiveMemory, live_memory, typical
from bessemer.compiler.schedule.memory.order_for_memory import order_for_memory
from bessemer.compiler.schedule.memory.rematerialize import rematerialized
from bessemer.compiler.schedule.memory.work_costs import node_cost, operations

SMALL = 48
"""Values this many times smaller than the largest kept value are kept in any case."""
WORTH = 0.02
"""The least share of the peak that computing again must save, where there is no budget."""
SEGMENTS = (2, 3, 4, 6, 8, 12, 16, 24)
CHEAP = 0.05
"""If a plan repeats less than this fraction of the step's cost, no cheaper one is searched for."""
LONG = 50
"""A value that is needed for less than 1/50 of the works is not kept for the backward half."""
HALVINGS = 6
PARTS = 8


@dataclass(frozen=True, eq=False)
class Recomputation:
    """A graph that keeps fewer values, and a description of what it keeps.

    `kept` are the values that are in memory between the two halves; `again` are those that were,
    and are now computed again. Both have their bytes. `peak` and `peak_before` are estimates of the
    arena's bytes. `operations` are repeated, of the `all_operations` that the step had.
    """

    graph: Graph
    kept: tuple[tuple[Value, int], ...]
    again: tuple[tuple[Value, int], ...]
    peak: int
    peak_before: int
    operations: int
    all_operations: int


class Planner:
    """Finds plans for one graph and several budgets. `count` turns sizes into numbers."""

    def __init__(self, graph: Graph, count: Count | None = None) -> None:
        self._count = count = count or typical
        graph = order_for_memory(graph, count)
        self._start = _Plan(graph, live_memory(graph, count))
        self._boundary = forward_end(graph, self._start.found)
        self._free = _ordered(_without_free(self._start, self._boundary, count), count)
        self._chooser: _Chooser | None = None

    def plan(self, budget: int | None) -> Recomputation:
        """The cheapest plan found whose peak is within `budget` bytes, else the one of least peak.

        Without a budget only what is free is computed again.
        """
        chosen = self._free
        if budget is not None and chosen.peak > budget:
            self._chooser = self._chooser or _Chooser(chosen, self._count)
            chosen = _ordered(self._chooser.choose(budget), self._count)
        return _recomputation(self._start, self._boundary, chosen, self._count)


@dataclass(frozen=True, eq=False)
class _Plan:
    """A graph, the values in memory while it runs, the nodes that it repeats, and the cost of
    these."""

    graph: Graph
    found: LiveMemory
    repeated: tuple[Node, ...] = ()
    cost: int = 0

    @property
    def peak(self) -> int:
        return self.found.highest


def _ordered(plan: _Plan, count: Count) -> _Plan:
    graph = order_for_memory(plan.graph, count)
    if graph is plan.graph:
        return plan
    return replace(plan, graph=graph, found=live_memory(graph, count))


def _recomputation(start: _Plan, boundary: int, plan: _Plan, count: Count) -> Recomputation:
    before, after = (
        _across(start.found, boundary),
        _across(plan.found, forward_end(plan.graph, plan.found)),
    )
    return Recomputation(
        plan.graph,
        tuple((v, plan.found.sizes[v]) for v in after),
        tuple((v, start.found.sizes[v]) for v in before if v not in after),
        plan.peak,
        start.peak,
        sum(operations(node, count) for node in plan.repeated),
        sum(operations(node, count) for work in start.found.works for node in work.nodes),
    )


def forward_end(graph: Graph, found: LiveMemory) -> int:
    """The place of the work after which the backward half begins: the one that computes the loss,
    or otherwise the one after which the most bytes are in memory that were written before and are
    needed for long."""
    lying = _lying(found)
    most = max(lying, default=0)
    loss = {graph.outputs[place] for place in graph.finite}
    places = [place for place, work in enumerate(found.works) if loss.intersection(work.writes)]
    # If the loss is computed late, because nothing depends on it, it is no such boundary.
    if places and 2 * lying[max(places)] > most:
        return max(places)
    return lying.index(most) if most else 0


def _lying(found: LiveMemory) -> list[int]:
    """The bytes, after each work, of values that were written before and are needed for long."""
    works = len(found.works)
    change = [0] * (works + 1)
    for value, (first, last) in found.live_ranges().items():
        if (last - first) * LONG > works:
            change[first] += found.sizes[value]
            change[last] -= found.sizes[value]
    return list(accumulate(change[:works]))


def _across(found: LiveMemory, boundary: int) -> list[Value]:
    """The values that are written before the boundary and read after it."""
    return [v for v, (first, last) in found.live_ranges().items() if first <= boundary < last]


def _without_free(start: _Plan, boundary: int, count: Count) -> _Plan:
    free = free_values(start.graph, start.found.works, boundary, count)
    if not free:
        return start
    plan = _made(start, boundary, (), free, count)
    return plan if plan.peak <= (1 - WORTH) * start.peak else start


def _made(
    start: _Plan,
    boundary: int,
    again: Collection[Value],
    separately: Collection[Value],
    count: Count,
) -> _Plan:
    made = rematerialized(start.graph, start.found.works, boundary, again, separately)
    price = sum(node_cost(node, count) for node in made.repeated)
    repeated = (*start.repeated, *made.repeated)
    return _Plan(made.graph, live_memory(made.graph, count), repeated, start.cost + price)


class _Chooser:
    """Finds plans that keep less than `start`, in which nothing is left that could be computed
    again for free."""

    def __init__(self, start: _Plan, count: Count) -> None:
        self.start = start
        self.count = count
        self.found = found = start.found
        self.live_ranges = found.live_ranges()
        self.boundary = forward_end(start.graph, found)
        self.early = found.works[: self.boundary + 1]
        self.across = set(_across(found, self.boundary))
        largest = max((found.sizes[v] for v in self.across), default=0)
        late = {
            value
            for work in found.works[self.boundary + 1 :]
            for value in found.writes[work]
            if not all(node.operator.is_view for node in work.nodes)
        }
        self.large = [
            value
            for value, (first, _) in self.live_ranges.items()
            if first <= self.boundary and value not in late and found.sizes[value] * SMALL > largest
        ]
        self.inside: dict[Value, list[Node]] = {value: [] for value in self.large}
        for work in self.early:
            for held in found.writes[work]:
                if held in self.inside:
                    self.inside[held] += work.nodes
        self.plans: dict[frozenset[Value], _Plan] = {frozenset(): start}

    def choose(self, budget: int) -> _Plan:
        found = list(self._by_price(budget))
        cheap = CHEAP * sum(node_cost(n, self.count) for n in self.start.graph.nodes)
        if not any(plan.peak <= budget and plan.cost <= cheap for plan in found):
            found += self._by_segments(budget)
        fitting = [plan for plan in found if plan.peak <= budget]
        if fitting:
            return min(fitting, key=lambda plan: (plan.cost, plan.peak))
        return min([self.start, *found], key=lambda plan: plan.peak)

    def _plan(self, kept: Collection[Value]) -> _Plan:
        """The plan that keeps these of the large values."""
        key = frozenset(self.large).difference(kept)
        if key not in self.plans:
            nodes = [node for held in key for node in self.inside[held]]
            again = {value for node in nodes for value in node.outputs}
            self.plans[key] = _made(self.start, self.boundary, again, (), self.count)
        return self.plans[key]

    def _price(self, value: Value) -> float:
        """The cost of computing a value again, per byte."""
        nodes = dict.fromkeys(self.inside[value])
        return sum(node_cost(node, self.count) for node in nodes) / self.found.sizes[value]

    def _by_price(self, budget: int) -> Iterator[_Plan]:
        """Plans that keep less and less; the values that are cheapest to compute again are given up
        first."""
        order = self._dearest(set())
        for part in range(PARTS - 1, -1, -1):
            kept = order[: len(order) * part // PARTS]
            plan = self._plan(kept)
            yield plan
            if plan.peak <= budget:
                more = order[len(kept) : len(order) * (part + 1) // PARTS]
                yield from self._most(kept, more, budget)
                break

    def _by_segments(self, budget: int) -> Iterator[_Plan]:
        """Plans that keep the values at a few boundaries, and what costs most besides, if the
        budget allows."""
        for count in SEGMENTS:
            kept = self._boundaries(count)
            plan = self._plan(kept)
            yield plan
            if plan.peak <= budget:
                yield from self._most(kept, self._dearest(kept), budget)

    def _dearest(self, kept: Collection[Value]) -> list[Value]:
        """The other values that could be kept, the highest cost per byte first."""
        others = (v for v in self.large if v in self.across and v not in kept)
        return sorted(others, key=self._price, reverse=True)

    def _most(
        self, kept: Collection[Value], order: Sequence[Value], budget: int
    ) -> Iterator[_Plan]:
        """Plans that keep as many of the values, in their order, as the budget allows; found by
        bisection."""
        low, high = 0, len(order)
        for _ in range(HALVINGS):
            if high - low < 2:
                break
            middle = (low + high) // 2
            plan = self._plan({*kept, *order[:middle]})
            yield plan
            low, high = (middle, high) if plan.peak <= budget else (low, middle)

    def _boundaries(self, count: int) -> set[Value]:
        """The large values at the boundaries between `count` parts of equal bytes, and those of the
        last part, which would have to be computed again at once."""
        written = [
            sum(self.found.sizes[v] for v in self.found.writes[work] if v in self.across)
            for work in self.early
        ]
        total, sofar, part = sum(written), 0, 1
        kept: set[Value] = set()
        last, end = self._last_early(), 0
        for place, size in enumerate(written):
            sofar += size
            if sofar * count >= total * part and part < count:
                part = sofar * count // max(total, 1) + 1
                kept |= {v for v in self.large if self.live_ranges[v][0] <= place < last.get(v, -1)}
                end = place
        return kept | {v for v in self.large if v in self.across and self.live_ranges[v][0] > end}

    def _last_early(self) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for place, work in enumerate(self.early):
            last |= dict.fromkeys(self.found.reads[work], place)
        return last
