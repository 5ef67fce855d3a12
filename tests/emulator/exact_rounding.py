"""Rounding to floating-point formats by whole fractions: the slow definition that tests
compare with.
"""

from __future__ import annotations

import math
from fractions import Fraction

# (bits of precision, exponent of the smallest normal number, largest number)
FORMATS = {
    "f64": (53, -1022, Fraction(2**53 - 1) * 2**971),
    "f32": (24, -126, Fraction(2**24 - 1) * 2**104),
    "f16": (11, -14, Fraction(65504)),
    "bf16": (8, -126, Fraction(255) * 2**120),
    "tf32": (11, -126, Fraction(2047) * 2**117),
    "e4m3": (4, -6, Fraction(448)),
    "e5m2": (3, -14, Fraction(57344)),
}


def whole(value: Fraction, mode: str) -> int:
    """The whole number that `mode` rounds to."""
    low = math.floor(value)
    rest = value - low
    match mode[:2], mode:
        case ("rm", _):
            return low
        case ("rp", _):
            return math.ceil(value)
        case ("rz", _):
            return math.trunc(value)
        case (_, "rna"):
            return low + (rest >= Fraction(1, 2) if value > 0 else rest > Fraction(1, 2))
    if rest == Fraction(1, 2):
        return low + low % 2
    return low + (rest > Fraction(1, 2))


def rounded(value: Fraction | float, name: str, mode: str = "rn", saturates: bool = False) -> float:
    """`value` in the format `name`, as a Python float."""
    if isinstance(value, float) and not math.isfinite(value):
        largest = float(FORMATS[name][2])
        return math.copysign(largest, value) if saturates and math.isinf(value) else value
    sign = math.copysign(1.0, value) if isinstance(value, float) else (1.0 if value >= 0 else -1.0)
    exact = Fraction(value)
    if exact == 0:
        return math.copysign(0.0, sign)
    precision, lowest, largest_number = FORMATS[name]
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    exponent = max(exponent, lowest)
    step = Fraction(2) ** (exponent - precision + 1)
    result = whole(exact / step, mode) * step
    if abs(result) > largest_number:
        stays = (
            saturates
            or mode == "rz"
            or (mode == "rm" and exact > 0)
            or (mode == "rp" and exact < 0)
        )
        return math.copysign(float(largest_number) if stays else math.inf, sign)
    return math.copysign(float(abs(result)), sign)
