"""Turns operands into functions that read and write registers for some threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.errors import UnsupportedInstruction
from emulator.language.syntax import (
    Address,
    Discard,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    Tuple,
)
from emulator.state.arrays import UNSIGNED, WIDTHS, Array, is_signed, numpy_type
from emulator.state.machine import Lanes, Machine

Reader = Callable[[Machine, Lanes], Array]
"""Values for the lanes; a number that is the same for all may come as a scalar."""

Writer = Callable[[Machine, Lanes, Array], None]
Step = Callable[[Machine, Lanes], object]
"""What an instruction does; a true result means that its threads may now wait, so
others must be chosen.
"""

Family = dict[str, Callable[[Instruction], Step]]
"""The instructions of a file: the first part of the opcode, and what makes the step."""


def unsupported(instruction: Instruction, why: str = "") -> UnsupportedInstruction:
    return UnsupportedInstruction(f"not known: {instruction.text} {why}".rstrip())


def reader(operand: Operand, name: str) -> Reader:
    """Reads `operand` as the PTX type `name`: arrays of `numpy_type(name)`."""
    match operand:
        case Register():
            return _read_register(operand, name)
        case Immediate():
            constant = immediate(operand, name)
            return lambda machine, lanes: constant
        case Negated(predicate):
            index = predicate.index
            return lambda machine, lanes: ~machine.registers[index][lanes.where]
        case Special(special):
            return _read_special(special, numpy_type(name))
        case Symbol(symbol):
            return _read_symbol(symbol, 0, name)
        case Address(Symbol(symbol), offset):
            return _read_symbol(symbol, offset, name)
    raise UnsupportedInstruction(f"cannot read the operand {operand} as {name}")


def _read_register(register: Register, name: str) -> Reader:
    index, have, want, dtype = register.index, register.width, WIDTHS[name], numpy_type(name)
    if have == want and dtype == UNSIGNED[have]:
        return lambda machine, lanes: machine.registers[index][lanes.where]
    if have == want:
        return lambda machine, lanes: machine.registers[index][lanes.where].view(dtype)
    bits = UNSIGNED[want]
    return lambda machine, lanes: machine.registers[index][lanes.where].astype(bits).view(dtype)


def _read_special(name: str, dtype: np.dtype[np.generic]) -> Reader:
    if name in ("clock", "clock64", "globaltimer", "clock_hi", "globaltimer_lo", "globaltimer_hi"):
        return lambda machine, lanes: np.zeros(lanes.count, dtype)

    def read(machine: Machine, lanes: Lanes) -> Array:
        if name not in machine.specials:
            raise UnsupportedInstruction(f"not known: the register %{name}")
        return machine.specials[name][lanes.where].astype(dtype)

    return read


def _read_symbol(name: str, offset: int, type_name: str) -> Reader:
    width = WIDTHS[type_name]
    scalar = UNSIGNED[width].type

    def read(machine: Machine, lanes: Lanes) -> Array:
        value: Array = scalar((machine.symbols[name] + offset) & ((1 << width) - 1))
        return value

    return read


def immediate(operand: Immediate, name: str) -> Array:
    """The number as a scalar of the type `name`."""
    width = WIDTHS[name]
    if name == "pred":
        return np.bool_(operand.value != 0)  # type: ignore[return-value]
    value = operand.value
    if operand.width == 64 and width == 32:
        value = int(np.array(value, np.uint64).view(np.float64).astype(np.float32).view(np.uint32))
    scalar: Array = UNSIGNED[width].type(value & ((1 << width) - 1)).view(numpy_type(name))
    return scalar


def spread_reader(operand: Operand, name: str) -> Reader:
    """A `reader` that always returns an array with one element per thread."""
    read = reader(operand, name)
    if isinstance(operand, (Register, Special, Negated)):
        return read

    def spread(machine: Machine, lanes: Lanes) -> Array:
        return np.broadcast_to(read(machine, lanes), (lanes.count,))

    return spread


def writer(operand: Operand, name: str) -> Writer:
    """Writes values of the PTX type `name`; a wider register gets them extended by
    their sign or by zeros.
    """
    match operand:
        case Discard():
            return lambda machine, lanes, values: None
        case Register(index, width):
            if width == 1:
                return _write_predicate(index)
            if width == WIDTHS[name]:
                return _write_bits(index, UNSIGNED[width])
            return _write_extended(index, width, name)
    raise UnsupportedInstruction(f"cannot write to the operand {operand}")


def _write_predicate(index: int) -> Writer:
    def write(machine: Machine, lanes: Lanes, values: Array) -> None:
        machine.registers[index][lanes.where] = values

    return write


def _write_bits(index: int, bits: np.dtype[np.generic]) -> Writer:
    def write(machine: Machine, lanes: Lanes, values: Array) -> None:
        machine.registers[index][lanes.where] = values.view(bits)

    return write


def _write_extended(index: int, width: int, name: str) -> Writer:
    dtype = numpy_type(name)
    wide = numpy_type(f"s{width}" if is_signed(name) else f"u{width}")
    bits = UNSIGNED[width]

    def write(machine: Machine, lanes: Lanes, values: Array) -> None:
        machine.registers[index][lanes.where] = values.view(dtype).astype(wide).view(bits)

    return write


def address_reader(operand: Operand) -> Reader:
    """Reads [base + offset] as int64 addresses, one a thread."""
    match operand:
        case Address(base, offset):
            pass
        case Register() | Symbol():
            base, offset = operand, 0
        case _:
            raise UnsupportedInstruction(f"{operand} is not an address")
    width = base.width if isinstance(base, Register) else 64
    read = spread_reader(base, f"u{width}")
    if width == 32:
        # Sums of 32-bit addresses wrap: LLVM lets the register hold a "negative" part.
        return lambda machine, lanes: (read(machine, lanes).astype(np.int64) + offset) & 0xFFFFFFFF

    def addresses(machine: Machine, lanes: Lanes) -> Array:
        return read(machine, lanes).astype(np.int64) + offset

    return addresses


def parts_of(operand: Operand) -> tuple[Operand, ...]:
    """The elements of {a, b, ...}; a single operand is one element."""
    return operand.parts if isinstance(operand, Tuple) else (operand,)


def immediate_value(instruction: Instruction, place: int) -> int:
    """An operand that PTX demands to be a number."""
    operand = instruction.operands[place]
    if not isinstance(operand, Immediate):
        raise unsupported(instruction, f"(operand {place} must be a number)")
    return operand.value
