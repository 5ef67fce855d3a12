"""Puts a graph's nodes into an order in which less lies in memory at once.

A kernel runs where its group's last node stands. Groups that give back more than they take
(an optimizer's update, after which a gradient is not needed) run as soon as they can, and those
that take more than they give back (a mask) as late as they can; what order is best is said by the
bytes alive (residents.py). An order is only changed if that saves something.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.schedule.memory.residents import Count, Residents, Work, residents

SMALL = 64
"""What is this much smaller than what it is made from is made at once: that may be freed then."""
LITTLE = 256
"""Bytes that are no matter: others may wait for such a value."""
WORTH = 0.005
"""The least share of the peak that another order must save."""


def order_for_memory(graph: Graph, count: Count | None = None) -> Graph:
    """The graph in the best order found, the same object if that is its own.

    A graph whose nodes find out dimensions while running stays as it is. `count` as in residents.
    """
    if any(defined_symbols(node) for node in graph.nodes):
        return graph
    found = residents(graph, count)
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


def _dependencies(graph: Graph, found: Residents) -> Before:
    """The works that must be done before each one.

    A state's new value lies where the old one is: it is made after what reads that, and after what
    must be finite for it to be made at all.
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


def _scheduled(found: Residents, order: Sequence[Work], before: Before) -> tuple[Work, ...]:
    """The order, but what gives back as much as it takes runs when it can; so does what is small,
    and what is only a step to something that gives back."""
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


def _scheduled_late(found: Residents, order: Sequence[Work], before: Before) -> tuple[Work, ...]:
    """The order, but what takes more than it gives back runs as late as it can: seen from the end,
    a work frees what it writes and needs what it reads."""
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
    """All works, in the order given, but for those that gain something, which come as soon as they
    can, the largest gain first."""
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
"""How many of the works that can be done are asked for their gain."""
