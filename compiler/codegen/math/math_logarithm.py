"""log and related functions: log1p, asinh, acosh, atanh.

u = 2^k m with sqrt(1/2) <= m < sqrt(2), f = m - 1 (exact), log(u) = k ln 2 + log(1 + f). f32: log(1
+ f) = f - f^2/2 + f^3 P(f). f64: with s = f / (2 + f), log(1 + f) = 2 atanh(s), summed as in
FreeBSD's e_log.c so that s's rounding does not count. The inverse hyperbolic functions are
logarithms of a sum, which is kept as two words (high, low), so that small arguments need no
separate case. Polynomials: minimax as described in `math_exponential`.
"""

from __future__ import annotations

import math

from bessemer.compiler.codegen.math.math_exponential import FORMATS
from bessemer.compiler.codegen.math.math_logarithm_tables import (
    log1p_by_table,
    log_by_table,
    log_of_words_by_table,
)
from bessemer.compiler.codegen.math.math_terms import (
    Term,
    fma,
    polynomial,
    select,
    square_root,
    with_sign_of,
)
from bessemer.compiler.codegen.math.math_words import (
    exact_product,
    exact_sum,
    ordered_sum,
    remainder_of_product,
)

_SMALLEST_NORMAL = {"f32": 2.0**-126, "f64": 2.0**-1022}
_SQRT_HALF_BITS = {"f32": 0x3F3504F3, "f64": 0x3FE6A09E667F3BCD}
# (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2); 2^-29.3.
_LOG_F32 = (0.3333331346511841, -0.2500016689300537, 0.20002223551273346,
            -0.16659367084503174, 0.14209559559822083, -0.12549687922000885,
            0.12108922749757767, -0.10916363447904587, 0.05338423326611519)  # fmt: skip
# (2 atanh(s) / s - 2) / s^2 in s^2 on the same interval; 2^-59.5.
_LOG_F64 = (0.6666666666666734, 0.3999999999941654, 0.2857142874206573, 0.2222219859997484,
            0.1818356316876868, 0.15314075518442122, 0.14795737470580853)  # fmt: skip


def exponent_and_fraction(u: Term) -> tuple[Term, Term, Term]:
    """(k, m, bits of 2^(1 - k)) of a positive normal u = 2^k m, where sqrt(1/2) <= m < sqrt(2)."""
    form = FORMATS[u.kind]
    one, low = form.bias << form.mantissa, (1 << form.mantissa) - 1
    shifted = u.bits() + (one - _SQRT_HALF_BITS[u.kind])
    biased = shifted >> form.mantissa
    fraction = ((shifted & low) + _SQRT_HALF_BITS[u.kind]).as_float()
    # Or-ing the biased exponent into 2^mantissa's low bits converts it without an instruction
    # that 64-bit integers lack on AVX2.
    power = 2.0**form.mantissa
    exponent = (biased | ((form.bias + form.mantissa) << form.mantissa)).as_float()
    inverse = (biased.constant(2 * form.bias + 1) - biased) << form.mantissa
    return exponent - (power + form.bias), fraction, inverse


def _log_of_parts(k: Term, f: Term) -> Term:
    """k ln 2 + log(1 + f)"""
    form, square = FORMATS[f.kind], f * f
    if f.kind == "f32":
        tail = fma(k, form.ln2_low, square * f * polynomial(f, _LOG_F32))
        return fma(k, form.ln2_high, f + fma(square, -0.5, tail))
    s = f / (2.0 + f)
    z, half_square = s * s, 0.5 * square
    series = fma(s, half_square + z * polynomial(z, _LOG_F64), k * form.ln2_low)
    return fma(k, form.ln2_high, f - (half_square - series))


def _log_of_words(high: Term, low: Term, more: Term | None = None) -> Term:
    """log(high + low) + more * ln 2, for positive normal high; undefined for anything else."""
    if high.writer.has_lookup:
        return log_of_words_by_table(high, low, more)
    k, m, inverse = exponent_and_fraction(high)
    k = k if more is None else k + more
    return _log_of_parts(k, fma(low * inverse.as_float(), 0.5, m - 1.0))


def log(x: Term) -> Term:
    if x.writer.has_lookup:
        return log_by_table(x)
    form, smallest = FORMATS[x.kind], _SMALLEST_NORMAL[x.kind]
    denormal, lift = x < smallest, float(form.mantissa + 1)
    k, m, _ = exponent_and_fraction(select(denormal, x * 2.0**lift, x))
    y = _log_of_parts(k - select(denormal, x.constant(lift), 0.0), m - 1.0)
    return _outside(x, y, x, 0.0)


def log1p(x: Term) -> Term:
    if x.writer.has_lookup:
        return log1p_by_table(x)
    high, low = exact_sum(1.0, x)
    return with_sign_of(_outside(x, _log_of_words(high, low), x, -1.0), x)


def _outside(x: Term, y: Term, infinite: Term, pole: float) -> Term:
    """The value for arguments outside of the domain, else y: `infinite` where x is infinite or NaN,
    -inf at the pole, NaN below it."""
    y = select(x < math.inf, y, infinite)
    return select(x <= pole, select(x < pole, x.constant(math.nan), -math.inf), y)


def asinh(x: Term) -> Term:
    """log(|x| + sqrt(x^2 + 1))"""
    size = abs(x)
    square, square_low = exact_product(size, size)
    inside, inside_low = exact_sum(1.0, square)
    root, root_low = _root_of_words(inside, inside_low + square_low)
    high, low = ordered_sum(root, size)
    return with_sign_of(_unless_huge(size, high, low + root_low), x)


def acosh(x: Term) -> Term:
    """log(x + sqrt(x^2 - 1))"""
    square, square_low = exact_product(x, x)
    inside, inside_low = exact_sum(-1.0, square)
    root, root_low = _root_of_words(inside, inside_low + square_low)
    high, low = ordered_sum(x, root)
    return select(x >= 1.0, _unless_huge(x, high, low + root_low), math.nan)


def _root_of_words(high: Term, low: Term) -> tuple[Term, Term]:
    """sqrt(high + low) as two words, by one Newton step from the rounded root."""
    root = square_root(high)
    error = remainder_of_product(high, root, root) + low
    return root, select(root > 0.0, 0.5 * error / root, 0.0)


def _unless_huge(size: Term, high: Term, low: Term) -> Term:
    """log(high + low), or log(2 size) where the 1 beside size^2 is lost and the square may
    overflow."""
    huge = size > 2.0 ** (FORMATS[size.kind].mantissa // 2 + 3)
    one_more = select(huge, size.constant(1.0), 0.0)
    y = _log_of_words(select(huge, size, high), select(huge, 0.0, low), one_more)
    return select(size < math.inf, y, size)


def atanh(x: Term) -> Term:
    """log(1 + 2|x| / (1 - |x|)) / 2"""
    size = abs(x)
    divisor, divisor_low = ordered_sum(1.0, -size)
    double = size + size
    quotient = double / divisor
    rest = remainder_of_product(double, quotient, divisor) - quotient * divisor_low
    high, low = exact_sum(1.0, quotient)
    y = 0.5 * _log_of_words(high, low + rest / divisor)
    y = select(size < 1.0, y, select(size.equals(1.0), x.constant(math.inf), math.nan))
    return with_sign_of(y, x)
