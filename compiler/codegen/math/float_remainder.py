"""The remainder of floats with the sign of the dividend (C's fmod), as a function on vectors.

Processors have no instruction for it. While some lane has r >= b, r becomes r - q d, where d is b
times a power of two for which the quotient q = floor(r / d) is below 2^(p+1); p is the number of
bits of a float's fraction. Then q is at most one too large or too small, and r - q d is a multiple
of d's last bit that is less than d, so no step rounds. A small negative remainder, which is flushed
to -0, is told from a remainder of +0 by its sign. If all quotients are that small from the
beginning, which is usual, one step with d = b is enough.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import MathFunction, any_lane
from bessemer.compiler.codegen.values import literal, suffix, type_text, vector_text
from bessemer.compiler.ir.types import DType, f32, f64, i32, i64

_TEXT = """define internal {t} @{symbol}({t} %x, {t} %y) nounwind willreturn memory(none) {{
entry:
  %size = call {t} @llvm.fabs.{s}({t} %x)
  %divisor = call {t} @llvm.fabs.{s}({t} %y)
  %finite = fcmp olt {t} %size, {infinity}
  %divides = fcmp ogt {t} %divisor, {zero}
  %valid = and {m} %finite, %divides
  %first = select {m} %valid, {t} %size, {t} {zero}
  %b = select {m} %valid, {t} %divisor, {t} {one}
  %ratio = fdiv {t} %first, %b
  %large = fcmp oge {t} %ratio, {limit}
  %any.large = {any_large}
  br i1 %any.large, label %slow, label %fast
fast:
  %ratio.whole = call {t} @llvm.floor.{s}({t} %ratio)
  %ratio.minus = fneg {t} %ratio.whole
  %near.rest = call {t} @llvm.fma.{s}({t} %ratio.minus, {t} %b, {t} %first)
  %near.bits = bitcast {t} %near.rest to {i}
  %near.below = icmp slt {i} %near.bits, {nought}
  %near.fewer = fsub {t} {one}, %ratio.whole
  %near.up = call {t} @llvm.fma.{s}({t} %near.fewer, {t} %b, {t} %first)
  %near.found = select {m} %near.below, {t} %near.up, {t} %near.rest
  %divisible = fcmp oge {t} %first, %b
  %near = select {m} %divisible, {t} %near.found, {t} %first
  br label %done
slow:
  %big = fmul {t} %b, {scale}
  %big.bits = bitcast {t} %big to {i}
  %big.exponent = lshr {i} %big.bits, {fraction}
  br label %test
test:
  %r = phi {t} [ %first, %slow ], [ %next, %step ]
  %more = fcmp oge {t} %r, %b
  %go.on = {any}
  br i1 %go.on, label %step, label %done
step:
  %r.bits = bitcast {t} %r to {i}
  %r.exponent = lshr {i} %r.bits, {fraction}
  %distance = sub {i} %r.exponent, %big.exponent
  %far = icmp sgt {i} %distance, {nought}
  %beyond = sub {i} %distance, {fraction}
  %raise = call {i} @llvm.smax.{si}({i} %beyond, {i} {nought})
  %raised = shl {i} %raise, {fraction}
  %far.bits = add {i} %big.bits, %raised
  %far.divisor = bitcast {i} %far.bits to {t}
  %d = select {m} %far, {t} %far.divisor, {t} %b
  %quotient = fdiv {t} %r, %d
  %q = call {t} @llvm.floor.{s}({t} %quotient)
  %minus = fneg {t} %q
  %rest = call {t} @llvm.fma.{s}({t} %minus, {t} %d, {t} %r)
  %rest.bits = bitcast {t} %rest to {i}
  %below = icmp slt {i} %rest.bits, {nought}
  %fewer = fsub {t} {one}, %q
  %up = call {t} @llvm.fma.{s}({t} %fewer, {t} %d, {t} %r)
  %reduced = select {m} %below, {t} %up, {t} %rest
  %next = select {m} %more, {t} %reduced, {t} %r
  br label %test
done:
  %found = phi {t} [ %near, %fast ], [ %r, %test ]
  %signed = call {t} @llvm.copysign.{s}({t} %found, {t} %x)
  %result = select {m} %valid, {t} %signed, {t} {not_a_number}
  ret {t} %result
}}
"""
_FRACTION_BITS = {f32: 23, f64: 52}


def float_remainder(kind: DType, lanes: int) -> MathFunction:
    """x - trunc(x / y) * y of f32 or f64, exact; NaN where x is infinite or y is 0.

    The target must have fused multiply-add.
    """
    whole = i32 if kind is f32 else i64
    fraction = _FRACTION_BITS[kind]
    t, i = type_text(kind, lanes), type_text(whole, lanes)
    s, si = suffix(kind, lanes), suffix(whole, lanes)
    declarations = {f"declare {t} @llvm.{name}.{s}({t})" for name in ("fabs", "floor")}
    declarations |= {
        f"declare {t} @llvm.copysign.{s}({t}, {t})",
        f"declare {t} @llvm.fma.{s}({t}, {t}, {t})",
        f"declare {i} @llvm.smax.{si}({i}, {i})",
    }
    any_more, reduction = any_lane("%more", lanes)
    any_large, _ = any_lane("%large", lanes)
    symbol = f"bessemer_fmod_{kind.name}" + (f"_v{lanes}" if lanes > 1 else "")
    text = _TEXT.format(
        t=t,
        i=i,
        m=vector_text("i1", lanes),
        s=s,
        si=si,
        symbol=symbol,
        any=any_more,
        any_large=any_large,
        limit=literal(2.0 ** (fraction + 1), kind, lanes).text,
        fraction=literal(fraction, whole, lanes).text,
        nought=literal(0, whole, lanes).text,
        zero=literal(0.0, kind, lanes).text,
        one=literal(1.0, kind, lanes).text,
        scale=literal(2.0**fraction, kind, lanes).text,
        infinity=literal(float("inf"), kind, lanes).text,
        not_a_number=literal(float("nan"), kind, lanes).text,
    )
    return MathFunction(symbol, text, reduction | declarations)
