"""atom and red: read, change, write in one step, one thread after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.access import by_space, locate, space_of
from emulator.instructions.floats import values_of
from emulator.instructions.operands import (
    Family,
    Step,
    address_reader,
    parts_of,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.syntax import Discard, Instruction, Operand
from emulator.state.arrays import UNSIGNED, WIDTHS, Array, numpy_type
from emulator.state.machine import Lanes, Machine

Change = Callable[[Array, Array, Array], Array]
"""Old value, operand, second operand (cas only) -> new value; arrays of different addresses."""


def _wrapped_increment(old: Array, most: Array, _: Array) -> Array:
    result: Array = np.where(old >= most, old.dtype.type(0), old + old.dtype.type(1))
    return result


def _wrapped_decrement(old: Array, most: Array, _: Array) -> Array:
    return np.where((old == 0) | (old > most), most, old - old.dtype.type(1))


_CHANGES: dict[str, Change] = {
    "add": lambda old, value, _: old + value,
    "min": lambda old, value, _: np.minimum(old, value),
    "max": lambda old, value, _: np.maximum(old, value),
    "and": lambda old, value, _: old & value,
    "or": lambda old, value, _: old | value,
    "xor": lambda old, value, _: old ^ value,
    "exch": lambda old, value, _: value,
    "inc": _wrapped_increment,
    "dec": _wrapped_decrement,
    "cas": lambda old, expected, new: np.where(old == expected, new, old),
}


def _change_of(instruction: Instruction) -> Change:
    found = [part for part in instruction.opcode[1:] if part in _CHANGES]
    if len(found) != 1:
        raise unsupported(instruction)
    change = _CHANGES[found[0]]
    kind = values_of(instruction.type)
    if instruction.type not in ("f16", "bf16", "f16x2", "bf16x2"):
        return change
    return lambda old, value, other: kind.bits(change(kind.of(old), kind.of(value), other))


def _atomic(instruction: Instruction) -> Step:
    name = instruction.type
    if name not in WIDTHS or WIDTHS[name] not in (16, 32, 64):
        raise unsupported(instruction)
    gives = instruction.opcode[0] == "atom"
    operands = instruction.operands if gives else (Discard(), *instruction.operands)
    vector = next((int(part[1:]) for part in instruction.opcode if part in ("v2", "v4", "v8")), 1)
    results: tuple[Operand, ...] = parts_of(operands[0]) if gives else (Discard(),) * vector
    write = [writer(one, name) for one in results]
    addresses = address_reader(operands[1])
    values = [spread_reader(one, name) for one in parts_of(operands[2])]
    others = (
        spread_reader(operands[3], name) if len(operands) > 3 and instruction.has("cas") else None
    )
    space, change, size = space_of(instruction.opcode), _change_of(instruction), WIDTHS[name] // 8

    def step(machine: Machine, lanes: Lanes) -> None:
        where = addresses(machine, lanes)
        for place, (read, put) in enumerate(zip(values, write)):
            value = read(machine, lanes)
            other = others(machine, lanes) if others else value
            old = _change_memory(
                machine, lanes, space, where + place * size, value, other, change, size
            )
            put(machine, lanes, old.view(numpy_type(name)))

    return step


def _change_memory(
    machine: Machine,
    lanes: Lanes,
    space: str,
    addresses: Array,
    value: Array,
    other: Array,
    change: Change,
    size: int,
) -> Array:
    """Changes memory for every lane in some order; gives the bits before."""
    bits = UNSIGNED[8 * size]
    if space == "":
        result = np.zeros(lanes.count, bits)
        for name, part, own in by_space(addresses):
            chosen = Lanes(lanes.index[part])
            result[part] = _change_memory(
                machine, chosen, name, own, value[part], other[part], change, size
            )
        return result
    memory, offsets = locate(machine, lanes, space, addresses)
    if memory is machine.shared and machine.races is not None:
        warps, each = machine.warp[lanes.index], machine.lane[lanes.index]
        machine.races.write(warps, each, offsets, size, atomic=True)
    old = np.zeros(lanes.count, bits)
    for turn in _turns(machine, offsets):
        before = memory.load(offsets[turn], size, 1)[0]
        old[turn] = before
        after = change(before.view(value.dtype), value[turn], other[turn])
        memory.store(offsets[turn], [np.ascontiguousarray(after).view(bits)], size)
    return old


def _turns(machine: Machine, offsets: Array) -> list[Array]:
    """The lanes in turns, in each of which all offsets differ."""
    order = np.arange(len(offsets))
    if machine.schedule.seed is not None:
        order = machine.random.permutation(len(offsets))
    by_offset = order[np.argsort(offsets[order], kind="stable")]
    sorted_offsets = offsets[by_offset]
    starts = np.nonzero(np.diff(sorted_offsets, prepend=sorted_offsets[:1] - 1))[0]
    lengths = np.diff(np.append(starts, len(offsets)))
    rank = np.arange(len(offsets)) - np.repeat(starts, lengths)
    return [by_offset[rank == turn] for turn in range(int(lengths.max(initial=0)))]


FAMILY: Family = {"atom": _atomic, "red": _atomic}
