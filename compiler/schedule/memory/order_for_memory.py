"""Puts a graph's nodes into an order in which fewer bytes are in memory at once.

A group's kernel runs at the place of the group's last node. A group that frees more memory than it
takes (an optimizer's update, after which a gradient is not needed) should run as early as possible,
and a group that takes more than it frees (a mask) as late as possible. Several orders are tried,
and compared by the bytes alive (live_memory.py). The order is only changed if that saves something.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.schedule.memory.live_memory import Count, LiveMemory, Work, live_memory

SMALL = 64
"""A value this many times smaller than what it is computed from is computed as soon as possible, so
that its operands can be freed."""
LITTLE = 256
"""Fewer bytes than this do not matter."""
WORTH = 0.005
"""The least share of the peak that another order must save."""


def order_for_memory(graph: Graph, count: Count | None = None) -> Graph:
    """The graph in the best order found; the same object if its own order is the best.

    A graph whose nodes find out sizes while running is not changed. `count` is as in live_memory.
    """
    if any(defined_symbols(node) for node in graph.nodes):
        return graph
    found = live_memory(graph, count)
    before = _dependencies(graph, found)
    early = _scheduled(found, found.works, before)
    late = _scheduled_late(found, found.works, before)
    tries = (early, _scheduled(found, late, before), _scheduled_late(found, early, before), late)
    best, least = found.works, found.peak()
    for order in tries:
        if (peak := found.peak(order)) <= (1 - WORTH) * least:
            best, least = order, peak
    return graph if best is found.works else replace(graph, nodes=_written(graph, best))


def _written(graph: Graph, works: Sequence[Work]) -> tuple[Node, ...]:
    nodes = dict.fromkeys(node for work in works for node in work.nodes)
    return (*nodes, *(node for node in graph.nodes if node not in nodes))


Before = Mapping[Work, set[Work]]


def _dependencies(graph: Graph, found: LiveMemory) -> Before:
    """The works that must be done before each work.

    The new value of a state overwrites the old one. So it is computed after the works that read the
    old value, and after those that compute the values which must be finite for an update to be
    made.
    """
    writer = {value: work for work in found.works for value in work.writes}
    before = {work: {writer[v] for v in work.reads if v in writer} for work in found.works}
    after: dict[Work, set[Work]] = {work: set() for work in found.works}
    for work, others in before.items():
        for other in others:
            after[other].add(work)
    readers: dict[Value, list[Work]] = {}
    for work in found.works:
        for value in work.reads:
            readers.setdefault(value, []).append(work)
    checks = {writer[v] for v in (graph.outputs[k] for k in graph.finite) if v in writer}
    for output, place in graph.updates:
        maker = writer.get(graph.outputs[output])
        if maker is None:
            continue
        later = _reachable(maker, after)
        for other in (*readers.get(graph.inputs[place], ()), *checks):
            if other not in later:
                before[maker].add(other)
                after[other].add(maker)
    return before


def _reachable(work: Work, after: Mapping[Work, set[Work]]) -> set[Work]:
    seen = {work}
    waiting = [work]
    while waiting:
        for other in after[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def _scheduled(found: LiveMemory, order: Sequence[Work], before: Before) -> tuple[Work, ...]:
    """The order, changed so that works that free as much as they take run as soon as they can. So
    do small works, and works whose only purpose is a next one that frees memory."""
    readers: dict[Value, set[Work]] = {value: set() for value in found.sizes}
    for work in order:
        for value in found.reads[work]:
            readers[value].add(work)
    alive: set[Value] = set()
    done: set[Work] = set()

    def size(values: Iterable[Value]) -> int:
        return sum(found.sizes[value] for value in values)

    def gain(work: Work) -> int | None:
        reads, writes = found.reads[work], found.writes[work] - alive
        taken = size(writes - reads)
        freed = size(value for value in reads if len(readers[value]) == 1)
        if not writes:
            return freed + size(reads)  # nothing is lost, and what it reads may be free the sooner
        if taken <= freed + LITTLE or taken * SMALL <= size(reads):
            return freed - taken
        if len(writes) != 1 or len(readers[next(iter(writes))]) != 1:
            return None
        (value,) = writes
        (then,) = readers[value]
        if not before[then] - {work} <= done:
            return None
        others = found.reads[then] - reads
        freed += size(v for v in others if v is value or len(readers[v]) == 1)
        more = freed - taken - size(found.writes[then] - alive)
        return more if more >= 0 else None

    def finish(work: Work) -> None:
        done.add(work)
        alive.update(found.writes[work])
        for value in found.reads[work]:
            readers[value].discard(work)

    return _listed(order, before, gain, finish)


def _scheduled_late(found: LiveMemory, order: Sequence[Work], before: Before) -> tuple[Work, ...]:
    """The order, changed so that works that take more than they free run as late as they can. Seen
    from the end, a work frees what it writes and needs what it reads."""
    alive: set[Value] = set()

    def gain(work: Work) -> int | None:
        reads, writes = found.reads[work], found.writes[work]
        taken = sum(found.sizes[value] for value in reads - alive - writes)
        freed = sum(found.sizes[value] for value in writes & alive)
        return freed - taken if taken <= freed and freed else None

    def finish(work: Work) -> None:
        alive.difference_update(found.writes[work])
        alive.update(found.reads[work])

    after: dict[Work, set[Work]] = {work: set() for work in order}
    for work, others in before.items():
        for other in others:
            after[other].add(work)
    return _listed(order[::-1], after, gain, finish)[::-1]


def _listed(
    order: Sequence[Work],
    before: Before,
    gain: Callable[[Work], int | None],
    finish: Callable[[Work], None],
) -> tuple[Work, ...]:
    """All works in the given order, except that works for which `gain` is not None run as soon as
    they can, the largest gain first. `finish` is called for each work that has been placed."""
    places = {work: place for place, work in enumerate(order)}
    waits = {work: len(before[work]) for work in order}
    after: dict[Work, list[Work]] = {work: [] for work in order}
    for work in order:
        for other in before[work]:
            after[other].append(work)
    ready = [places[work] for work in order if not waits[work]]  # in ascending order
    found: list[Work] = []
    while ready:
        gains = {p: more for p in ready[:LOOK] if (more := gain(order[p])) is not None}
        chosen = max(gains, key=gains.__getitem__, default=ready[0])
        del ready[bisect_left(ready, chosen)]
        work = order[chosen]
        finish(work)
        found.append(work)
        for other in after[work]:
            waits[other] -= 1
            if not waits[other]:
                insort(ready, places[other])
    return tuple(found)


LOOK = 32
"""The number of works that are ready whose gains are compared."""
