"""Whole-number arithmetic: add, sub, mul, mad, div, rem, abs, neg, min, max, sad,
carries, dp4a, dp2a.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.operands import Family, Step, reader, spread_reader, writer
from emulator.language.syntax import Instruction
from emulator.state.arrays import WIDTHS, Array, numpy_type
from emulator.state.machine import Lanes, Machine

Binary = Callable[[Array, Array], Array]


def elementwise(instruction: Instruction, name: str, function: Callable[..., Array]) -> Step:
    """A step that applies `function` to the operands behind the first, all of type `name`."""
    write = writer(instruction.operands[0], name)
    reads = [reader(one, name) for one in instruction.operands[1:]]
    if len(reads) == 2:
        left, right = reads
        return lambda machine, lanes: write(
            machine, lanes, function(left(machine, lanes), right(machine, lanes))
        )
    return lambda machine, lanes: write(
        machine, lanes, function(*[read(machine, lanes) for read in reads])
    )


def saturating(function: Binary) -> Binary:
    """.sat of s32: the sum as if in 64 bits, clamped."""

    def clamped(left: Array, right: Array) -> Array:
        wide = function(left.astype(np.int64), right.astype(np.int64))
        limits = np.iinfo(np.int32)
        return np.clip(wide, limits.min, limits.max).astype(np.int32)

    return clamped


def truncated_quotient(left: Array, right: Array) -> Array:
    """Division towards zero; by zero gives all ones, as on a device."""
    left, right = np.broadcast_arrays(left, right)
    safe = np.where(right == 0, right.dtype.type(1), right)
    quotient = left // safe
    if left.dtype.kind == "i":
        # NumPy rounds down: one too low where the signs differ and something is left over.
        quotient = quotient + ((quotient * safe != left) & ((left < 0) != (safe < 0)))
    ones: Array = np.full_like(quotient, -1 if left.dtype.kind == "i" else np.iinfo(left.dtype).max)
    return np.where(right == 0, ones, quotient).astype(left.dtype)


def remainder(left: Array, right: Array) -> Array:
    left, right = np.broadcast_arrays(left, right)
    result = left - truncated_quotient(left, right) * right
    return np.where(right == 0, left, result).astype(left.dtype)


def high_product(left: Array, right: Array) -> Array:
    """The upper half of the product."""
    bits = left.dtype.itemsize * 8
    if bits < 64:
        wide = np.int64 if left.dtype.kind == "i" else np.uint64
        product = left.astype(wide) * right.astype(wide)
        return (product >> wide(bits)).astype(left.dtype)
    upper = _high_unsigned(left.view(np.uint64), right.view(np.uint64))
    if left.dtype.kind == "i":
        upper = upper - np.where(left < 0, right.view(np.uint64), np.uint64(0))
        upper = upper - np.where(right < 0, left.view(np.uint64), np.uint64(0))
    return upper.view(left.dtype)


def _high_unsigned(left: Array, right: Array) -> Array:
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = left >> shift, left & low, right >> shift, right & low
    middle = (b * d >> shift) + (a * d & low) + (b * c & low)
    result: Array = a * c + (a * d >> shift) + (b * c >> shift) + (middle >> shift)
    return result


def _wide(instruction: Instruction, with_addend: bool) -> Step:
    """mul.wide and mad.wide: the product has twice the bits."""
    name = instruction.type
    double = f"{name[0]}{2 * WIDTHS[name]}"
    dtype = numpy_type(double)
    write = writer(instruction.operands[0], double)
    left, right = (reader(one, name) for one in instruction.operands[1:3])
    if not with_addend:
        return lambda machine, lanes: write(
            machine, lanes, left(machine, lanes).astype(dtype) * right(machine, lanes).astype(dtype)
        )
    addend = reader(instruction.operands[3], double)

    def step(machine: Machine, lanes: Lanes) -> None:
        product = left(machine, lanes).astype(dtype) * right(machine, lanes).astype(dtype)
        write(machine, lanes, product + addend(machine, lanes))

    return step


def multiply(instruction: Instruction) -> Step:
    if instruction.has("wide"):
        return _wide(instruction, with_addend=False)
    function: Binary = high_product if instruction.has("hi") else np.multiply
    return elementwise(instruction, instruction.type, function)


def multiply_add(instruction: Instruction) -> Step:
    if instruction.has("wide"):
        return _wide(instruction, with_addend=True)
    product: Binary = high_product if instruction.has("hi") else np.multiply

    def together(left: Array, right: Array, addend: Array) -> Array:
        result: Array = product(left, right) + addend
        return result

    return elementwise(instruction, instruction.type, together)


def _multiply_24(instruction: Instruction, with_addend: bool) -> Step:
    name = instruction.type
    high = instruction.has("hi")

    def narrow(value: Array) -> Array:
        eight = value.dtype.type(8)
        wide: Array = ((value << eight) >> eight).astype(np.int64)
        return wide

    def product(left: Array, right: Array, *addend: Array) -> Array:
        whole = narrow(left) * narrow(right)
        part = (whole >> 16 if high else whole).astype(numpy_type(name))
        return part + addend[0] if with_addend else part

    return elementwise(instruction, name, product)


def add(instruction: Instruction) -> Step:
    return by_halves(saturating(np.add) if instruction.has("sat") else np.add)(instruction)


def subtract(instruction: Instruction) -> Step:
    return by_halves(saturating(np.subtract) if instruction.has("sat") else np.subtract)(
        instruction
    )


def _carry(instruction: Instruction) -> Step:
    """add.cc, addc, sub.cc, subc, mad.cc, madc: the carry is a hidden register of each thread."""
    name = instruction.type
    base = instruction.opcode[0]
    takes, gives = base.endswith("c"), instruction.has("cc")
    reads = [spread_reader(one, f"u{WIDTHS[name]}") for one in instruction.operands[1:]]
    write = writer(instruction.operands[0], name)
    high, bits = instruction.has("hi"), WIDTHS[name]
    mask = (1 << bits) - 1

    def step(machine: Machine, lanes: Lanes) -> None:
        values = [read(machine, lanes).astype(object) for read in reads]
        carry = machine.carry[lanes.where].astype(object) * (1 if takes else 0)
        if base.startswith("mad"):
            product = values[0] * values[1]
            total = (product >> bits if high else product & mask) + values[2] + carry
        elif base.startswith("add"):
            total = values[0] + values[1] + carry
        else:
            total = values[0] - values[1] - carry
        if gives:
            machine.carry[lanes.where] = ((total < 0) | (total > mask)).astype(np.bool_)
        write(machine, lanes, (total & mask).astype(numpy_type(f"u{bits}")))

    return step


def _dot_bytes(instruction: Instruction) -> Step:
    """dp4a and dp2a: four (two) small products are summed onto the addend."""
    left_type, right_type = instruction.opcode[-2:]
    wide_left = instruction.opcode[0] == "dp2a"
    second_half = instruction.has("hi")
    left = spread_reader(instruction.operands[1], "b32")
    right = spread_reader(instruction.operands[2], "b32")
    name = "s32" if "s32" in (left_type, right_type) else "u32"
    addend, write = reader(instruction.operands[3], name), writer(instruction.operands[0], name)

    def step(machine: Machine, lanes: Lanes) -> None:
        a = _small_numbers(left(machine, lanes), left_type, 2 if wide_left else 1)
        b = _small_numbers(right(machine, lanes), right_type, 1)
        if wide_left:
            b = b[:, 2:] if second_half else b[:, :2]
        total = (a * b).sum(1) + addend(machine, lanes).astype(np.int64)
        write(machine, lanes, total.astype(numpy_type(name)))

    return step


def _small_numbers(words: Array, name: str, size: int) -> Array:
    kind = "i" if name[0] == "s" else "u"
    flat = np.ascontiguousarray(words).view(f"{kind}{size}")
    return flat.reshape(len(words), 4 // size).astype(np.int64)


def _sum_of_difference(instruction: Instruction) -> Step:
    return elementwise(
        instruction, instruction.type, lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c
    )


def negate(instruction: Instruction) -> Step:
    return elementwise(instruction, instruction.type, np.negative)


def absolute(instruction: Instruction) -> Step:
    return elementwise(instruction, instruction.type, np.abs)


def by_halves(function: Binary) -> Callable[[Instruction], Step]:
    """The instruction on whole numbers, or on the two halves of s16x2 and u16x2."""

    def build(instruction: Instruction) -> Step:
        name = instruction.type
        if not name.endswith("x2"):
            return elementwise(instruction, name, function)
        half = numpy_type(name.removesuffix("x2"))

        def halves(left: Array, right: Array) -> Array:
            pair = (np.atleast_1d(one).view(half) for one in np.broadcast_arrays(left, right))
            result: Array = function(*(np.ascontiguousarray(one) for one in pair)).view(np.uint32)
            return result

        return elementwise(instruction, name, halves)

    return build


def divide(instruction: Instruction) -> Step:
    return elementwise(instruction, instruction.type, truncated_quotient)


FAMILY: Family = {
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "mad": multiply_add,
    "mul24": lambda instruction: _multiply_24(instruction, with_addend=False),
    "mad24": lambda instruction: _multiply_24(instruction, with_addend=True),
    "div": divide,
    "rem": lambda instruction: elementwise(instruction, instruction.type, remainder),
    "abs": absolute,
    "neg": negate,
    "min": by_halves(np.minimum),
    "max": by_halves(np.maximum),
    "sad": _sum_of_difference,
    "addc": _carry,
    "subc": _carry,
    "madc": _carry,
    "add.cc": _carry,
    "sub.cc": _carry,
    "mad.cc": _carry,
    "dp4a": _dot_bytes,
    "dp2a": _dot_bytes,
}
