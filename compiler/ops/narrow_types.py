"""Numbers of two, four and eight bits, each in a byte of its own, and how they become others.

Integers of b bits are the low b bits of the byte. Floats are sign, exponent and mantissa; without
NaN among the largest numbers (`fnuz` types), the byte of a negative zero is NaN.
f8e8m0 is 2 ** (byte - 127), 255 is NaN. The formats are those of the OCP specification
"Microscaling Formats" 1.0 and of the paper "8-bit Numerical Formats for Deep Neural Networks"
(fnuz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.expr import Expression, bits, constant, convert, select
from bessemer.compiler.ir.types import (
    DType,
    boolean,
    f4e2m1,
    f8e4m3fn,
    f8e4m3fnuz,
    f8e5m2,
    f8e5m2fnuz,
    f8e8m0,
    f32,
    i2,
    i4,
    i8,
    i32,
    u2,
    u4,
    u8,
    u32,
)

_MANTISSA, _BIAS = 23, 127  # of f32
_SIGN = 0x80000000
_INFINITY = 0x7F800000


@dataclass(frozen=True)
class Format:
    """A small float. `highest` is the byte of its largest number; what is larger, infinities too,
    becomes the byte `beyond`. `nan` is the byte for NaN (without its sign), None if there is none.
    """

    mantissa: int
    bias: int
    sign: int
    highest: int
    beyond: int
    nan: int | None
    has_infinity: bool = False
    has_negative_zero: bool = True

    @property
    def largest(self) -> float:
        """The largest number."""
        exponent = (self.highest >> self.mantissa) - self.bias
        fraction = (self.highest & ((1 << self.mantissa) - 1)) / (1 << self.mantissa)
        return math.ldexp(1 + fraction, exponent)


FORMATS: dict[DType, Format] = {
    f8e4m3fn: Format(3, 7, 0x80, 0x7E, 0x7F, 0x7F),
    f8e4m3fnuz: Format(3, 8, 0x80, 0x7F, 0x80, 0x80, has_negative_zero=False),
    f8e5m2: Format(2, 15, 0x80, 0x7B, 0x7C, 0x7E, has_infinity=True),
    f8e5m2fnuz: Format(2, 16, 0x80, 0x7F, 0x80, 0x80, has_negative_zero=False),
    f4e2m1: Format(1, 1, 0x8, 0x7, 0x7, None),
}
WIDTHS: dict[DType, int] = {i4: 4, u4: 4, i2: 2, u2: 2}
SIGNED = (i4, i2)


def integer_range(dtype: DType) -> tuple[int, int]:
    """The smallest and the largest number of a small integer type."""
    size = 1 << WIDTHS[dtype]
    return (-size // 2, size // 2 - 1) if dtype in SIGNED else (0, size - 1)


def decoded(x: Expression) -> Expression:
    """An element of a storage type as f32, or as i8 or u8 where it is an integer."""
    byte = bits(x, u8)
    if x.dtype in WIDTHS:
        unused = 8 - WIDTHS[x.dtype]
        if x.dtype not in SIGNED:
            return byte & ((1 << WIDTHS[x.dtype]) - 1)
        return expr.binary("shr", bits(expr.binary("shl", byte, unused), i8), unused)
    word = convert(byte, u32)
    if x.dtype is f8e8m0:
        value = bits(expr.binary("shl", word, _MANTISSA), f32)
        return select(expr.binary("eq", word, 255), math.nan, value)
    return _float(word, FORMATS[x.dtype])


def _float(word: Expression, form: Format) -> Expression:
    size = word & (form.sign - 1)
    shifted = expr.binary("shl", size, _MANTISSA - form.mantissa)
    normal = bits(shifted + ((_BIAS - form.bias) << _MANTISSA), f32)
    # Not by a multiplication of the shifted bits: those would be a denormal f32.
    small = convert(size, f32) * math.ldexp(1.0, 1 - form.bias - form.mantissa)
    value = select(expr.binary("lt", size, 1 << form.mantissa), small, normal)
    if form.has_infinity:
        value = select(expr.binary("eq", size, form.beyond), math.inf, value)
        value = select(expr.binary("gt", size, form.beyond), math.nan, value)
    elif form.nan is not None and form.has_negative_zero:
        value = select(expr.binary("eq", size, form.nan), math.nan, value)
    negative = expr.binary("ne", word & form.sign, 0)
    signed = select(negative, -value, value)
    if form.has_negative_zero:
        return signed
    return select(expr.binary("eq", word, form.sign), math.nan, signed)


def encoded(x: Expression, dtype: DType) -> Expression:
    """A number as an element of a storage type.

    Integers are cut to their low bits, floats towards zero before that. For small floats a number
    becomes f32 and is rounded to nearest, ties to even; too large ones become infinity or NaN (of
    f4e2m1 the largest).
    """
    if x.dtype is boolean:
        x = convert(x, i32)
    if dtype in WIDTHS:
        whole = convert(x, i32) if x.dtype.is_float else x
        low = convert(whole, u8) & ((1 << WIDTHS[dtype]) - 1)
        return bits(low, dtype)
    if dtype not in FORMATS:
        raise InternalError(f"no way to round to {dtype}")
    return bits(convert(_byte(convert(x, f32), FORMATS[dtype]), u8), dtype)


def _byte(x: Expression, form: Format) -> Expression:
    word = bits(x, u32)
    size = word & (_SIGN - 1)
    cut = _MANTISSA - form.mantissa
    # Half of what is cut off, and at a tie one more where the last kept bit is set.
    half = (1 << (cut - 1)) - 1 + (expr.binary("shr", size, cut) & 1)
    normal = expr.binary("shr", size + half, cut) - ((_BIAS - form.bias) << form.mantissa)
    # An addition to a number whose last bit is the step of the small numbers rounds to that step.
    step = constant(math.ldexp(1.0, _MANTISSA + 1 - form.bias - form.mantissa), f32)
    small = bits(bits(size, f32) + step, u32) - bits(step, u32)
    is_small = expr.binary("lt", size, (_BIAS + 1 - form.bias) << _MANTISSA)
    result = select(is_small, small, normal)
    too_large = expr.binary("gt", size, _INFINITY - 1) | (
        expr.binary("gt", result, form.highest) & ~is_small
    )
    result = select(too_large, form.beyond, result)
    # A float without NaN has to become something; ml_dtypes says negative zero.
    nan = form.sign if form.nan is None else form.nan
    is_nan = expr.binary("gt", size, _INFINITY)
    result = select(is_nan, nan, result)
    sign = select(expr.binary("ge", word, _SIGN), constant(form.sign, u32), constant(0, u32))
    if form.nan is None:
        return select(is_nan, result, result | sign)
    if form.has_negative_zero:
        return result | sign
    return select(expr.binary("eq", result, 0), result, result | sign)
