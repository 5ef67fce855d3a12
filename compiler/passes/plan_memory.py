"""Gives every value of a program a place in one arena, and every weight a place in the blob.

Values that are alive at the same step never overlap, unless a kernel writes its output over an
input that it reads for the last time. Sizes of the form number * P, with one
polynomial P of symbols for all of them (P = 1: static sizes; P = batch), are planned together,
greedily by size: the largest value first, each at the lowest offset that is free during its life
(Pisarchyk & Lee 2020, arXiv 2001.03288). The arenas of different P lie one after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Copy,
    Launch,
    MemoryPlan,
    Program,
    Repeat,
    RequireFinite,
    Step,
)
from bessemer.compiler.ir.types import Array

ALIGNMENT = 64
REPAIRS = 60
"""How often a placement is tried again in another order, while it is above the lower bound."""


@dataclass
class Life:
    """The first and the last step at which a value is needed."""

    first: int
    last: int


def plan_memory(program: Program, alignment: int = ALIGNMENT) -> MemoryPlan:
    """The places of all values; see `MemoryPlan`. Those of known sizes are multiples of `alignment`
    bytes, all others of ALIGNMENT."""
    lives = _Lives(program)
    weight_offsets, weights_size = _place_weights(program, lives.used, alignment)
    fixed = set(program.weights) | set(program.inputs)
    fixed |= {v for v in program.outputs if not is_data_dependent(program, v)}
    lives.replace_in_place(fixed | set(program.capacities))
    places: dict[Value, Life] = {}
    for value, life in lives.of.items():
        if not any(member in fixed for member in lives.members(value)):
            places[value] = life
    sizes = {value: nbytes(program, value) for value in places}
    parts, units, ends = _place(places, sizes, program, alignment)
    starts = (0, *ends)
    everywhere = {
        member: starts[part] + units[part] * position
        for value, (part, position) in parts.items()
        for member in lives.members(value)
    }
    bound = _lower_bound(places, sizes)
    return MemoryPlan(
        everywhere,
        ends[-1] if ends else 0,
        bound,
        weight_offsets,
        weights_size,
        lives.roots(),
        ends,
        units,
        parts,
    )


def is_data_dependent(program: Program, value: Value) -> bool:
    """Whether a value's shape is only known once the model has run."""
    known = set(program.symbols[: program.input_symbols])
    return any(not dims.symbol_names(program.expanded(size)) <= known for size in value.type.shape)


def nbytes(program: Program, value: Value) -> Size:
    """The bytes to keep for a value: its size, or its capacity if that is known later."""
    count = program.capacities.get(value, value.type.numel)
    return count * value.type.dtype.bytes


class _Lives:
    """The life of every value that a program touches; aliases live as one."""

    def __init__(self, program: Program) -> None:
        self.of: dict[Value, Life] = {}
        self.used: dict[Value, None] = {}
        self._root: dict[Value, Value] = {}
        self._members: dict[Value, list[Value]] = {}
        self._launches: list[tuple[int, Launch]] = []  # those that run once
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
        while value in self._root:
            value = self._root[value]
        return value

    def roots(self) -> dict[Value, Value]:
        return {value: self.root(value) for value in self._root}

    def members(self, value: Value) -> list[Value]:
        return [value, *self._members.get(value, [])]

    def _touch(self, value: Value) -> None:
        self.used[value] = None
        value = self.root(value)
        life = self.of.get(value)
        if life is None:
            self.of[value] = Life(self._time, self._time)
        else:
            life.last = self._time

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._time += 1
            match step:
                case Launch():
                    self._touch_all(step.values)
                    if not self._depth:
                        self._launches.append((self._time, step))
                case BindDims(value=value) | RequireFinite(value=value):
                    self._touch(value)
                case Copy(source, target):
                    self._touch_all((source, target))
                case Alias(source, target):
                    self._alias(source, target)
                case Branch():
                    self._touch(step.condition)
                    self._steps(step.then)
                    self._steps(step.otherwise)
                case Repeat():
                    self._repeat(step)

    def replace_in_place(self, kept: set[Value]) -> None:
        """Lets a kernel's output take the place of an input that is not needed after it."""
        for time, step in self._launches:
            target = step.values[-step.kernel.outputs]
            life = self.of.get(target)
            if life is None or life.first != time or target in kept or target in self._root:
                continue
            for source in map(self.root, step.replaceable):
                before = self.of[source]
                if before.last == time and kept.isdisjoint(self.members(source)):
                    self._join(source, target)
                    before.last = life.last
                    del self.of[target]
                    break

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
        for value, life in self.of.items():
            if value in self._program.capacities:
                life.first = min(life.first, before) if life.last > before else life.first
            if life.first <= before < life.last:
                life.last = self._time


