"""Quotients and remainders of integers. No vector unit divides integers, and processors trap on a
division by 0.

Vectors are divided as floats that hold the integers exactly. The float quotient, truncated, is the
integer quotient: a quotient that is not a whole number differs from the next one by a relative 1 /
a at least, and the rounding error is less than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from bessemer.compiler.codegen.arithmetic import compare, like, select
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import boolean, f32, f64

Quotient: TypeAlias = Callable[[Writer, Value, Value], Value]
"""Writes the quotient of a and b, truncated towards zero. b is not 0, and not -1 if a is the
smallest number."""


def towards_zero(w: Writer, a: Value, b: Value) -> Value:
    """a / b truncated: a `Quotient` for all integers."""
    signed = a.kind.kind == "i"
    if a.lanes <= 4 or b.number is not None or a.kind.bits > 32:
        return w.operate("sdiv" if signed else "udiv", a.kind, a, b)
    wide = f32 if a.kind.bits <= 16 else f64
    to_float, to_integer = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    x, y = (
        w.compute(f"{to_float} {v.typed} to {type_text(wide, v.lanes)}", wide, v.lanes, v.level)
        for v in (a, b)
    )
    ratio = w.operate("fdiv", wide, x, y)
    text = f"{to_integer} {ratio.typed} to {type_text(a.kind, a.lanes)}"
    return w.compute(text, a.kind, a.lanes, ratio.level)


def divide(w: Writer, name: str, a: Value, b: Value, quotient: Quotient = towards_zero) -> Value:
    """`div` and `mod` of two integers (rounded down), `trunc_div` and `fmod` (towards zero)."""
    divisor = _safe_divisor(w, a, b)
    whole = quotient(w, a, divisor)
    floor = a.kind.kind == "i" and name in ("div", "mod")
    if not floor and name in ("div", "trunc_div"):
        return _unless_zero(w, b, whole)
    rest = w.operate("sub", a.kind, a, w.operate("mul", a.kind, whole, divisor))
    match name:
        case "div":
            below = w.operate("add", a.kind, whole, like(a, -1))
            result = select(w, _rounds_up(w, rest, divisor), below, whole)
        case "mod" if floor:
            moved = w.operate("add", a.kind, rest, divisor)
            result = select(w, _rounds_up(w, rest, divisor), moved, rest)
        case _:
            result = rest
    return _unless_zero(w, b, result)


def _rounds_up(w: Writer, rest: Value, divisor: Value) -> Value:
    """Whether the quotient towards zero is above the quotient towards minus infinity."""
    signs = compare(w, "slt", w.operate("xor", rest.kind, rest, divisor), like(rest, 0))
    return w.operate("and", boolean, signs, compare(w, "ne", rest, like(rest, 0)))


def _safe_divisor(w: Writer, a: Value, b: Value) -> Value:
    """The divisor, but 1 where the machine's division would trap."""
    if b.number not in (None, 0, -1):
        return b
    bad = compare(w, "eq", b, like(b, 0))
    if a.kind.kind == "i":
        lowest = compare(w, "eq", a, like(a, -(1 << (a.kind.bits - 1))))
        minus_one = compare(w, "eq", b, like(b, -1))
        bad = w.operate("or", boolean, bad, w.operate("and", boolean, lowest, minus_one))
    return select(w, bad, like(b, 1), b)


def _unless_zero(w: Writer, divisor: Value, result: Value) -> Value:
    if divisor.number not in (None, 0):
        return result
    return select(w, compare(w, "eq", divisor, like(divisor, 0)), like(result, 0), result)
