"""Writes the functions of the expression language for values in registers, scalars and vectors
alike.

Where LLVM's instruction is undefined (a shift by too many bits), the result is the one that
ir/expr.py defines.
"""

from __future__ import annotations

from bessemer.compiler.codegen.lanes import same_lanes, splat
from bessemer.compiler.codegen.values import Value, literal, suffix
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.functions import COMPARISONS
from bessemer.compiler.ir.types import DType, boolean

_ROUNDINGS = {
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "roundeven",
    "sqrt": "sqrt",
}
INTRINSICS = frozenset((*_ROUNDINGS, "rsqrt", "neg", "abs", "not", "isnan", "isinf"))
"""The functions of one operand that need no vector math."""


def like(value: Value, constant: int | float | bool) -> Value:
    """A constant of the value's type."""
    return literal(constant, value.kind, value.lanes)


def intrinsic(w: Writer, name: str, *operands: Value) -> Value:
    """`llvm.NAME` of values of one type, with a result of that type."""
    first = operands[0]
    function = f"llvm.{name}.{suffix(first.kind, first.lanes)}"
    return w.call(function, first.kind, first.lanes, *operands)


def select(w: Writer, condition: Value, then: Value, otherwise: Value) -> Value:
    """A choice lane by lane, or between whole vectors by a scalar condition."""
    then, otherwise = same_lanes(w, then, otherwise)
    if condition.lanes > 1 and then.lanes == 1:
        then, otherwise = splat(w, then, condition.lanes), splat(w, otherwise, condition.lanes)
    if then.text == otherwise.text:
        return then
    operation = f"select {condition.typed}, {then.typed}, {otherwise.typed}"
    level = max(condition.level, then.level, otherwise.level)
    return w.compute(operation, then.kind, then.lanes, level)


def compare(w: Writer, predicate: str, left: Value, right: Value) -> Value:
    """`icmp` or `fcmp` with LLVM's predicate."""
    word = "fcmp" if left.kind.is_float else "icmp"
    return w.operate(f"{word} {predicate}", boolean, *same_lanes(w, left, right))


def unary(w: Writer, name: str, x: Value) -> Value:
    """The result of a function of one value, by its name in INTRINSICS."""
    match name:
        case "rsqrt":
            return w.operate("fdiv", x.kind, like(x, 1), intrinsic(w, "sqrt", x))
        case "neg" if x.kind.is_float:
            return w.operate("fneg", x.kind, x)
        case "neg":
            return w.operate("sub", x.kind, like(x, 0), x)
        case "abs":
            return _absolute(w, x)
        case "not":
            return w.operate("xor", x.kind, x, like(x, True if x.kind is boolean else -1))
        case "isnan" | "isinf" if not x.kind.is_float:
            return literal(False, boolean, x.lanes)
        case "isnan":
            return compare(w, "uno", x, x)
        case "isinf":
            return compare(w, "oeq", _absolute(w, x), like(x, float("inf")))
        case _ if name in _ROUNDINGS:
            return intrinsic(w, _ROUNDINGS[name], x)
        case _:
            raise InternalError(f"no instruction for {name}")


def _absolute(w: Writer, x: Value) -> Value:
    if x.kind.is_float:
        return intrinsic(w, "fabs", x)
    if x.kind.kind != "i":
        return x
    function = f"llvm.abs.{suffix(x.kind, x.lanes)}"
    return w.call(function, x.kind, x.lanes, x, literal(False, boolean))


def binary(w: Writer, name: str, left: Value, right: Value) -> Value:
    """One of functions.BINARY, except `pow` and some divisions (see calls.py)."""
    a, b = same_lanes(w, left, right)
    if name in COMPARISONS:
        return compare(w, _predicate(name, a.kind), a, b)
    if a.kind is boolean:
        return _logical(w, name, a, b)
    return _float(w, name, a, b) if a.kind.is_float else _integer(w, name, a, b)


