"""Calls of functions that are not one instruction: vector math, 16-bit floats, integer powers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from bessemer.compiler.codegen.arithmetic import (
    binary,
    compare,
    intrinsic,
    like,
    select,
    with_divisors_sign,
)
from bessemer.compiler.codegen.integer_division import divide, towards_zero
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import join, part, same_lanes, splat, widened
from bessemer.compiler.codegen.math import vector_math
from bessemer.compiler.codegen.math.float_remainder import float_remainder
from bessemer.compiler.codegen.math.integer_power import integer_power
from bessemer.compiler.codegen.math.long_quotient import long_quotient
from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Value, register_type, vector_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, bf16, f32, i16

_Maker: TypeAlias = Callable[[int], MathFunction]

AT_ONCE = 4
"""The registers of an operand that one call of a function computes together. Their instructions
alternate, so that independent ones are close to each other (the processor looks ahead a limited
distance)."""


def convert_float(state: KernelState, value: Value, source: DType, target: DType) -> Value:
    """Between 16-bit floats, as i16, and f32 or f64."""
    if target is bf16 and source is f32 and state.target.has_dot_bf16:
        return _rounded_by_instruction(state, value)
    native = state.target.has_half_conversion
    result = i16 if target.bits == 16 else register_type(target)

    def function(lanes: int) -> MathFunction:
        return vector_math.conversion(source.name, target.name, lanes, native)

    return _in_parts(state, function, result, f32, value)


def _rounded_by_instruction(state: KernelState, value: Value) -> Value:
    """To bf16: NaN stays NaN, denormals become 0."""
    w, lanes = state.writer, value.lanes
    if value.number is not None:
        value = splat(w, value, lanes)
    narrow = vector_text("bfloat", lanes)
    cut = w.compute(f"fptrunc {value.typed} to {narrow}", f32, lanes, value.level)
    operation = f"bitcast {narrow} {cut.text} to {vector_text('i16', lanes)}"
    return w.compute(operation, i16, lanes, value.level)


def math_function(state: KernelState, name: str, x: Value) -> Value:
    """A function of one float operand."""
    return _function(state, name, AT_ONCE, x)


def _function(state: KernelState, name: str, at_once: int, *operands: Value) -> Value:
    """A function of vector math. The operands have one type and the same number of lanes."""
    kind, lanes, target = operands[0].kind, operands[0].lanes, state.target

    def function(lanes: int) -> MathFunction:
        return vector_math.definition(name, kind.name, lanes, target.has_fma, target.has_lookup)

    w, least = state.writer, vector_math.least_lanes(name, kind.name, target.has_lookup)
    wide = [widened(w, operand, least) for operand in operands]
    return part(w, _in_parts(state, function, kind, kind, *wide, at_once=at_once), 0, lanes)


def power(state: KernelState, base: Value, exponent: Value) -> Value:
    """base ** exponent. Integers wrap; a negative exponent gives the quotient truncated towards
    zero."""
    w = state.writer
    if not base.kind.is_float:
        base, exponent = same_lanes(w, base, exponent)
        symbol = state.function(integer_power(base.kind, base.lanes))
        return w.call_function(symbol, base.kind, base.lanes, base, exponent)
    simple = _simple_power(state, base, exponent)
    if simple is not None:
        return simple
    return _function(state, "pow", 2, *same_lanes(w, base, exponent))


def _simple_power(state: KernelState, x: Value, exponent: Value) -> Value | None:
    w = state.writer
    match exponent.number:
        case 1:
            return x
        case 2:
            return binary(w, "mul", x, x)
        case 3:
            return binary(w, "mul", binary(w, "mul", x, x), x)
        case -1:
            return binary(w, "div", like(x, 1), x)
        case 0.5:
            # pow(-0, 0.5) is 0 and pow(-inf, 0.5) is inf; square roots are not.
            root = intrinsic(w, "sqrt", binary(w, "add", x, like(x, 0.0)))
            infinite = like(x, float("inf"))
            return select(w, compare(w, "oeq", x, like(x, -float("inf"))), infinite, root)
        case _:
            return None


def division(state: KernelState, name: str, dividend: Value, divisor: Value) -> Value:
    """`div` and `mod`, `trunc_div` and `fmod` of two numbers."""
    w = state.writer
    a, b = same_lanes(w, dividend, divisor)
    if not a.kind.is_float:
        quotient = partial(_long_quotient, state) if a.kind.bits == 64 else towards_zero
        return divide(w, name, a, b, quotient)
    if name in ("div", "trunc_div"):
        return binary(w, name, a, b)
    if state.target.has_fma:
        rest = _in_parts(
            state, lambda lanes: float_remainder(a.kind, lanes), a.kind, a.kind, a, b, at_once=2
        )
    else:
        rest = w.operate("frem", a.kind, a, b)
    return rest if name == "fmod" else with_divisors_sign(w, rest, b)


def _long_quotient(state: KernelState, w: Writer, a: Value, b: Value) -> Value:
    is_shift = b.number is not None and int(b.number).bit_count() == 1
    if a.lanes < 4 or is_shift:
        return towards_zero(w, a, b)
    return _in_parts(state, lambda lanes: long_quotient(a.kind, lanes), a.kind, a.kind, a, b)


def _in_parts(
    state: KernelState,
    function: _Maker,
    result: DType,
    widest: DType,
    *operands: Value,
    at_once: int = 1,
) -> Value:
    """Calls a function on vectors of at most `at_once` registers of the type `widest`."""
    w = state.writer
    lanes = max(operand.lanes for operand in operands)
    native = state.target.lanes(widest) * at_once
    if lanes <= native:
        wide = [splat(w, operand, lanes) for operand in operands]
        return w.call_function(state.function(function(lanes)), result, lanes, *wide)
    symbol = state.function(function(native))
    parts = []
    for start in range(0, lanes, native):
        pieces = [part(w, splat(w, operand, lanes), start, native) for operand in operands]
        parts.append(w.call_function(symbol, result, native, *pieces))
    return join(w, parts)
