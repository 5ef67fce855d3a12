"""exp and related functions: exp2, expm1, sigmoid, sinh, cosh, tanh.

exp(x) = 2^n exp(r), n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts (Cody & Waite,
Software Manual for the Elementary Functions, 1980), exp(r) = 1 + r + r^2 P(r). The polynomials here
are minimax fits of the relative error (Remez exchange in 90 digits; coefficients are rounded one
after the other, and the rest fitted again). n is found by adding 1.5 * 2^(mantissa bits): the sum's
low bits are then n as an integer, so no conversion instruction is needed.

Results below the smallest normal number are zero: artifacts run with denormals flushed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bessemer.compiler.codegen.math.math_instructions import limited, scaled, table_lookup
from bessemer.compiler.codegen.math.math_tables import tanh_by_table
from bessemer.compiler.codegen.math.math_terms import (
    Term,
    at_least,
    at_most,
    bits_of,
    float_of,
    fma,
    polynomial,
    select,
    with_sign_of,
)


@dataclass(frozen=True)
class Format:
    """Constants of a floating-point format that the range reduction needs."""

    mantissa: int
    bias: int
    magic: float
    ln2_high: float
    ln2_low: float
    largest: float
    log_largest: float
    log_smallest: float
    saturation: float


# ln2_high has so many trailing zeros that n * ln2_high is exact for every n.
FORMATS = {
    "f32": Format(
        mantissa=23,
        bias=127,
        magic=1.5 * 2.0**23,
        ln2_high=0.693359375,
        ln2_low=-2.1219444005469057e-4,
        largest=3.4028234663852886e38,
        log_largest=88.72283172607422,
        log_smallest=-87.33654022216797,
        saturation=18.0,
    ),
    "f64": Format(
        mantissa=52,
        bias=1023,
        magic=1.5 * 2.0**52,
        ln2_high=0.693147180369123816490,
        ln2_low=1.90821492927058770002e-10,
        largest=1.7976931348623157e308,
        log_largest=709.782712893384,
        log_smallest=-708.3964185322641,
        saturation=40.0,
    ),
}

# (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2; relative errors of exp 2^-28.2 and 2^-57.8.
EXP = {
    "f32": (0.4999999403953552, 0.16666516661643982, 0.04166810214519501, 0.008369166404008865,
            0.001383802155032754),
    "f64": (0.5000000000000011, 0.16666666666666377, 0.041666666666524944, 0.008333333333517347,
            0.0013888888945243366, 0.00019841269457189292, 2.4801491221046914e-05,
            2.7557630011303337e-06, 2.7630981148505577e-07, 2.498647120401759e-08),
}  # fmt: skip
# (exp(r) - 1) / r for |r| <= ln(2) / 64; 2^-24.2 of exp.
_SHORT_EXP = (1.0000147, 0.50000155)
_PIECES = 32
# (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 32; 2^-29.2 of exp.
_EXP_OF_SIXTEENTH = (0.5000162, 0.16667008)
# The same of 2^r, for |r| <= 1/32.
_EXP2_OF_SIXTEENTH = (0.2402342, 0.0555054)
_SIXTEENTHS = tuple(2.0 ** (k / 16) for k in range(16))
# What rounding those to f32 loses, relative to them.
_LOST = (
    0.0, 4.628547e-08, -1.1992158e-08, 4.7297824e-08, 3.193418e-08, 3.6210572e-08, -3.099072e-08,
    -7.475213e-09, 1.7114271e-08, -3.0476834e-08, 5.233334e-09, 6.1075918e-09, -1.4719605e-08,
    -5.258795e-09, -6.1282597e-09, 5.1406093e-09,
)  # fmt: skip
_LN2 = 0.6931471824645996  # rounded to f32: 2^-28.5 too large
# (tanh(x) / x - 1) / x^2 in x^2, |x| <= 0.6; 2^-28.4 and 2^-57.8.
_TANH = {
    "f32": (-0.33333298563957214, 0.13331936299800873, -0.05378471687436104, 0.02079862542450428,
            -0.005897966213524342),
    "f64": (-0.33333333333333126, 0.13333333333299766, -0.0539682539493341, 0.021869488003318255,
            -0.008863226786333264, 0.0035920374455675223, -0.001455215685043554,
            0.0005871894208709748, -0.0002303988136583871, 7.931619665233841e-05,
            -1.717981851416196e-05),
}  # fmt: skip
# (sinh(x) / x - 1) / x^2 in x^2, |x| <= 1; 2^-31.6 and 2^-61.8.
_SINH = {
    "f32": (0.1666666716337204, 0.00833331048488617, 0.00019842895562760532,
            2.7822131869470468e-06),
    "f64": (0.16666666666666669, 0.008333333333332912, 0.00019841269841593408,
            2.7557319106758273e-06, 2.5052130998344048e-08, 1.6056659208360146e-10,
            7.776598518098228e-13),
}  # fmt: skip


def reduced(x: Term, exponent_offset: float = 0.0) -> tuple[Term, Term, Term]:
    """(n, r, bits): x = n ln 2 + r, and an integer whose low bits are n + exponent_offset."""
    form = FORMATS[x.kind]
    shifted = fma(x, 1.0 / math.log(2.0), form.magic + exponent_offset)
    n = shifted - (form.magic + exponent_offset)
    return n, fma(n, -form.ln2_low, fma(n, -form.ln2_high, x)), shifted.bits()


def exp_minus_one_of(r: Term) -> Term:
    """exp(r) - 1 for |r| <= ln(2) / 2."""
    return fma(r * r, polynomial(r, EXP[r.kind]), r)


def scale_and_rest(x: Term, halvings: int = 0) -> tuple[Term, Term]:
    """(s, q) with exp(x) = s 2^halvings (1 + q), where s is a power of two and -0.3 < q < 0.42.

    x must be in a range where s is a normal number. If x is NaN, so is q.
    """
    form = FORMATS[x.kind]
    _, r, bits = reduced(x, form.bias - halvings)
    return (bits << form.mantissa).as_float(), exp_minus_one_of(r)


def scaled_by_bits(significand: Term, bits: Term) -> Term:
    """significand * 2^n by adding n to the exponent field; the result must be a normal number."""
    return (significand.bits() + (bits << FORMATS[significand.kind].mantissa)).as_float()


def exp(x: Term) -> Term:
    form = FORMATS[x.kind]
    if x.writer.has_lookup:
        return _exp_by_sixteenths(x)
    _, r, bits = reduced(x)
    # n reaches 128 (1024) while 2^n is not a number yet, so n goes into the exponent of exp(r).
    y = scaled_by_bits(1.0 + exp_minus_one_of(r), bits)
    y = select(x < form.log_smallest, 0.0, y)
    return select(x <= form.log_largest, y, x * form.largest)


def _exp_by_sixteenths(x: Term) -> Term:
    """exp(x) by x = n ln 2 + r, where n is a multiple of 1/16: its fraction selects a power of 2
    from a table, its integer part scales the result. The largest error is 0.6 ULP."""
    form = FORMATS[x.kind]
    magic = form.magic / len(_SIXTEENTHS)
    shifted = fma(x, 1.0 / math.log(2.0), magic)
    n = shifted - magic
    # For the largest x this is anything, or NaN; n, which tells those and NaN, makes them 0, inf
    # and NaN as long as r is a number.
    r = limited(fma(n, -form.ln2_low, fma(n, -form.ln2_high, x)), 1.0 / 16, keeps_sign=True)
    power = table_lookup(_SIXTEENTHS, shifted.bits())
    first = r + table_lookup(_LOST, shifted.bits())
    rest = fma(r * r, polynomial(r, _EXP_OF_SIXTEENTH), first)
    return scaled(fma(power, rest, power), n)


def power_by_sixteenths(x: Term) -> Term:
    """2^x in f32 for x in f64, in the same way. What remains of x after n is rounded once."""
    shifted = x.narrowed("f32") + FORMATS["f32"].magic / len(_SIXTEENTHS)
    n = shifted - FORMATS["f32"].magic / len(_SIXTEENTHS)
    r = limited((x - n.widened("f64")).narrowed("f32"), 1.0 / 16, keeps_sign=True)
    power = table_lookup(_SIXTEENTHS, shifted.bits())
    first = fma(r, math.log(2.0), table_lookup(_LOST, shifted.bits()))
    rest = fma(r * r, polynomial(r, _EXP2_OF_SIXTEENTH), first)
    return scaled(fma(power, rest, power), n)


def exp_nonpositive(x: Term) -> Term:
    """exp(x) where no x is above 0 (see expr.py), on machines with table lookups.

    x = (32 n + k) ln 2 / 32 + r: k selects 2^(k / 32) from a table, and n is added to its exponent.
    (On Zen 4 multiply-adds compete with stores; this function has four, a polynomial alone seven.)
    """
    form = FORMATS[x.kind]
    shift = form.mantissa - _PIECES.bit_length() + 1
    # From here down 2^n is below the normal numbers: the last step takes it for zero.
    size = at_least(x, -88.0)
    magic = form.magic / _PIECES
    shifted = fma(size, 1.0 / math.log(2.0), magic)
    r = fma(shifted - magic, -_LN2, size)
    bits = shifted.bits()
    # k goes into the exponent field with n; what that adds to the significand is taken off before.
    powers = [bits_of(2.0 ** (k / _PIECES)) - (k << shift) for k in range(_PIECES)]
    power = table_lookup([float_of(word) for word in powers], bits).bits() + (bits << shift)
    scale = power.as_float()
    return fma(scale, r * polynomial(r, _SHORT_EXP), scale)


def exp2(x: Term) -> Term:
    form = FORMATS[x.kind]
    shifted = x + form.magic
    r = (x - (shifted - form.magic)) * math.log(2.0)
    y = scaled_by_bits(1.0 + exp_minus_one_of(r), shifted.bits())
    y = select(x < 1.0 - form.bias, 0.0, y)
    return select(x < form.bias + 1.0, y, x * form.largest)


def expm1(x: Term) -> Term:
    """2 (s q + (s - 1/2)), rounded once: s - 1/2 is exact, and zero if x is small."""
    form = FORMATS[x.kind]
    s, q = scale_and_rest(at_least(at_most(x, form.log_largest + 0.3), -form.saturation), 1)
    # Halving a small x could leave the normal numbers, and would lose the sign of zero.
    small = abs(x) < 2.0 ** (-form.mantissa - 2)
    return select(small, x, 2.0 * fma(s, q, s - 0.5))


def sigmoid(x: Term) -> Term:
    """1 / (1 + s + s q), corrected by the rounding errors of the denominator's two sums."""
    if x.writer.has_lookup:
        # This exponential errs by less, and the sum loses nothing where 1 < exp(-x) < 2^24.
        return 1.0 / (1.0 + exp(-x))
    form = FORMATS[x.kind]
    # The lower limit's reciprocal is below the normal numbers: artifacts flush it to zero.
    s, q = scale_and_rest(-at_most(at_least(x, form.log_smallest - 0.9), -form.log_smallest))
    whole = 1.0 + s
    denominator = fma(s, q, whole)
    lost = fma(s, q, whole - denominator) + (1.0 - (whole - s))
    y = 1.0 / denominator
    return fma(y * lost, -y, y)


