"""Casts to numbers of at most eight bits, as ONNX wants them."""

from __future__ import annotations

from typing import Literal

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, f8e8m0, f32, u8, u32
from bessemer.compiler.ops.composite.composite import binary, cast, where
from bessemer.compiler.ops.narrow_types import FORMATS

Rounding = Literal["up", "down", "nearest"]
_MANTISSA = 23
_SPECIAL = 255  # the exponent of infinity and NaN


def small_cast(
    b: GraphBuilder, x: Value, dtype: DType, saturate: bool = True, rounding: Rounding = "up"
) -> Value:
    """x as any type. `saturate`: what is too large for a small float, infinity too, becomes the
    largest instead of infinity or NaN. `rounding` is for powers of two (f8e8m0) only."""
    if dtype is f8e8m0 and x.type.dtype is not f8e8m0:
        return _power_of_two(b, cast(b, x, f32), saturate, rounding)
    if dtype not in FORMATS or not saturate or x.type.dtype is dtype:
        return cast(b, x, dtype)
    limit = FORMATS[dtype].largest
    return cast(b, binary(b, "max", binary(b, "min", cast(b, x, f32), limit), -limit), dtype)


def _power_of_two(b: GraphBuilder, x: Value, saturate: bool, rounding: Rounding) -> Value:
    """The exponents of numbers, whose signs do not count."""
    word = b.apply("reinterpret", x, dtype=u32)
    exponent = binary(b, "and", binary(b, "shr", word, _MANTISSA), _SPECIAL)
    fraction = binary(b, "and", word, (1 << _MANTISSA) - 1)
    half = 1 << (_MANTISSA - 1)
    match rounding:
        case "down":
            upwards = binary(b, "lt", fraction, 0)
        case "up":
            upwards = binary(b, "gt", fraction, 0)
        case "nearest":
            # At a tie upwards, but for the smallest exponent.
            tie = binary(b, "and", binary(b, "eq", fraction, half), binary(b, "gt", exponent, 0))
            upwards = binary(b, "or", binary(b, "gt", fraction, half), tie)
    last = _SPECIAL - 1 if saturate else _SPECIAL
    upwards = binary(b, "and", upwards, binary(b, "lt", exponent, last))
    result = where(b, upwards, binary(b, "add", exponent, 1), exponent)
    return b.apply("reinterpret", cast(b, result, u8), dtype=f8e8m0)
