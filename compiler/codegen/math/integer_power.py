"""Integer powers by repeated squaring, as a function on scalars or vectors."""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import MathFunction, any_lane
from bessemer.compiler.codegen.values import literal, type_text, vector_text
from bessemer.compiler.ir.types import DType

# Bases 1 and -1 have powers with negative exponents; all others' are cut to 0.
_TEXT = """define internal {t} @{symbol}({t} %base, {t} %exponent) {attributes} {{
entry:
  %negative = icmp {less} {t} %exponent, {zero}
  %flipped = sub {t} {zero}, %exponent
  %size = select {m} %negative, {t} %flipped, {t} %exponent
  br label %next
next:
  %power = phi {t} [ {one}, %entry ], [ %new.power, %next ]
  %square = phi {t} [ %base, %entry ], [ %new.square, %next ]
  %left = phi {t} [ %size, %entry ], [ %new.left, %next ]
  %bit = and {t} %left, {one}
  %odd = icmp ne {t} %bit, {zero}
  %product = mul {t} %power, %square
  %new.power = select {m} %odd, {t} %product, {t} %power
  %new.square = mul {t} %square, %square
  %new.left = lshr {t} %left, {one}
  %more = icmp ne {t} %new.left, {zero}
  %go.on = {any}
  br i1 %go.on, label %next, label %done
done:
  %above = icmp sgt {t} %base, {one}
  %below = icmp slt {t} %base, {minus_one}
  %nought = icmp eq {t} %base, {zero}
  %cut1 = or {m} %above, %below
  %cut2 = or {m} %cut1, %nought
  %cut = and {m} %cut2, %negative
  %result = select {m} %cut, {t} {zero}, {t} %new.power
  ret {t} %result
}}
"""


def integer_power(kind: DType, lanes: int) -> MathFunction:
    """base ** exponent modulo 2^bits."""
    symbol = f"bessemer_pow_{kind.name}" + (f"_v{lanes}" if lanes > 1 else "")
    any_more, declarations = any_lane("%more", lanes)
    text = _TEXT.format(
        t=type_text(kind, lanes),
        m=vector_text("i1", lanes),
        symbol=symbol,
        attributes="nounwind willreturn memory(none)",
        less="slt" if kind.kind == "i" else "ult",
        zero=literal(0, kind, lanes).text,
        one=literal(1, kind, lanes).text,
        minus_one=literal(-1, kind, lanes).text,
        any=any_more,
    )
    return MathFunction(symbol, text, declarations)
