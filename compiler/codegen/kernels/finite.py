"""Checks whether a number in memory is finite, as LLVM IR."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.types import DType

_EXPONENTS = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000, "f64": 0x7FF0000000000000}


def not_finite(let: Callable[[str], str], dtype: DType, address: str) -> str:
    """The condition that a float is not finite, which is that all bits of its exponent are set."""
    integer, exponent = f"i{8 * dtype.bytes}", _EXPONENTS[dtype.name]
    bits = let(f"load {integer}, ptr {address}")
    found = let(f"and {integer} {bits}, {exponent}")
    return let(f"icmp eq {integer} {found}, {exponent}")
