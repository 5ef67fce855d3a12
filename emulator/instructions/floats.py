"""Floating-point arithmetic of f32, f64, f16, bf16 and pairs: add, sub, mul, fma, div,
sqrt, min, max and kin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from emulator.instructions.exact import fma, fma_f32, odd_sum, round_fraction
from emulator.instructions.formats import bf16_to_f32, encode, f32_to_bf16, flush, round_to
from emulator.instructions.operands import Family, Step, reader, unsupported, writer
from emulator.language.syntax import Instruction
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine

Function = Callable[..., Array]


@dataclass(frozen=True)
class Values:
    """How the values of a type are computed with: `element` is the format of one, pairs
    have a last axis of 2.
    """

    element: str
    is_pair: bool

    def of(self, bits: Array) -> Array:
        """NumPy floats of what a register holds; bf16 as float32."""
        if self.is_pair:
            halves = np.ascontiguousarray(bits).reshape(-1).view(np.uint16).reshape(-1, 2)
            return halves.view(np.float16) if self.element == "f16" else bf16_to_f32(halves)
        return bf16_to_f32(bits) if self.element == "bf16" else bits

    def bits(self, values: Array) -> Array:
        if self.element == "bf16":
            values = f32_to_bf16(values) if values.dtype == np.float32 else encode(values, "bf16")
        if self.is_pair:
            return np.ascontiguousarray(values).view(np.uint32).reshape(-1)
        return values


def values_of(name: str) -> Values:
    return Values(name.removesuffix("x2"), name.endswith("x2"))


def rounding_of(instruction: Instruction) -> str:
    return next((part for part in instruction.opcode if part in ("rn", "rz", "rm", "rp")), "rn")


def float_step(instruction: Instruction, function: Function) -> Step:
    """Applies `function` to the operands as NumPy floats, with the modifiers .ftz,
    .sat, .relu around it.
    """
    name = instruction.type
    kind = values_of(name)
    write = writer(instruction.operands[0], name)
    reads = [reader(one, name) for one in instruction.operands[1:]]
    flushes = instruction.has("ftz") and kind.element == "f32"
    after = _after(instruction)

    def step(machine: Machine, lanes: Lanes) -> None:
        values = [kind.of(read(machine, lanes)) for read in reads]
        if flushes:
            values = [flush(one) for one in values]
        result = function(*values)
        if flushes:
            result = flush(result)
        write(machine, lanes, kind.bits(after(result)))

    return step


def _after(instruction: Instruction) -> Callable[[Array], Array]:
    if instruction.has("sat"):
        return lambda values: np.where(
            np.isnan(values),
            values.dtype.type(0),
            np.clip(values, values.dtype.type(0), values.dtype.type(1)),
        )
    if instruction.has("relu"):
        return lambda values: np.where(values < 0, values.dtype.type(0), values)
    return lambda values: values


def _rounded(element: str, mode: str, nearest: Function, exact: Function) -> Function:
    """`nearest` as it is for .rn; else `exact`, which gives float64 rounded to odd,
    rounded as `mode` says.
    """
    if mode == "rn":
        return nearest

    def directed(*values: Array) -> Array:
        wide = exact(*[value.astype(np.float64) for value in values])
        return wide if element == "f64" else _narrow(round_to(wide, element, mode), element)

    return directed


def _narrow(values: Array, element: str) -> Array:
    """float64 values that fit the format, as the NumPy type that computes with it."""
    return values.astype({"f16": np.float16, "f32": np.float32, "bf16": np.float32}[element])


def _by_fractions(function: Callable[..., Fraction], plain: Function, mode: str) -> Function:
    """The slow way: whole fractions, one element after another."""

    def each(*values: Array) -> Array:
        arrays = np.broadcast_arrays(*values)
        result = plain(*arrays).astype(np.float64)
        for place in np.ndindex(result.shape):
            operands = [float(one[place]) for one in arrays]
            if np.isfinite(operands).all() and np.isfinite(result[place]) and result[place] != 0:
                result[place] = round_fraction(function(*map(Fraction, operands)), mode)
        return result

    return each


def _directed(
    element: str, function: Callable[..., Fraction], odd: Function, plain: Function, mode: str
) -> Function:
    exact = _by_fractions(function, plain, mode) if element == "f64" else odd
    return _rounded(element, mode, plain, exact)


def add(instruction: Instruction) -> Step:
    element = values_of(instruction.type).element
    mode = rounding_of(instruction)
    function = _directed(element, lambda a, b: a + b, odd_sum, np.add, mode)
    return float_step(instruction, function)


def subtract(instruction: Instruction) -> Step:
    element = values_of(instruction.type).element
    mode = rounding_of(instruction)
    function = _directed(
        element, lambda a, b: a - b, lambda a, b: odd_sum(a, -b), np.subtract, mode
    )
    return float_step(instruction, function)


def multiply(instruction: Instruction) -> Step:
    element = values_of(instruction.type).element
    mode = rounding_of(instruction)
    function = _directed(element, lambda a, b: a * b, np.multiply, np.multiply, mode)
    return float_step(instruction, function)


def fused_multiply_add(instruction: Instruction) -> Step:
    element, mode = values_of(instruction.type).element, rounding_of(instruction)
    if element == "f32" and mode == "rn":
        return float_step(instruction, fma_f32)

    def together(left: Array, right: Array, addend: Array) -> Array:
        left, right, addend = (one.astype(np.float64) for one in (left, right, addend))
        wide = fma(left, right, addend, element, mode)
        return wide if element == "f64" else _narrow(wide, element)

    return float_step(instruction, together)


def divide(instruction: Instruction) -> Step:
    element, mode = values_of(instruction.type).element, rounding_of(instruction)
    if instruction.has("approx"):
        return float_step(instruction, _quick_quotient)
    if element == "f32" and mode != "rn":
        raise unsupported(instruction)
    function = _directed(element, lambda a, b: a / b, np.divide, np.divide, mode)
    return float_step(instruction, function)


def _quick_quotient(left: Array, right: Array) -> Array:
    """div.approx multiplies by the reciprocal, which is a zero for divisors of 2^126 and more."""
    quotient = (left.astype(np.float64) / right).astype(np.float32)
    lost = (np.abs(right) > np.float32(2.0**126)) & np.isfinite(right) & np.isfinite(left)
    return np.where(lost, np.copysign(np.float32(0), quotient), quotient)


def _is_lower(left: Array, right: Array) -> Array:
    """left < right, with -0 below +0."""
    result: Array = (left < right) | ((left == right) & np.signbit(left))
    return result


def _extreme(instruction: Instruction, lowest: bool) -> Step:
    keeps_nan, signed = instruction.has("NaN"), instruction.has("xorsign")

    def choose(left: Array, right: Array) -> Array:
        sign = np.signbit(left) ^ np.signbit(right)
        if signed:
            left, right = np.abs(left), np.abs(right)
        better = _is_lower(left, right) if lowest else _is_lower(right, left)
        result = np.where(better, left, right)
        nan = left.dtype.type(np.nan)
        if keeps_nan:
            result = np.where(np.isnan(left) | np.isnan(right), nan, result)
        else:
            result = np.where(np.isnan(left), right, np.where(np.isnan(right), left, result))
        return np.where(sign, -result, result) if signed else result

    return float_step(instruction, choose)


def minimum(instruction: Instruction) -> Step:
    return _extreme(instruction, lowest=True)


def maximum(instruction: Instruction) -> Step:
    return _extreme(instruction, lowest=False)


def _sign_operation(instruction: Instruction, change: Callable[[Array, Array], Array]) -> Step:
    """abs and neg touch nothing but the sign bits."""
    name = instruction.type
    width = {"f16": 16, "bf16": 16, "f64": 64}.get(name, 32)
    signs = np.dtype(f"u{width // 8}").type(
        {"f16x2": 0x80008000, "bf16x2": 0x80008000}.get(name, 1 << (width - 1))
    )
    read, write = (
        reader(instruction.operands[1], f"b{width}"),
        writer(instruction.operands[0], f"b{width}"),
    )
    if instruction.has("ftz") and name == "f32":
        return lambda machine, lanes: write(
            machine,
            lanes,
            change(flush(read(machine, lanes).view(np.float32)).view(np.uint32), signs),
        )
    return lambda machine, lanes: write(machine, lanes, change(read(machine, lanes), signs))


def negate(instruction: Instruction) -> Step:
    return _sign_operation(instruction, lambda bits, signs: bits ^ signs)


def absolute(instruction: Instruction) -> Step:
    return _sign_operation(instruction, lambda bits, signs: bits & ~signs)


def _copy_sign(instruction: Instruction) -> Step:
    return float_step(instruction, lambda sign, magnitude: np.copysign(magnitude, sign))


def _test(instruction: Instruction) -> Step:
    """testp: a property of a number."""
    name = instruction.type
    read, write = reader(instruction.operands[1], name), writer(instruction.operands[0], "pred")
    smallest = 2.0**-126 if name == "f32" else 2.0**-1022
    tests: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= smallest),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < smallest),
    }
    test = tests[instruction.opcode[1]]
    return lambda machine, lanes: write(machine, lanes, test(read(machine, lanes)))


def _wide_step(instruction: Instruction, function: Callable[[Array], Array]) -> Step:
    """A function of one operand, computed in float64 and rounded once."""
    element = values_of(instruction.type).element

    def together(values: Array) -> Array:
        wide = function(values.astype(np.float64))
        return wide if element == "f64" else _narrow(round_to(wide, element), element)

    return float_step(instruction, together)


def square_root(instruction: Instruction) -> Step:
    if rounding_of(instruction) != "rn":
        raise unsupported(instruction)
    return float_step(instruction, np.sqrt)


def _hyperbolic_tangent(values: Array) -> Array:
    """tanh.approx is good to about 11 bits: keep 12, so that nobody counts on more."""
    exact = np.tanh(values)
    fraction, exponent = np.frexp(exact)
    result: Array = np.ldexp(np.rint(fraction * 4096) / 4096, exponent)
    return result


def _reciprocal(instruction: Instruction) -> Step:
    if rounding_of(instruction) != "rn":
        raise unsupported(instruction)
    return _wide_step(instruction, np.reciprocal)


FAMILY: Family = {
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "fma": fused_multiply_add,
    "mad": fused_multiply_add,
    "div": divide,
    "min": minimum,
    "max": maximum,
    "neg": negate,
    "abs": absolute,
    "copysign": _copy_sign,
    "testp": _test,
    "sqrt": square_root,
    "rcp": _reciprocal,
    "rsqrt": lambda one: _wide_step(one, lambda x: 1 / np.sqrt(x)),
    "ex2": lambda one: _wide_step(one, np.exp2),
    "lg2": lambda one: _wide_step(one, np.log2),
    "sin": lambda one: _wide_step(one, np.sin),
    "cos": lambda one: _wide_step(one, np.cos),
    "tanh": lambda one: _wide_step(one, _hyperbolic_tangent),
}
