"""Quotients of 64-bit integers as a function on vectors: through f64 while all of them fit into it.

Adding 3 * 2^51 as a float makes an integer of 51 bits and a sign of the last bits of a float, and
back. Only where some lane is larger, the processor divides one by one.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import literal, suffix, type_text, vector_text
from bessemer.compiler.ir.types import DType, boolean, f64

_TEXT = """define internal {i} @{symbol}({i} %a, {i} %b) {attributes} {{
entry:
  %a.raised = add {i} %a, {half}
  %b.raised = add {i} %b, {half}
  %bits = or {i} %a.raised, %b.raised
  %large = icmp ugt {i} %bits, {limit}
  %any = call i1 @llvm.vector.reduce.or.{sm}({m} %large)
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
    """a / b towards zero of i64 or u64 in vectors; undefined where the machine's division traps."""
    signed = kind.kind == "i"
    i, t, mask = type_text(kind, lanes), type_text(f64, lanes), vector_text("i1", lanes)
    s, sm = suffix(f64, lanes), suffix(boolean, lanes)
    symbol = f"bessemer_quotient_v{lanes}{kind.name}"
    text = _TEXT.format(
        i=i,
        t=t,
        m=mask,
        s=s,
        sm=sm,
        symbol=symbol,
        attributes="alwaysinline nounwind willreturn memory(none)",
        divide="sdiv" if signed else "udiv",
        half=literal(2**51 if signed else 0, kind, lanes).text,
        limit=literal((2**52 if signed else 2**51) - 1, kind, lanes).text,
        magic=literal(_THREE_HALVES_BITS, kind, lanes).text,
        three_halves=literal(_THREE_HALVES, f64, lanes).text,
    )
    declarations = {
        f"declare i1 @llvm.vector.reduce.or.{sm}({mask})",
        f"declare {t} @llvm.trunc.{s}({t})",
    }
    return MathFunction(symbol, text, frozenset(declarations))
