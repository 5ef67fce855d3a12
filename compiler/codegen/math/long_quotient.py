"""Quotients of 64-bit integers as a function on vectors, which computes in f64 while all numbers
fit.

Adding the float 3 * 2^51 to an integer of 51 bits and a sign leaves the integer in the last bits of
the sum; subtracting it converts back. If some lane is larger, the processor divides lane by lane.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import MathFunction, any_lane
from bessemer.compiler.codegen.values import literal, suffix, type_text
from bessemer.compiler.ir.types import DType, f64

_TEXT = """define internal {i} @{symbol}({i} %a, {i} %b) {attributes} {{
entry:
  %a.raised = add {i} %a, {half}
  %b.raised = add {i} %b, {half}
  %bits = or {i} %a.raised, %b.raised
  %large = icmp ugt {i} %bits, {limit}
  %any = {any}
  br i1 %any, label %slow, label %fast
fast:
  %a.biased = add {i} %a, {magic}
  %b.biased = add {i} %b, {magic}
  %a.shifted = bitcast {i} %a.biased to {t}
  %b.shifted = bitcast {i} %b.biased to {t}
  %x = fsub {t} %a.shifted, {three_halves}
  %y = fsub {t} %b.shifted, {three_halves}
  %ratio = fdiv {t} %x, %y
  %whole = call {t} @llvm.trunc.{s}({t} %ratio)
  %shifted = fadd {t} %whole, {three_halves}
  %biased = bitcast {t} %shifted to {i}
  %found = sub {i} %biased, {magic}
  ret {i} %found
slow:
  %one.by.one = {divide} {i} %a, %b
  ret {i} %one.by.one
}}
"""
_THREE_HALVES = 3.0 * 2**51
_THREE_HALVES_BITS = 0x4338000000000000


def long_quotient(kind: DType, lanes: int) -> MathFunction:
    """a / b of i64 or u64 vectors, truncated towards zero; undefined where the machine's division
    traps."""
    signed = kind.kind == "i"
    i, t, s = type_text(kind, lanes), type_text(f64, lanes), suffix(f64, lanes)
    any_large, reduction = any_lane("%large", lanes)
    symbol = f"bessemer_quotient_v{lanes}{kind.name}"
    text = _TEXT.format(
        i=i,
        t=t,
        s=s,
        any=any_large,
        symbol=symbol,
        attributes="alwaysinline nounwind willreturn memory(none)",
        divide="sdiv" if signed else "udiv",
        half=literal(2**51 if signed else 0, kind, lanes).text,
        limit=literal((2**52 if signed else 2**51) - 1, kind, lanes).text,
        magic=literal(_THREE_HALVES_BITS, kind, lanes).text,
        three_halves=literal(_THREE_HALVES, f64, lanes).text,
    )
    declarations = frozenset({f"declare {t} @llvm.trunc.{s}({t})"})
    return MathFunction(symbol, text, reduction | declarations)
