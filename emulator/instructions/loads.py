"""ld, ldu, st: loads and stores of one to eight neighbours, in every space."""

from __future__ import annotations

import numpy as np

from emulator.instructions.access import load, space_of, store
from emulator.instructions.operands import (
    Family,
    Step,
    address_reader,
    parts_of,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.syntax import Address, Instruction, Symbol
from emulator.state.arrays import UNSIGNED, WIDTHS, Array, numpy_type
from emulator.state.machine import Lanes, Machine


def _bits_type(instruction: Instruction) -> tuple[str, int]:
    name = instruction.type
    if name not in WIDTHS or WIDTHS[name] not in (8, 16, 32, 64):
        raise unsupported(instruction)
    return name, WIDTHS[name] // 8


def _load(instruction: Instruction) -> Step:
    name, size = _bits_type(instruction)
    results = parts_of(instruction.operands[0])
    space = space_of(instruction.opcode)
    source = instruction.operands[1]
    if space == "param" and isinstance(source, Address) and isinstance(source.base, Symbol):
        return _load_parameter(instruction, source.base.name, source.offset)
    write = [writer(one, name) for one in results]
    addresses = address_reader(source)
    dtype = numpy_type(name)

    def step(machine: Machine, lanes: Lanes) -> None:
        values = load(machine, lanes, space, addresses(machine, lanes), size, len(write))
        for put, value in zip(write, values):
            put(machine, lanes, value.view(dtype))

    return step


def _load_parameter(instruction: Instruction, symbol: str, offset: int) -> Step:
    """The same place for all threads: read once."""
    name, size = _bits_type(instruction)
    write = [writer(one, name) for one in parts_of(instruction.operands[0])]

    def step(machine: Machine, lanes: Lanes) -> None:
        start = np.array([machine.symbols[symbol] + offset])
        values = machine.parameters.load(start, size, len(write))
        for put, value in zip(write, values):
            put(machine, lanes, value.view(numpy_type(name)))

    return step


def _store(instruction: Instruction) -> Step:
    name, size = _bits_type(instruction)
    addresses = address_reader(instruction.operands[0])
    read = [spread_reader(one, name) for one in parts_of(instruction.operands[1])]
    space = space_of(instruction.opcode)
    bits = UNSIGNED[8 * size]

    def step(machine: Machine, lanes: Lanes) -> None:
        values: list[Array] = [one(machine, lanes).view(bits) for one in read]
        store(machine, lanes, space, addresses(machine, lanes), values, size)

    return step


def _nothing(instruction: Instruction) -> Step:
    return lambda machine, lanes: None


FAMILY: Family = {
    "ld": _load,
    "ldu": _load,
    "st": _store,
    "prefetch": _nothing,
    "prefetchu": _nothing,
    "discard": _nothing,
    "applypriority": _nothing,
}
