"""Gives every value of a program an offset in one arena, and every weight an offset in the blob.

Values that are alive at the same step never overlap, unless a kernel writes its output over an
input that it reads for the last time. Sizes of the form number * P, with one polynomial P of
symbols for all of them (P = 1: static sizes; P = batch), are planned together (see place_values),
and the arenas of different P lie one after the other. Where that takes much more than is alive at
once, the places of values whose sizes follow from the inputs' are computed in the run instead (see
stack_values).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import evaluate, evaluate_named
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import MemoryPlan, Program
from bessemer.compiler.memory_plan.live_ranges import LiveRange, LiveRanges
from bessemer.compiler.memory_plan.place_values import most_alive, place_values
from bessemer.compiler.memory_plan.stack_values import best_stack

ALIGNMENT = 64
WASTE = 1.1
"""A multiple of the bytes alive at once. If parts at fixed places take more, places are computed by
the run."""


@dataclass
class _Arena:
    """Places in the arena; the fields are those of `MemoryPlan`."""

    offsets: dict[Value, Size] = field(default_factory=dict)
    ends: tuple[Size, ...] = ()
    units: tuple[Size, ...] = ()
    parts: dict[Value, tuple[int, int]] = field(default_factory=dict)
    definitions: Mapping[str, Size] = field(default_factory=dict)

    @property
    def end(self) -> Size:
        return self.ends[-1] if self.ends else 0


def plan_memory(program: Program, alignment: int = ALIGNMENT, in_run: bool = True) -> MemoryPlan:
    """The places of all values; see `MemoryPlan`. Those of known sizes are multiples of `alignment`
    bytes, all others of ALIGNMENT. `in_run`: whether places may be computed in the run."""
    ranges = LiveRanges(program)
    weight_offsets, weights_size = _place_weights(program, ranges.used, alignment)
    fixed = set(program.weights) | set(program.inputs)
    fixed |= {v for v in program.outputs if not is_data_dependent(program, v)}
    ranges.replace_in_place(fixed | set(program.capacities))
    places: dict[Value, LiveRange] = {}
    for value, live in ranges.of.items():
        if not any(member in fixed for member in ranges.members(value)):
            places[value] = live
    sizes = {value: nbytes(program, value) for value in places}
    arena = _parts(places, sizes, program, alignment, _Arena())
    if in_run and len(arena.units) > 1:
        arena = _stacked(places, sizes, program, arena)
    return MemoryPlan(
        offsets={
            member: offset
            for value, offset in arena.offsets.items()
            for member in ranges.members(value)
        },
        size=arena.end,
        lower_bound=_lower_bound(places, sizes),
        weight_offsets=weight_offsets,
        weights_size=weights_size,
        aliases=ranges.roots(),
        ends=arena.ends,
        units=arena.units,
        parts=arena.parts,
        definitions=arena.definitions,
    )


def is_data_dependent(program: Program, value: Value) -> bool:
    """Whether a value's shape is only known once the model has run."""
    known = set(program.symbols[: program.input_symbols])
    return any(not dims.symbol_names(program.expanded(size)) <= known for size in value.type.shape)


def nbytes(program: Program, value: Value) -> Size:
    """The bytes to keep for a value: its size, or its capacity if that is known later."""
    count = program.capacities.get(value, value.type.numel)
    return count * value.type.dtype.bytes


