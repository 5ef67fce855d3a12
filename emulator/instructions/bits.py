"""Operations on bits: logic, shifts, fields, permutations, counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.integers import elementwise
from emulator.instructions.operands import (
    Family,
    Step,
    immediate_value,
    reader,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.syntax import Instruction
from emulator.state.arrays import UNSIGNED, WIDTHS, Array, numpy_type
from emulator.state.machine import Lanes, Machine


def _logic(function: Callable[..., Array]) -> Callable[[Instruction], Step]:
    return lambda instruction: elementwise(instruction, instruction.type, function)


def _not_zero(value: Array) -> Array:
    result: Array = (value == 0).astype(value.dtype)
    return result


def _shift(instruction: Instruction) -> Step:
    """shl and shr: amounts of the width and more shift everything out."""
    name = instruction.type
    width, dtype = WIDTHS[name], numpy_type(name)
    read, amounts = reader(instruction.operands[1], name), reader(instruction.operands[2], "u32")
    write = writer(instruction.operands[0], name)
    left = instruction.opcode[0] == "shl"
    most = np.uint32(width - 1)

    def step(machine: Machine, lanes: Lanes) -> None:
        value, amount = read(machine, lanes), amounts(machine, lanes)
        short = np.minimum(amount, most).astype(dtype)
        result = value << short if left else value >> short
        if (amount > most).any() and (left or dtype.kind == "u"):
            result = np.where(amount > most, dtype.type(0), result)
        write(machine, lanes, result)

    return step


def _funnel(instruction: Instruction) -> Step:
    """shf: 32 bits out of the 64 that two registers make."""
    low, high = (reader(one, "u32") for one in instruction.operands[1:3])
    amounts, write = reader(instruction.operands[3], "u32"), writer(instruction.operands[0], "b32")
    left, clamps = instruction.has("l"), instruction.has("clamp")

    def step(machine: Machine, lanes: Lanes) -> None:
        whole = low(machine, lanes).astype(np.uint64)
        whole = whole | (high(machine, lanes).astype(np.uint64) << np.uint64(32))
        amount = amounts(machine, lanes)
        amount = np.minimum(amount, np.uint32(32)) if clamps else amount & np.uint32(31)
        count = amount.astype(np.uint64)
        moved = whole >> (np.uint64(32) - count) if left else whole >> count
        write(machine, lanes, moved.astype(np.uint32))

    return step


def _three_inputs(instruction: Instruction) -> Step:
    """lop3: any function of three bits, its truth table in an immediate."""
    table = immediate_value(instruction, 4)
    write = writer(instruction.operands[0], "b32")
    reads = [reader(one, "b32") for one in instruction.operands[1:4]]

    def step(machine: Machine, lanes: Lanes) -> None:
        a, b, c = (read(machine, lanes) for read in reads)
        result = np.zeros(lanes.count, np.uint32)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        write(machine, lanes, result)

    return step


def _permute(instruction: Instruction) -> Step:
    """prmt: each byte of the result is one of eight, or eight copies of its sign."""
    if instruction.type != "b32":
        raise unsupported(instruction)
    write = writer(instruction.operands[0], "b32")
    low, high, chosen = (spread_reader(one, "b32") for one in instruction.operands[1:4])

    def step(machine: Machine, lanes: Lanes) -> None:
        bytes_of = np.stack([low(machine, lanes), high(machine, lanes)], 1).view(np.uint8)
        selector = chosen(machine, lanes)
        result = np.empty((lanes.count, 4), np.uint8)
        rows = np.arange(lanes.count)
        for place in range(4):
            nibble = selector >> np.uint32(4 * place)
            byte = bytes_of[rows, nibble & 7]
            sign = np.where(byte & 0x80, np.uint8(0xFF), np.uint8(0))
            result[:, place] = np.where(nibble & 8, sign, byte)
        write(machine, lanes, result.view(np.uint32)[:, 0])

    return step


def _field_of(position: Array, length: Array, width: int, dtype: np.dtype[np.generic]) -> Array:
    """A mask of `length` ones from bit `position`, cut at the width."""
    wide = np.uint64
    position, length = position & np.uint32(255), length & np.uint32(255)
    ones = np.where(
        length >= 64,
        wide(0xFFFFFFFFFFFFFFFF),
        (wide(1) << np.minimum(length, 63).astype(wide)) - wide(1),
    )
    moved = np.where(position >= 64, wide(0), ones << np.minimum(position, 63).astype(wide))
    return (moved & wide((1 << width) - 1)).astype(dtype)


def _insert_field(instruction: Instruction) -> Step:
    name = instruction.type
    width, dtype = WIDTHS[name], UNSIGNED[WIDTHS[name]]
    write = writer(instruction.operands[0], name)
    field, into = (reader(one, name) for one in instruction.operands[1:3])
    position, length = (spread_reader(one, "u32") for one in instruction.operands[3:5])

    def step(machine: Machine, lanes: Lanes) -> None:
        start = position(machine, lanes)
        mask = _field_of(start, length(machine, lanes), width, dtype)
        amount = np.minimum(start & np.uint32(255), width - 1).astype(dtype)
        moved = field(machine, lanes) << amount
        write(machine, lanes, (moved & mask) | (into(machine, lanes) & ~mask))

    return step


def _extract_field(instruction: Instruction) -> Step:
    """bfe: the field, with zeros above (unsigned) or its sign (signed)."""
    name = instruction.type
    width = WIDTHS[name]
    bits, dtype = UNSIGNED[width], numpy_type(name)
    write, read = (
        writer(instruction.operands[0], name),
        spread_reader(instruction.operands[1], f"u{width}"),
    )
    position, length = (spread_reader(one, "u32") for one in instruction.operands[2:4])
    signed = name[0] == "s"

    def step(machine: Machine, lanes: Lanes) -> None:
        value = read(machine, lanes)
        start = position(machine, lanes) & np.uint32(255)
        count = length(machine, lanes) & np.uint32(255)
        moved = np.where(
            start >= width, bits.type(0), value >> np.minimum(start, width - 1).astype(bits)
        )
        mask = _field_of(np.zeros_like(count), count, width, bits)
        result = moved & mask
        if signed:
            last = np.minimum(start.astype(np.int64) + count - 1, width - 1)
            sign = (value >> np.maximum(last, 0).astype(bits)) & bits.type(1)
            # Bits of the field beyond the value's top are its sign as well.
            kept = np.maximum(np.minimum(count.astype(np.int64), width - start.astype(np.int64)), 0)
            upper = ~_field_of(np.zeros_like(count), kept.astype(np.uint32), width, bits)
            result = np.where((sign == 1) & (count > 0), result | upper, result)
        write(machine, lanes, result.view(dtype))

    return step


def _count_ones(value: Array) -> Array:
    return np.bitwise_count(value).astype(np.uint32)


def _leading_zeros(value: Array) -> Array:
    width = value.dtype.itemsize * 8
    spread = value
    shift = 1
    while shift < width:
        spread = spread | (spread >> value.dtype.type(shift))
        shift *= 2
    return (width - np.bitwise_count(spread)).astype(np.uint32)


def _counting(function: Callable[[Array], Array]) -> Callable[[Instruction], Step]:
    def build(instruction: Instruction) -> Step:
        read = reader(instruction.operands[1], f"u{WIDTHS[instruction.type]}")
        write = writer(instruction.operands[0], "u32")
        return lambda machine, lanes: write(machine, lanes, function(read(machine, lanes)))

    return build


def _find_bit(instruction: Instruction) -> Step:
    """bfind: the highest bit that is set (that differs from the sign); all ones if
    there is none.
    """
    name = instruction.type
    width = WIDTHS[name]
    read, write = (
        spread_reader(instruction.operands[1], name),
        writer(instruction.operands[0], "u32"),
    )
    as_shift = instruction.has("shiftamt")

    def step(machine: Machine, lanes: Lanes) -> None:
        value = read(machine, lanes)
        if name[0] == "s":
            value = np.where(value < 0, ~value, value)
        zeros = _leading_zeros(value.view(UNSIGNED[width]))
        place = zeros if as_shift else np.uint32(width - 1) - zeros
        write(machine, lanes, np.where(zeros == width, np.uint32(0xFFFFFFFF), place))

    return step


def _reverse_bits(value: Array) -> Array:
    width = value.dtype.itemsize * 8
    result = np.zeros_like(value)
    one = value.dtype.type(1)
    for place in range(width):
        bit = (value >> value.dtype.type(place)) & one
        result = result | (bit << value.dtype.type(width - 1 - place))
    return result


def _mask_of_field(instruction: Instruction) -> Step:
    write = writer(instruction.operands[0], "b32")
    position, length = (spread_reader(one, "u32") for one in instruction.operands[1:3])
    wraps = instruction.has("wrap")

    def step(machine: Machine, lanes: Lanes) -> None:
        start, count = position(machine, lanes), length(machine, lanes)
        if wraps:
            start, count = start & np.uint32(31), count & np.uint32(31)
        start, count = np.minimum(start, np.uint32(32)), np.minimum(count, np.uint32(32))
        write(machine, lanes, _field_of(start, count, 32, UNSIGNED[32]))

    return step


FAMILY: Family = {
    "and": _logic(np.bitwise_and),
    "or": _logic(np.bitwise_or),
    "xor": _logic(np.bitwise_xor),
    "not": _logic(np.invert),
    "cnot": _logic(_not_zero),
    "shl": _shift,
    "shr": _shift,
    "shf": _funnel,
    "lop3": _three_inputs,
    "prmt": _permute,
    "bfi": _insert_field,
    "bfe": _extract_field,
    "popc": _counting(_count_ones),
    "clz": _counting(_leading_zeros),
    "bfind": _find_bit,
    "brev": _logic(_reverse_bits),
    "bmsk": _mask_of_field,
}