def tanh(x: Term) -> Term:
    """1 - 2 / (exp(2 |x|) + 1), and a polynomial where that would cancel."""
    if x.writer.has_lookup:
        return tanh_by_table(x)
    size = abs(x)
    s, q = scale_and_rest(at_most(size + size, 2.0 * FORMATS[x.kind].saturation))
    large = 1.0 - 2.0 / fma(s, q, 1.0 + s)
    return with_sign_of(select(size < 0.6, _odd(size, _TANH), large), x)


def sinh(x: Term) -> Term:
    size = abs(x)
    quarter = _quarter_exp(size)
    large = 2.0 * (quarter - 0.0625 / quarter)
    return with_sign_of(select(size < 1.0, _odd(size, _SINH), large), x)


def cosh(x: Term) -> Term:
    quarter = _quarter_exp(abs(x))
    return 2.0 * (quarter + 0.0625 / quarter)


def _quarter_exp(size: Term) -> Term:
    """exp(size) / 4: finite whenever the result is, and infinite after doubling if the result
    is."""
    s, q = scale_and_rest(at_most(size, FORMATS[size.kind].log_largest + 1.0), 2)
    return fma(s, q, s)


def _odd(x: Term, coefficients: dict[str, tuple[float, ...]]) -> Term:
    """x + x^3 P(x^2)"""
    square = x * x
    return fma(square * x, polynomial(square, coefficients[x.kind]), x)
