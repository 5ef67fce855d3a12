"""Orders the steps of a program so that outputs can be written where inputs are (Graph.updates).

    w' = w - rate * g       runs after the last step that reads w, or reads it element by element

The kernel of such an output waits for all other readers of its input. In two cases the output is
computed elsewhere and copied at the end: if the waits would form a cycle (two inputs change
places), and if the kernel would read elements that it has already overwritten.

Steps whose results are needed for updates only, such as the gradients of parameters, run as soon as
the update that follows them can run, or as soon as that frees at least the memory that it takes. So
gradients do not stay in memory for long. All other steps keep their order. No update runs before
the values that must be finite (Graph.finite) have been checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.program import (
    Alias,
    Copy,
    Launch,
    RequireFinite,
    Step,
)
from bessemer.compiler.ir.walk_steps import root_of, sets_symbols, touched

_TYPICAL = 64
"""The value assumed for every symbol where sizes are compared."""

_SMALL = 64  # bytes


def order_updates(
    graph: Graph, outputs: tuple[Value, ...], steps: Sequence[Step]
) -> tuple[tuple[Value, ...], tuple[Step, ...]]:
    """The outputs and steps of the graph's program, in an order in which updated outputs overwrite
    inputs.

    `outputs` are the program's, in the order of the graph's.
    """
    if not graph.updates and not graph.finite:
        return outputs, tuple(steps)
    checks = [RequireFinite(outputs[k], graph.output_names[k] or "the loss") for k in graph.finite]
    found = list(outputs)
    work = [*steps, *checks]
    known = {value for node in graph.walk() for value in node.outputs}
    while True:
        places = {found[output]: graph.inputs[given] for output, given in graph.updates}
        order = _Order(work, places, set(found), known)
        result = order.steps()
        if not order.separate:
            return tuple(found), tuple(result)
        for value in order.separate:
            target = Value(value.type, value.name)
            found[found.index(value)] = target
            work.append(Copy(value, target))


@dataclass(eq=False)
class _Task:
    """A step: the values that it touches, the steps that it waits for, and those that wait for
    it."""

    step: Step
    position: int
    reads: dict[Value, None]
    writes: dict[Value, None]
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)


@dataclass(eq=False)
class _Family:
    """Steps that are needed for updates only and share values. `missing` are the steps that they
    still wait for."""

    members: set[int]
    missing: set[int]


class _Order:
    """One attempt. `places` are the inputs that outputs should overwrite; afterwards, `separate`
    lists the outputs that cannot."""

    def __init__(
        self,
        steps: Sequence[Step],
        places: dict[Value, Value],
        outputs: set[Value],
        known: set[Value],
    ) -> None:
        self.places = places
        self.numbers = {value: number for number, value in enumerate(places)}
        self.outputs = outputs
        self.known = known
        self.separate: list[Value] = []
        self.tasks = [_task(step, position) for position, step in enumerate(steps)]
        self.readers: dict[Value, set[int]] = {}
        self._sources: dict[Value, Value] = {}
        self._sizes: dict[Value, int] = {}
        self._writers: dict[Value, list[_Task]] = {}
        for task in self.tasks:
            for value in task.writes:
                self._writers.setdefault(value, []).append(task)
        self._checks = [task.position for task in self.tasks if self._is_check(task.position)]
        self._wait_for_values()
        for target, source in places.items():
            self._wait_for_readers(target, source)

    def steps(self) -> list[Step]:
        """The steps in order; empty or incomplete if there are outputs in `separate`."""
        if self.separate:
            return []
        done: list[_Task] = []
        left = {task.position: len(task.before) for task in self.tasks}
        ready = {position for position, count in left.items() if not count}
        waiting = {value: len(readers) for value, readers in self.readers.items()}
        missed_by: dict[int, list[_Family]] = {}
        for family in set(self.family.values()):
            for position in family.missing:
                missed_by.setdefault(position, []).append(family)
        pack = reader = -1
        while ready:
            # What is packed for a kernel is large, so that kernel runs before anything else.
            soon = [position for position in ready if pack < position <= reader]
            task = self.tasks[min(soon) if soon else self._next(ready, waiting)]
            ready.remove(task.position)
            del left[task.position]
            if reader not in left:
                pack, reader = task.position, -1
            reader = max(reader, self._packed_for(task))
            done.append(task)
            for family in missed_by.get(task.position, ()):
                family.missing.remove(task.position)
            for value in task.reads:
                waiting[value] -= 1
            for position in task.after:
                left[position] -= 1
                if not left[position]:
                    ready.add(position)
        if left:
            # All steps before the first one are done. It waits only for readers of an input.
            first = self.tasks[min(left)]
            self.separate = [value for value in first.writes if value in self.places]
        return [task.step for task in done]

    def _packed_for(self, task: _Task) -> int:
        """The step that reads what this one has packed for it alone; -1 if there is none."""
        packed = [value for value in task.writes if value not in self.known | self.outputs]
        readers = [self.readers.get(value, set()) for value in packed]
        return max((min(found) for found in readers if len(found) == 1), default=-1)

    def _next(self, ready: set[int], waiting: dict[Value, int]) -> int:
        early = [k for k in ready if self._is_check(k)]
        early = early or [k for k in ready if k in self.family and self._may_run(k, waiting)]
        others = [k for k in ready if k not in self.family]
        return min(early or others or ready)

    def _bytes(self, value: Value) -> int:
        if value not in self._sizes:
            self._sizes[value] = evaluate(value.type.nbytes, lambda _: _TYPICAL)
        return self._sizes[value]

    def _is_check(self, position: int) -> bool:
        return isinstance(self.tasks[position].step, RequireFinite)

    def _may_run(self, position: int, waiting: dict[Value, int]) -> bool:
        if not self.family[position].missing:
            return True
        task = self.tasks[position]
        freed = sum(self._bytes(v) for v in task.reads if waiting[v] == 1 and v in self.written)
        return freed >= sum(self._bytes(v) for v in task.writes if v not in self.places)

    @cached_property
    def written(self) -> set[Value]:
        """The values that are in the arena."""
        return {value for task in self.tasks for value in task.writes} - self.outputs

    @cached_property
    def family(self) -> dict[int, _Family]:
        """For steps that are needed for updates only, their family: that of one parameter (and its
        slots), or one of its own for a step that computes a small value for several parameters."""
        reached = self._reached()
        groups = _united(
            [reached[k] | self._targets(k) for k in reached if self._targets(k)], len(self.places)
        )
        members: dict[int, set[int]] = {}
        for position, targets in reached.items():
            if len(joined := {groups[target] for target in targets}) == 1:
                members.setdefault(joined.pop(), set()).add(position)
            elif sum(map(self._bytes, self.tasks[position].writes)) <= _SMALL:
                members[-1 - position] = {position}
        found: dict[int, _Family] = {}
        for own in members.values():
            needed = set[int]().union(*(self.tasks[member].before for member in own))
            found |= dict.fromkeys(own, _Family(own, needed - own))
        return found

    def _targets(self, position: int) -> set[int]:
        """The numbers of the updated outputs that a step writes."""
        return {self.numbers[v] for v in self.tasks[position].writes if v in self.numbers}

    def _reached(self) -> dict[int, set[int]]:
        """For each step that is needed for updates only, the numbers of these."""
        reached: dict[int, set[int]] = {}
        for task in reversed(self.tasks):
            readers = set[int]().union(*(self.readers.get(value, ()) for value in task.writes))
            readers.discard(task.position)
            kept = any(v in self.outputs and v not in self.places for v in task.writes)
            targets = self._targets(task.position)
            if not kept and (readers or targets) and readers <= reached.keys():
                reached[task.position] = targets.union(*(reached[reader] for reader in readers))
        return reached

    def _wait_for_values(self) -> None:
        """Everything that touches a value waits for the steps before it that write the value."""
        writers: dict[Value, set[int]] = {}
        barrier: int | None = None
        for task in self.tasks:
            if isinstance(task.step, Alias):
                self._sources[task.step.target] = task.step.source
            for value in list(task.reads):
                task.reads[root_of(value, self._sources)] = None
            for value in task.reads:
                self._wait(task, writers.get(value, ()))
                self.readers.setdefault(value, set()).add(task.position)
            for value in task.writes:
                self._wait(task, writers.get(value, ()))
                self._wait(task, self.readers.get(value, ()))
                writers.setdefault(value, set()).add(task.position)
            if sets_symbols(task.step):
                self._wait(task, range(task.position))
                barrier = task.position
            elif barrier is not None:
                self._wait(task, (barrier,))

    def _wait_for_readers(self, target: Value, source: Value) -> None:
        """The writers of an output come after the readers of the input that it overwrites."""
        for task in self._writers.get(target, ()):
            if source in task.reads and not _goes_along(task.step, source):
                self.separate.append(target)
                return
            self._wait(task, self.readers.get(source, ()))
            self._wait(task, self._checks)

    def _wait(self, task: _Task, others: Iterable[int]) -> None:
        for other in others:
            if other != task.position:
                task.before.add(other)
                self.tasks[other].after.add(task.position)


def _goes_along(step: Step, source: Value) -> bool:
    """Whether a step reads an element of an input only before it writes the element in its
    place."""
    match step:
        case Launch():
            return source in step.replaceable or source is step.unless_in
        case Copy():
            return True
        case _:
            return False


def _task(step: Step, position: int) -> _Task:
    reads, writes = touched(step)
    return _Task(step, position, dict.fromkeys(reads), dict.fromkeys(writes))


def _united(sets: Sequence[set[int]], count: int) -> list[int]:
    """For each number, the group that it is in, if the numbers of each set are in one group."""
    group = list(range(count))

    def top(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    for numbers in sets:
        first, *others = map(top, numbers)
        for other in others:
            group[top(other)] = top(first)
    return [top(number) for number in range(count)]
