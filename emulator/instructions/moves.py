"""mov (with packing and unpacking), cvta, isspacep."""

from __future__ import annotations

import numpy as np

from emulator.instructions.operands import (
    Family,
    Step,
    parts_of,
    reader,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.space import SPACES, WINDOW_BYTES
from emulator.language.syntax import Instruction, Tuple
from emulator.state.arrays import UNSIGNED, WIDTHS, Array
from emulator.state.machine import Lanes, Machine


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


FAMILY: Family = {
    "mov": _move,
    "cvta": _convert_address,
    "isspacep": _is_space,
}