def _predicate(name: str, kind: DType) -> str:
    if kind.is_float:
        return "une" if name == "ne" else f"o{name}"
    if name in ("eq", "ne"):
        return name
    return f"s{name}" if kind.kind == "i" else f"u{name}"


def _logical(w: Writer, name: str, a: Value, b: Value) -> Value:
    """On bools as on the numbers 0 and 1: a number other than 0 is true."""
    match name:
        case "and" | "mul" | "min" | "div" | "trunc_div":
            return w.operate("and", boolean, a, b)
        case "or" | "add" | "max":
            return w.operate("or", boolean, a, b)
        case "xor" | "sub":
            return w.operate("xor", boolean, a, b)
        case "shl":
            return a
        case "shr":
            return w.operate("and", boolean, a, unary(w, "not", b))
        case "mod" | "fmod":
            return literal(False, boolean, a.lanes)
        case "pow":
            return w.operate("or", boolean, a, unary(w, "not", b))
        case _:
            raise InternalError(f"no meaning for {name} of bools")


def _float(w: Writer, name: str, a: Value, b: Value) -> Value:
    match name:
        case "add" | "sub" | "mul" | "div":
            return w.operate(f"f{name}", a.kind, a, b)
        case "min" | "max":
            return _extreme(w, "olt" if name == "min" else "ogt", a, b)
        case "trunc_div":
            return intrinsic(w, "trunc", w.operate("fdiv", a.kind, a, b))
        case _:
            raise InternalError(f"no meaning for {name} of floats")


def _extreme(w: Writer, predicate: str, a: Value, b: Value) -> Value:
    """`a if a < b else b` is one instruction and gives b if either is NaN; a NaN in `a` is restored
    after it."""
    if b.number is not None and b.number == b.number:
        a, b = b, a
    chosen = select(w, compare(w, predicate, a, b), a, b)
    if a.number is not None and a.number == a.number:
        return chosen
    return select(w, compare(w, "uno", a, a), a, chosen)


def number_extreme(w: Writer, name: str, a: Value, b: Value) -> Value:
    """The min or max of two floats in one instruction; b if either is NaN."""
    a, b = same_lanes(w, a, b)
    return select(w, compare(w, "olt" if name == "min" else "ogt", a, b), a, b)


def with_divisors_sign(w: Writer, rest: Value, b: Value) -> Value:
    """Turns a remainder of floats with the dividend's sign into one with the sign of b, also if it
    is zero."""
    is_zero = compare(w, "oeq", rest, like(rest, 0))
    differs = w.operate(
        "xor", boolean, compare(w, "olt", rest, like(rest, 0)), compare(w, "olt", b, like(b, 0))
    )
    moved = select(w, differs, w.operate("fadd", b.kind, rest, b), rest)
    return select(w, is_zero, intrinsic(w, "copysign", rest, b), moved)


def _integer(w: Writer, name: str, a: Value, b: Value) -> Value:
    signed = a.kind.kind == "i"
    match name:
        case "add" | "sub" | "mul" | "and" | "or" | "xor":
            return w.operate(name, a.kind, a, b)
        case "min" | "max":
            return intrinsic(w, f"{'s' if signed else 'u'}{name}", a, b)
        case "shl" | "shr":
            return _shift(w, name, a, b, signed)
        case _:
            raise InternalError(f"no meaning for {name} of integers")


def _shift(w: Writer, name: str, a: Value, b: Value, signed: bool) -> Value:
    bits = a.kind.bits
    if name == "shr" and signed:
        return w.operate("ashr", a.kind, a, intrinsic(w, "umin", b, like(b, bits - 1)))
    shifted = w.operate("shl" if name == "shl" else "lshr", a.kind, a, b)
    return select(w, compare(w, "ult", b, like(b, bits)), shifted, like(a, 0))


def fused(w: Writer, a: Value, b: Value, addend: Value) -> Value:
    """a * b + addend with one rounding."""
    lanes = max(a.lanes, b.lanes, addend.lanes)
    return intrinsic(w, "fma", *(splat(w, x, lanes) for x in (a, b, addend)))
