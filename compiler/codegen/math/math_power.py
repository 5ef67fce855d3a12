"""pow(x, y) = exp(y log|x|), with the special cases of C's pow (C17, F.10.4.4).

The product y log|x| needs more bits than the result has: f32 computes it in f64 (with lookups:
`math_power_tables`); f64 keeps the logarithm as two words, good to about 2^-66 (in the manner of
Gal and of SLEEF's pow). Polynomials: minimax as described in `math_exponential`.
"""

from __future__ import annotations

import math

from bessemer.compiler.codegen.math.math_exponential import FORMATS, exp_minus_one_of, reduced
from bessemer.compiler.codegen.math.math_logarithm import exponent_and_fraction
from bessemer.compiler.codegen.math.math_power_tables import power_of_size
from bessemer.compiler.codegen.math.math_terms import (
    Term,
    at_least,
    at_most,
    floor,
    fma,
    polynomial,
    select,
)
from bessemer.compiler.codegen.math.math_words import (
    exact_product,
    exact_sum,
    ordered_sum,
    remainder_of_product,
)

_SMALLEST_NORMAL = 2.0**-1022
_LIFT = 54.0
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
# (2 atanh(s) / s - 2) / s^2 in s^2, |s| <= 0.172; 2^-37.6 of the logarithm.
_LOG_OF_F32 = (0.6666666564502621, 0.40000335296047457, 0.28537301401392284,
               0.23582294997012077)  # fmt: skip
# ((2 atanh(s) / s - 2) / s^2 - 2/3) / s^2 in s^2; 2^-66.3 of the logarithm.
_LOG = (0.40000000000002256, 0.2857142857009957, 0.22222222519926652, 0.18181784366607442,
        0.1538675736138864, 0.13256816922990908, 0.13196337320778878)  # fmt: skip
# (exp(r) - 1 - r) / r^2, f64 arithmetic for an f32 result; 2^-33.5.
_EXP_OF_F32 = (0.5000000067836783, 0.16666663822349884, 0.04166628595415393,
               0.008334011894627043, 0.001394555417258168, 0.00019492450485536746)  # fmt: skip


def power(x: Term, y: Term) -> Term:
    """x^y of f32 or f64: the magnitude by logarithm and exponential, then the sign, then NaN."""
    size = abs(x)
    if x.writer.has_lookup:
        magnitude = power_of_size(size, y)
    else:
        magnitude = _magnitude_f32(size, y) if x.kind == "f32" else _magnitude_f64(size, y)
    whole = floor(y).equals(y)
    half = y * 0.5
    odd = whole & (floor(half) < half)
    sign_bit = 1 << (int(x.bits().kind[1:]) - 1)
    sign = select(odd, x.bits() & sign_bit, 0)
    signed = (magnitude.bits() ^ sign).as_float()
    # A negative finite base has real powers for whole exponents only; x - x is NaN for infinity.
    return select((x < 0.0) & (size < math.inf) & _not(whole), math.nan, signed)


def _not(mask: Term) -> Term:
    return mask ^ 1


def _magnitude_f32(size: Term, y: Term) -> Term:
    wide, exponent = size.widened("f64"), y.widened("f64")
    k, m, _ = exponent_and_fraction(wide)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    logarithm = fma(square * s, polynomial(square, _LOG_OF_F32), s + s)
    logarithm = fma(k, math.log(2.0), logarithm)
    product = exponent * _or_limits(wide, logarithm)
    product = at_least(at_most(_or_one(wide, exponent, product), 120.0), -120.0)
    _, r, bits = reduced(product, FORMATS["f64"].bias)
    scale = (bits << FORMATS["f64"].mantissa).as_float()
    return fma(scale, fma(r * r, polynomial(r, _EXP_OF_F32), r), scale).narrowed("f32")


def _or_limits(size: Term, logarithm: Term) -> Term:
    """The logarithm, or its limit where size is 0, infinite or NaN."""
    finite = select(size < math.inf, logarithm, size)
    return select(size.equals(0.0), -math.inf, finite)


def _or_one(size: Term, y: Term, product: Term) -> Term:
    """y log(size), or 0 where the power is 1 even if the other argument is NaN."""
    return select(size.equals(1.0) | y.equals(0.0), 0.0, product)


def _magnitude_f64(size: Term, y: Term) -> Term:
    log_high, log_low = _log_in_words(size)
    high, low = exact_product(y, log_high)
    low = fma(y, log_low, low)
    # Infinite factors leave NaN in the low word, and huge products need none.
    high = select((size > 0.0) & (size < math.inf), high, y * _or_limits(size, y))
    low = select(abs(high) < 1000.0, low, 0.0)
    high, low = _or_one(size, y, high), _or_one(size, y, low)
    return _exp_of_words(at_least(at_most(high, 710.0), -746.0), low)


def _log_in_words(size: Term) -> tuple[Term, Term]:
    """(high, low) with log(size) = high + low for positive finite size; |low| <= ulp(high) / 2."""
    denormal = size < _SMALLEST_NORMAL
    k, m, _ = exponent_and_fraction(select(denormal, size * 2.0**_LIFT, size))
    k = k - select(denormal, size.constant(_LIFT), 0.0)
    # s = (m - 1) / (m + 1)
    f = m - 1.0
    divisor, divisor_low = exact_sum(2.0, f)
    s = f / divisor
    s_low = (remainder_of_product(f, s, divisor) - s * divisor_low) / divisor
    # z = s^2, c = 2/3 + z Q(z), log(m) = s (2 + z c)
    z, z_low = _product_of_words((s, s_low), (s, s_low))
    c, c_low = ordered_sum(_TWO_THIRDS[0], z * polynomial(z, _LOG))
    g = _product_of_words((z, z_low), (c, c_low + _TWO_THIRDS[1]))
    h, h_low = _product_of_words((s, s_low), g)
    form = FORMATS["f64"]
    total, first = exact_sum(k * form.ln2_high, 2.0 * s)
    total, second = exact_sum(total, h)
    rest = fma(k, form.ln2_low, (first + second) + fma(s_low, 2.0, h_low))
    return ordered_sum(total, rest)


def _product_of_words(left: tuple[Term, Term], right: tuple[Term, Term]) -> tuple[Term, Term]:
    high, low = exact_product(left[0], right[0])
    return high, low + fma(left[0], right[1], left[1] * right[0])


def _exp_of_words(high: Term, low: Term) -> Term:
    """exp(high + low), where low is tiny and -746 <= high <= 710; results overflow and underflow
    gradually."""
    form = FORMATS["f64"]
    n, r, _ = reduced(high)
    q = exp_minus_one_of(r + low)
    # 2^n is scaled in two steps, each of which is a normal number.
    shifted = fma(n, 0.5, form.magic + form.bias)
    rest = (n - (shifted - (form.magic + form.bias))) + (form.magic + form.bias)
    step, last = ((bits.bits() << form.mantissa).as_float() for bits in (shifted, rest))
    return fma(step, q, step) * last
