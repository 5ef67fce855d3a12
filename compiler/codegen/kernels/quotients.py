"""Divisions by a constant in multiplications, with the bits of a division.

A vector of divisions takes the processor ten cycles, and quantized networks end every product with
one. With r the float32 nearest to 1 / s, q = x * r is at most one step off x / s, what is left of
x is known exactly, and (Markstein, "Computation of elementary functions on the IBM RISC System/6000
processor", 1990)

    q + (x - q * s) * r    is    x / s    rounded once

unless all bits of s are ones, or something is too large or too small. Only for quotients that are
rounded to whole numbers next: it is there that x may be small, where it is below 1/2 either way.
"""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.codegen.arithmetic import binary, compare, fused, like, select, unary
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.types import f32

_LEAST, _MOST = 2.0**-60, 2.0**60
"""Divisors between these, and their reciprocals, leave room for what is left of x."""


def constant_divisor(state: KernelState, node: expr.Expression) -> float | None:
    """The divisor of a division that `quotient` can do."""
    match node:
        case expr.Binary(_, "div", _, expr.Constant(_, number)) if node.dtype is f32:
            divisor = float(number)
        case _:
            return None
    if not state.target.has_fma or not _LEAST < abs(divisor) < _MOST:
        return None
    mantissa, _ = math.frexp(divisor)
    return None if abs(mantissa) == 1 - 2.0**-24 else divisor


def quotient(state: KernelState, x: Value, divisor: float) -> Value:
    """x / divisor; a zero may have lost its sign."""
    w = state.writer
    reciprocal = like(x, float(np.float32(1 / divisor)))
    first = binary(w, "mul", x, reciprocal)
    rest = fused(w, first, like(x, -divisor), x)
    better = fused(w, rest, reciprocal, first)
    finite = compare(w, "olt", unary(w, "abs", first), like(x, math.inf))
    return select(w, finite, better, first)