def _place_weights(
    program: Program, used: Mapping[Value, None], alignment: int
) -> tuple[dict[Value, int], int]:
    offsets: dict[Value, int] = {}
    position = 0
    for value in used:
        array = program.weights.get(value)
        if array is not None:
            offsets[value] = position
            position += -(-array.nbytes // alignment) * alignment
    return offsets, position


def _place(
    lives: Mapping[Value, Life], sizes: Mapping[Value, Size], program: Program, alignment: int
) -> tuple[dict[Value, tuple[int, int]], tuple[Size, ...], tuple[Size, ...]]:
    """For each value its part of the arena and its position there, in units of the part; the units;
    and where the parts end. Parts whose size is known early come first."""
    classes: dict[Size, list[tuple[Value, int]]] = {}
    for value in lives:
        unit, count = _unit(sizes[value])
        # A place that grows with a symbol would grow with the symbol's multiples of the alignment.
        multiple = alignment if unit == 1 else ALIGNMENT
        classes.setdefault(unit, []).append((value, -(-count // multiple) * multiple))

    def when_known(unit: Size) -> tuple[int, str]:
        names = dims.symbol_names(program.expanded(unit))
        return max((program.symbols.index(name) for name in names), default=-1), str(unit)

    units = tuple(sorted(classes, key=when_known))
    places: dict[Value, tuple[int, int]] = {}
    ends: list[Size] = []
    end: Size = 0
    for part, unit in enumerate(units):
        placed, extent = _greedy(classes[unit], lives)
        places |= {value: (part, position) for value, position in placed.items()}
        end = end + unit * extent
        ends.append(end)
    return places, units, tuple(ends)


def _unit(size: Size) -> tuple[Size, int]:
    """size as (polynomial, number): the number is the greatest common divisor of its terms."""
    if isinstance(size, int):
        return 1, size
    divisor = math.gcd(*size.terms.values())
    unit = dims.divide_exactly(size, divisor)
    assert unit is not None
    return unit, divisor


def _greedy(
    wanted: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]
) -> tuple[dict[Value, int], int]:
    """The best of several greedy placements, the offsets and the extent.

    After the fixed orders, values that ended highest are placed earlier, as long as that helps.
    """
    bound = _concurrent(wanted, lives)
    orders = [
        sorted(wanted, key=lambda item: -item[1]),
        sorted(wanted, key=lambda item: (lives[item[0]].first, -item[1])),
        sorted(wanted, key=lambda item: (-_length(lives[item[0]]), -item[1])),
        sorted(wanted, key=lambda item: -item[1] * (1 + _length(lives[item[0]]))),
    ]
    best, extent = min((_in_order(order, lives) for order in orders), key=lambda found: found[1])
    order, tries = orders[0], 0
    while extent > bound and tries < REPAIRS:
        offsets, reached = _in_order(order, lives)
        if reached < extent:
            best, extent = offsets, reached
        # The value that ends highest had to go where the others left room: it chooses earlier now.
        top = max(order, key=lambda item: offsets[item[0]] + item[1])
        place = order.index(top)
        order = [*order[: place // 2], top, *order[place // 2 : place], *order[place + 1 :]]
        if place == 0:
            break
        tries += 1
    return best, extent


def _length(life: Life) -> int:
    return life.last - life.first


def _concurrent(wanted: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]) -> int:
    """The largest sum of sizes alive at one step: no placement needs less."""
    changes: dict[int, int] = {}
    for value, size in wanted:
        changes[lives[value].first] = changes.get(lives[value].first, 0) + size
        changes[lives[value].last + 1] = changes.get(lives[value].last + 1, 0) - size
    return max(itertools.accumulate(changes[time] for time in sorted(changes)), default=0)


def _in_order(
    order: Sequence[tuple[Value, int]], lives: Mapping[Value, Life]
) -> tuple[dict[Value, int], int]:
    """Places values one after the other, each at the lowest offset that is free during its life."""
    first = np.array([lives[value].first for value, _ in order])
    last = np.array([lives[value].last for value, _ in order])
    starts, ends = np.zeros((2, len(order)), np.int64)
    for place, (_, size) in enumerate(order):
        meets = (first[:place] <= last[place]) & (last[:place] >= first[place])
        starts[place] = _lowest(starts[:place][meets], ends[:place][meets], size)
        ends[place] = starts[place] + size
    offsets = {value: int(start) for (value, _), start in zip(order, starts, strict=True)}
    return offsets, int(ends.max(initial=0))


def _lowest(starts: Array, ends: Array, size: int) -> int:
    """The lowest offset of so many bytes that are in none of these stretches."""
    if not len(starts):
        return 0
    by_start = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[by_start])
    room = starts[by_start]
    room[1:] -= reached[:-1]
    fits = np.flatnonzero(room >= size)
    if not len(fits):
        return int(reached[-1])
    return int(reached[fits[0] - 1]) if fits[0] else 0


def _lower_bound(lives: Mapping[Value, Life], sizes: Mapping[Value, Size]) -> Size:
    """The largest sum of bytes alive at one step (with symbols: at the step where it is largest
    when every symbol is 64)."""
    changes: dict[int, list[tuple[Value, int]]] = {}
    for value, life in lives.items():
        changes.setdefault(life.first, []).append((value, 1))
        changes.setdefault(life.last + 1, []).append((value, -1))
    alive: Size = 0
    best: Size = 0
    for time in sorted(changes):
        for value, sign in changes[time]:
            alive = alive + sign * sizes[value]
        if _typical(alive) > _typical(best):
            best = alive
    return best


def _typical(size: Size) -> int:
    return evaluate(size, lambda _: 64)
