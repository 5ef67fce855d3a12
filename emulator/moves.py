"""mov (with packing and unpacking), cvta, isspacep, mapa, getctarank."""

from __future__ import annotations

import numpy as np

from emulator.arrays import UNSIGNED, WIDTHS, Array, numpy_type
from emulator.machine import Lanes, Machine
from emulator.operands import Family, Step, parts_of, reader, spread_reader, unsupported, writer
from emulator.space import RANK_SHIFT, SPACES, WINDOW_BYTES
from emulator.syntax import Discard, Instruction, Register, Tuple


def _move(instruction: Instruction) -> Step:
    result, source = instruction.operands
    name = instruction.type
    if isinstance(result, Tuple):
        return (
            _unpack(result, source, name) if not isinstance(source, Tuple) else _each(instruction)
        )
    if isinstance(source, Tuple):
        return _pack(result, source, name)
    read, write = reader(source, name), writer(result, name)
    return lambda machine, lanes: write(machine, lanes, read(machine, lanes))


def _each(instruction: Instruction) -> Step:
    results, sources = (parts_of(one) for one in instruction.operands)
    name = instruction.type
    moves = [(reader(one, name), writer(to, name)) for to, one in zip(results, sources)]

    def step(machine: Machine, lanes: Lanes) -> None:
        values = [read(machine, lanes) for read, _ in moves]
        for value, (_, write) in zip(values, moves):
            write(machine, lanes, value)

    return step


def _unpack(result: Tuple, source: object, name: str) -> Step:
    width = WIDTHS[name] // len(result.parts)
    read = reader(source, f"b{WIDTHS[name]}")  # type: ignore[arg-type]
    write = [writer(one, f"b{width}") for one in result.parts]
    bits, wide = UNSIGNED[width], UNSIGNED[WIDTHS[name]].type

    def step(machine: Machine, lanes: Lanes) -> None:
        whole = read(machine, lanes)
        parts = [(whole >> wide(width * place)).astype(bits) for place in range(len(write))]
        for part, put in zip(parts, write):
            put(machine, lanes, part)

    return step


def _pack(result: object, source: Tuple, name: str) -> Step:
    width = WIDTHS[name] // len(source.parts)
    read = [reader(one, f"b{width}") for one in source.parts]
    write = writer(result, f"b{WIDTHS[name]}")  # type: ignore[arg-type]
    wide = UNSIGNED[WIDTHS[name]]

    def step(machine: Machine, lanes: Lanes) -> None:
        whole: Array = read[0](machine, lanes).astype(wide)
        for place, one in enumerate(read[1:], 1):
            whole = whole | (one(machine, lanes).astype(wide) << wide.type(width * place))
        write(machine, lanes, whole)

    return step


def _space(instruction: Instruction) -> str:
    for part in instruction.opcode:
        name = part.partition("::")[0]
        if name in ("global", "shared", "local", "param", "const"):
            return name
    raise unsupported(instruction)


def _convert_address(instruction: Instruction) -> Step:
    """cvta: constants lie in global memory here, so both are the generic address itself."""
    name = instruction.type
    read, write = reader(instruction.operands[1], name), writer(instruction.operands[0], name)
    space = _space(instruction)
    window = SPACES[space] if space in ("shared", "local", "param") else 0
    shift = np.uint64(window)
    if window and name.endswith("32"):
        raise unsupported(instruction, "(generic addresses have 64 bits)")
    if "to" in instruction.opcode:
        return lambda machine, lanes: write(machine, lanes, read(machine, lanes) - shift)
    return lambda machine, lanes: write(machine, lanes, read(machine, lanes) + shift)


def _is_space(instruction: Instruction) -> Step:
    read = spread_reader(instruction.operands[1], "u64")
    write = writer(instruction.operands[0], "pred")
    space = _space(instruction)
    windows = [window for name, window in SPACES.items() if name != "const"]

    def step(machine: Machine, lanes: Lanes) -> None:
        address = read(machine, lanes).astype(np.int64)
        inside = [(address >= low) & (address < low + WINDOW_BYTES) for low in windows]
        if space in SPACES and space != "const":
            low = SPACES[space]
            write(machine, lanes, (address >= low) & (address < low + WINDOW_BYTES))
        else:
            write(machine, lanes, ~np.logical_or.reduce(inside))

    return step


def _map_address(instruction: Instruction) -> Step:
    """mapa: the address of another block's copy of a shared variable."""
    name = instruction.type
    read, rank = reader(instruction.operands[1], name), reader(instruction.operands[2], "u32")
    write = writer(instruction.operands[0], name)
    dtype = numpy_type(name)
    low = dtype.type((1 << RANK_SHIFT) - 1)
    high = dtype.type(~((1 << 32) - 1) & ((1 << WIDTHS[name]) - 1))

    def step(machine: Machine, lanes: Lanes) -> None:
        address = read(machine, lanes)
        above = (rank(machine, lanes).astype(dtype) + dtype.type(1)) << dtype.type(RANK_SHIFT)
        write(machine, lanes, (address & (low | high)) | above)

    return step


def _rank_of_address(instruction: Instruction) -> Step:
    read = reader(instruction.operands[1], instruction.type)
    result = instruction.operands[0]
    assert isinstance(result, (Register, Discard))
    write = writer(result, "u32")

    def step(machine: Machine, lanes: Lanes) -> None:
        above = (read(machine, lanes) & 0xFFFFFFFF).astype(np.uint32) >> np.uint32(RANK_SHIFT)
        own = machine.rank[lanes.index].astype(np.uint32)
        write(machine, lanes, np.where(above == 0, own, above - np.uint32(1)))

    return step


FAMILY: Family = {
    "mov": _move,
    "cvta": _convert_address,
    "isspacep": _is_space,
    "mapa": _map_address,
    "getctarank": _rank_of_address,
}
