"""When the values of a program are needed: from which step to which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Chain,
    Copy,
    Launch,
    Program,
    Repeat,
    RequireFinite,
    Step,
)


@dataclass
class LiveRange:
    """The first and the last step at which a value is needed."""

    first: int
    last: int


class LiveRanges:
    """The live range of every value that a program touches; aliases have one in common.

    `of` has them by the values whose bytes they are (their roots), `used` all values in the
    order of their first use.
    """

    def __init__(self, program: Program) -> None:
        self.of: dict[Value, LiveRange] = {}
        self.used: dict[Value, None] = {}
        self._root: dict[Value, Value] = {}
        self._members: dict[Value, list[Value]] = {}
        # What a step that runs once writes, and what of its inputs that may replace.
        self._replacing: list[tuple[int, Value, tuple[Value, ...]]] = []
        self._depth = 0
        self._time = 0
        self._program = program
        for value in program.inputs:
            self._touch(value)
        self._steps(program.steps)
        self._time += 1
        for value in program.outputs:
            self._touch(value)

    def root(self, value: Value) -> Value:
        """The value whose bytes this one shares, itself if none."""
        while value in self._root:
            value = self._root[value]
        return value

    def roots(self) -> dict[Value, Value]:
        """The values that share another's bytes, each with that one."""
        return {value: self.root(value) for value in self._root}

    def members(self, value: Value) -> list[Value]:
        """A root and all that share its bytes."""
        return [value, *self._members.get(value, [])]

    def _touch(self, value: Value) -> None:
        self.used[value] = None
        value = self.root(value)
        live = self.of.get(value)
        if live is None:
            self.of[value] = LiveRange(self._time, self._time)
        else:
            live.last = self._time

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._time += 1
            match step:
                case Launch():
                    self._touch_all(step.values)
                    target = step.values[-step.kernel.outputs]
                    self._may_replace(target, step.replaceable)
                case Chain():
                    self._touch_all(step.values)
                case BindDims(value=value) | RequireFinite(value=value):
                    self._touch(value)
                case Copy(source, target):
                    self._touch_all((source, target))
                    self._may_replace(target, (source,))
                case Alias(source, target):
                    self._alias(source, target)
                case Branch():
                    self._touch(step.condition)
                    self._steps(step.then)
                    self._steps(step.otherwise)
                case Repeat():
                    self._repeat(step)

    def replace_in_place(self, kept: set[Value]) -> None:
        """Lets what a step writes take the place of an input that is not needed after it."""
        for time, target, replaceable in self._replacing:
            live = self.of.get(target)
            if live is None or live.first != time or target in kept:
                continue
            for source in map(self.root, replaceable):
                before = self.of[source]
                if before.last == time and kept.isdisjoint(self.members(source)):
                    self._join(source, target)
                    before.last = live.last
                    del self.of[target]
                    break

    def _may_replace(self, target: Value, sources: tuple[Value, ...]) -> None:
        if not self._depth:
            self._replacing.append((self._time, target, sources))

    def _touch_all(self, values: Iterable[Value]) -> None:
        for value in values:
            self._touch(value)

    def _alias(self, source: Value, target: Value) -> None:
        self._touch(source)
        root = self.root(source)
        if target in self.of:
            raise InternalError("a value is aliased after it was written")
        self._join(root, target)
        self.used[target] = None

    def _join(self, root: Value, target: Value) -> None:
        self._root[target] = root
        self._members.setdefault(root, []).extend(self.members(target))

    def _repeat(self, step: Repeat) -> None:
        """Whatever is alive before a loop and used in it stays alive until the loop ends.

        So does what a loop collects, a slice in each iteration, from its beginning on.
        """
        before = self._time
        controls = [v for v in (step.trips, step.condition, step.iteration) if v is not None]
        self._touch_all(controls)
        self._depth += 1
        self._steps(step.body)
        self._depth -= 1
        self._time += 1
        self._touch_all(controls)
        for value, live in self.of.items():
            if value in self._program.capacities:
                live.first = min(live.first, before) if live.last > before else live.first
            if live.first <= before < live.last:
                live.last = self._time