def _place_weights(
    program: Program, used: Mapping[Value, None], alignment: int
) -> tuple[dict[Value, int], int]:
    offsets: dict[Value, int] = {}
    position = 0
    for value in used:
        if value in program.weights:
            offsets[value] = position
            size = dims.number(nbytes(program, value))
            position += -(-size // alignment) * alignment
    return offsets, position


def _parts(
    ranges: Mapping[Value, LiveRange],
    sizes: Mapping[Value, Size],
    program: Program,
    alignment: int,
    arena: _Arena,
) -> _Arena:
    """`arena` and behind it a part for each kind of size; those known early come first."""
    classes: dict[Size, list[tuple[Value, int]]] = {}
    for value in ranges:
        unit, count = _unit(sizes[value])
        # A place that grows with a symbol would grow with the symbol's multiples of the alignment.
        multiple = alignment if unit == 1 else ALIGNMENT
        classes.setdefault(unit, []).append((value, -(-count // multiple) * multiple))

    def when_known(unit: Size) -> tuple[int, str]:
        names = dims.symbol_names(program.expanded(unit))
        return max((program.symbols.index(name) for name in names), default=-1), str(unit)

    units, offsets, places = list(arena.units), dict(arena.offsets), dict(arena.parts)
    ends, end = list(arena.ends), arena.end
    for unit in sorted(classes, key=when_known):
        placed, extent = place_values(classes[unit], ranges)
        places |= {value: (len(units), position) for value, position in placed.items()}
        offsets |= {value: end + unit * position for value, position in placed.items()}
        end = end + _counted(unit, program) * extent
        ends.append(end)
        units.append(unit)
    return _Arena(offsets, tuple(ends), tuple(units), places, arena.definitions)


def _stacked(
    ranges: Mapping[Value, LiveRange],
    sizes: Mapping[Value, Size],
    program: Program,
    parts: _Arena,
) -> _Arena:
    """An arena with places computed in the run, where that takes much less than `parts`."""
    known = set(program.symbols[: program.input_symbols])

    def is_early(size: Size) -> bool:
        return dims.symbol_names(program.expanded(size)) <= known

    early = [value for value in ranges if is_early(sizes[value])]
    if not early:
        return parts
    examples = [
        (
            [(value, evaluate_named(program.expanded(sizes[value]), at)) for value in early],
            max(evaluate_named(program.expanded(end), at) for end in parts.ends if is_early(end)),
        )
        for at in _examples(program.symbols[: program.input_symbols])
    ]
    stack, waste = best_stack([wanted for wanted, _ in examples], ranges, ALIGNMENT)
    bounds = [max(most_alive(wanted, ranges), 1) for wanted, _ in examples]
    if max(end / bound for (_, end), bound in zip(examples, bounds)) < max(WASTE, waste):
        return parts
    definitions, offsets, end = stack.places(sizes)
    late = {value: live for value, live in ranges.items() if value not in offsets}
    return _parts(late, sizes, program, ALIGNMENT, _Arena(offsets, (end,), (1,), {}, definitions))


def _examples(symbols: Sequence[str]) -> list[dict[str, int]]:
    """Sizes of inputs to compare plans by; the first symbol is most often the batch."""
    found = [dict.fromkeys(symbols, count) for count in (64, 320)]
    return [*found, found[1] | dict.fromkeys(symbols[:1], 1)]


def _counted(unit: Size, program: Program) -> Size:
    """A unit's size from 0 on: it may be negative where the data leaves out what it counts."""
    known = set(program.symbols[: program.input_symbols])
    if isinstance(unit, int) or min(unit.terms.values()) > 0:
        return unit
    return unit if dims.symbol_names(program.expanded(unit)) <= known else dims.maximum(unit, 0)


def _unit(size: Size) -> tuple[Size, int]:
    """size as (polynomial, number): the number is the greatest common divisor of its terms."""
    if isinstance(size, int):
        return 1, size
    divisor = math.gcd(*size.terms.values())
    unit = dims.divide_exactly(size, divisor)
    assert unit is not None
    return unit, divisor


def _lower_bound(ranges: Mapping[Value, LiveRange], sizes: Mapping[Value, Size]) -> Size:
    """The largest sum of bytes alive at one step (with symbols: at the step where it is largest
    when every symbol is 64)."""
    changes: dict[int, list[tuple[Value, int]]] = {}
    for value, live in ranges.items():
        changes.setdefault(live.first, []).append((value, 1))
        changes.setdefault(live.last + 1, []).append((value, -1))
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
