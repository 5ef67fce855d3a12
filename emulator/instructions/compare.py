"""Comparisons and choices: setp, set, selp, slct."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.floats import values_of
from emulator.instructions.formats import flush
from emulator.instructions.operands import Family, Step, parts_of, reader, unsupported, writer
from emulator.language.syntax import Instruction
from emulator.state.arrays import Array, is_float, numpy_type
from emulator.state.machine import Lanes, Machine

Comparison = Callable[[Array, Array], Array]

_ORDERED: dict[str, Comparison] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def _unordered(left: Array, right: Array) -> Array:
    result: Array = np.isnan(left) | np.isnan(right)
    return result


def _or_unordered(comparison: Comparison) -> Comparison:
    return lambda left, right: comparison(left, right) | _unordered(left, right)


_FLOATING: dict[str, Comparison] = {
    **_ORDERED,
    # The ordered "not equal" is false for NaNs, unlike NumPy's.
    "ne": lambda left, right: (left != right) & ~_unordered(left, right),
    "num": lambda left, right: ~_unordered(left, right),
    "nan": _unordered,
    **{f"{name}u": _or_unordered(_ORDERED[name]) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}
_COMBINE: dict[str, Comparison] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _comparison(instruction: Instruction, name: str) -> Callable[[Machine, Lanes], Array]:
    table = _FLOATING if is_float(name) else _ORDERED
    compare = table[instruction.opcode[1]]
    left, right = (reader(one, name) for one in instruction.operands[1:3])
    if not is_float(name):
        return lambda machine, lanes: compare(left(machine, lanes), right(machine, lanes))
    kind = values_of(name)
    flushes = instruction.has("ftz") and name == "f32"

    def floating(machine: Machine, lanes: Lanes) -> Array:
        values = [kind.of(one(machine, lanes)) for one in (left, right)]
        if flushes:
            values = [flush(one) for one in values]
        return compare(*values)

    return floating


def _set_predicate(instruction: Instruction) -> Step:
    """setp: one predicate and perhaps its opposite; of pairs one for each half."""
    name = instruction.type
    test = _comparison(instruction, name)
    results = [writer(one, "pred") for one in parts_of(instruction.operands[0])]
    combine = _COMBINE.get(instruction.opcode[2])
    other = reader(instruction.operands[3], "pred") if combine else None
    is_pair = values_of(name).is_pair

    def step(machine: Machine, lanes: Lanes) -> None:
        found = test(machine, lanes)
        halves = [found[:, 0], found[:, 1]] if is_pair else [found, np.logical_not(found)]
        if combine is not None and other is not None:
            extra = other(machine, lanes)
            halves = [combine(one, extra) for one in halves]
        for half, write in zip(halves, results):
            write(machine, lanes, half)

    return step


def _set(instruction: Instruction) -> Step:
    """set: all ones (or 1.0) where the comparison holds."""
    result_type, name = instruction.opcode[-2:]
    if values_of(name).is_pair:
        raise unsupported(instruction)
    test = _comparison(instruction, name)
    write = writer(instruction.operands[0], result_type)
    combine = _COMBINE.get(instruction.opcode[2])
    other = reader(instruction.operands[3], "pred") if combine else None
    dtype = numpy_type(result_type)
    yes = (
        dtype.type(1.0)
        if dtype.kind == "f"
        else dtype.type(np.iinfo(dtype).max if dtype.kind == "u" else -1)
    )

    def step(machine: Machine, lanes: Lanes) -> None:
        found = test(machine, lanes)
        if combine is not None and other is not None:
            found = combine(found, other(machine, lanes))
        write(machine, lanes, np.where(found, yes, dtype.type(0)))

    return step


def _select(instruction: Instruction) -> Step:
    name = instruction.type
    width = f"b{_bits(name)}"
    write = writer(instruction.operands[0], width)
    yes, no = (reader(one, width) for one in instruction.operands[1:3])
    chosen = reader(instruction.operands[3], "pred")
    return lambda machine, lanes: write(
        machine, lanes, np.where(chosen(machine, lanes), yes(machine, lanes), no(machine, lanes))
    )


def _bits(name: str) -> str:
    return name.lstrip("busf")


def _select_by_sign(instruction: Instruction) -> Step:
    """slct: the first operand where the third is not negative."""
    name, sign_type = instruction.opcode[-2:]
    width = f"b{_bits(name)}"
    write = writer(instruction.operands[0], width)
    yes, no = (reader(one, width) for one in instruction.operands[1:3])
    sign = reader(instruction.operands[3], sign_type)
    return lambda machine, lanes: write(
        machine, lanes, np.where(sign(machine, lanes) >= 0, yes(machine, lanes), no(machine, lanes))
    )


FAMILY: Family = {
    "setp": _set_predicate,
    "set": _set,
    "selp": _select,
    "slct": _select_by_sign,
}
