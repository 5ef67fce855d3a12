"""Replaces divisions by a constant with multiplications that give the same bits.

Dividing a vector takes the processor ten cycles, and quantized networks end every product with a
division. With r the float32 nearest to 1 / s, q = x * r is at most one unit in the last place from
x / s, the remainder x - q * s is exact in a fused multiply-add, and (Markstein, "Computation of
elementary functions on the IBM RISC System/6000 processor", 1990)

    q + (x - q * s) * r    is    x / s    rounded once

unless all bits of s are ones, or something is too large or too small. This is done only for
quotients that are rounded to whole numbers next: a quotient of a too small x is then below 1/2
either way.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from bessemer.compiler.codegen.arithmetic import binary, compare, fused, like, select, unary
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import splat
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.types import f32

_LEAST, _MOST = 2.0**-60, 2.0**60
"""With divisors between these, neither the reciprocal nor the remainder overflows or underflows."""


Number: TypeAlias = expr.Constant | expr.Given
"""A float32 that is known when the kernel begins."""


def constant_divisor(state: KernelState, node: expr.Expression) -> Number | None:
    """The divisor of a division that `quotient` can do."""
    if not state.target.has_fma or node.dtype is not f32:
        return None
    match node:
        case expr.Binary(_, "div", _, expr.Constant() as divisor) if can_divide(divisor.value):
            return divisor
        case expr.Binary(_, "div", _, expr.Given() as divisor):
            return divisor
        case _:
            return None


def can_divide(divisor: float) -> bool:
    """Whether `quotient` is exact for this number, as a float32."""
    mantissa, _ = math.frexp(np.float32(divisor))
    return _LEAST < abs(divisor) < _MOST and abs(mantissa) != 1 - 2.0**-24


def quotient(state: KernelState, x: Value, divisor: Number) -> Value:
    """x / divisor; a zero may have lost its sign."""
    first, better = two_quotients(state, x, divisor)
    w = state.writer
    finite = compare(w, "olt", unary(w, "abs", first), like(x, math.inf))
    return select(w, finite, better, first)


def two_quotients(state: KernelState, x: Value, divisor: Number) -> tuple[Value, Value]:
    """Two approximations of x / divisor, the second one corrected unless the first is infinite."""
    w = state.writer
    inverse = splat(w, _reciprocal(state, divisor), x.lanes)
    first = binary(w, "mul", x, inverse)
    rest = fused(w, first, scaled(state, divisor, -1.0), x)
    return first, fused(w, rest, inverse, first)


def known_number(state: KernelState, number: Number) -> Value:
    """The number in a register."""
    if isinstance(number, expr.Given):
        return state.given(number.symbol)
    return literal(number.value, f32)


def scaled(state: KernelState, number: Number, factor: float) -> Value:
    """The number times a factor."""
    if isinstance(number, expr.Given):
        return state.of_given(number.symbol, f"fmul float {{}}, {literal(factor, f32).text}")
    return literal(float(np.float32(factor * np.float32(number.value))), f32)


def _reciprocal(state: KernelState, number: Number) -> Value:
    if isinstance(number, expr.Given):
        return state.of_given(number.symbol, f"fdiv float {literal(1.0, f32).text}, {{}}")
    return literal(float(np.float32(1) / np.float32(number.value)), f32)
