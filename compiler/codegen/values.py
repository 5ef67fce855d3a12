"""Values in registers: their LLVM types, constants, and vectors made from scalars.

A register holds bool as i1, f16 and bf16 as f32, and storage types as u8: `register_type` says how;
memory has the element type's own bits.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import NamedTuple

import numpy as np

from bessemer.compiler.ir.types import DTYPES, INTEGERS, DType, boolean, f32, f64, u8

_SCALARS = {dtype.name: f"i{dtype.bits}" for dtype in INTEGERS}
_SCALARS |= {"f32": "float", "f64": "double", "bool": "i1"}


class Value(NamedTuple):
    """An SSA value or a literal. `level` is the depth of the scope in which it is known.

    `kind` is a register type: never f16 or bf16. `number` is set for literals.
    """

    text: str
    kind: DType
    lanes: int = 1
    level: int = 0
    number: int | float | bool | None = None

    @property
    def type(self) -> str:
        """The LLVM type."""
        return type_text(self.kind, self.lanes)

    @property
    def typed(self) -> str:
        """Type and value, as operands are written."""
        return f"{self.type} {self.text}"


class Pointer(NamedTuple):
    """An address in a register, and a distance in bytes from it that is known here."""

    text: str
    level: int
    displacement: int = 0

    def moved(self, distance: int) -> Pointer:
        """The address `distance` bytes further."""
        return Pointer(self.text, self.level, self.displacement + distance)


def register_type(dtype: DType) -> DType:
    """How values of an element type are held in registers."""
    if dtype.is_storage:
        return u8
    return f32 if dtype.is_float and dtype is not f64 else dtype


def scalar_text(kind: DType) -> str:
    """The LLVM type of one register element."""
    return _SCALARS[kind.name]


def vector_text(scalar: str, lanes: int) -> str:
    """`float` for one lane, `<16 x float>` for sixteen."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


@cache
def type_text(kind: DType, lanes: int) -> str:
    """The LLVM type of a value."""
    return vector_text(scalar_text(kind), lanes)


def suffix(kind: DType, lanes: int) -> str:
    """How the names of LLVM's overloaded functions end: `f32`, `v16i32`."""
    letter = "f" if kind.is_float else "i"
    bits = 1 if kind is boolean else kind.bits
    return f"{letter}{bits}" if lanes == 1 else f"v{lanes}{letter}{bits}"


def literal(number: int | float | bool, dtype: DType, lanes: int = 1) -> Value:
    """A constant; floats are rounded to the element type, which may be f16 or bf16."""
    kind = register_type(dtype)
    text = _number_text(number, dtype)
    if lanes > 1:
        text = f"splat ({scalar_text(kind)} {text})"
    return Value(text, kind, lanes, 0, number)


def _number_text(number: int | float | bool, dtype: DType) -> str:
    if dtype is boolean:
        return "true" if number else "false"
    if not dtype.is_float:
        return str(int(number))
    return _float_text(struct.pack(">d", number), dtype.name)


@cache
def _float_text(bits: bytes, dtype: str) -> str:
    """The number with these bits, rounded; LLVM writes every float as the bits of a double."""
    with np.errstate(over="ignore"):
        wide = np.frombuffer(bits, ">f8").astype(np.float64)
        rounded = float(wide.astype(DTYPES[dtype].numpy)[0])
    if math.isnan(rounded):
        return "0x7FF8000000000000"
    return "0x" + struct.pack(">d", rounded).hex().upper()
