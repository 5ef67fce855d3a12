"""asin, acos, atan: odd polynomials after a reduction to small arguments.

asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2)) for x > 1/2; atan(x) = pi/2 - atan(1 / x) for x > 1
(Cody & Waite 1980). Polynomials: minimax as described in `math_exponential`.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import (
    Term,
    fma,
    horner,
    polynomial,
    select,
    square_root,
    with_sign_of,
)

# pi/2 in two words.
_HALF_PI = {
    "f32": (1.5707963705062866, -4.3711390001862426e-08),
    "f64": (1.5707963267948966, 6.123233995736766e-17),
}
# (asin(x) / x - 1) / x^2 in x^2, |x| <= 1/2; 2^-31.7 and 2^-59.9.
_ASIN = {
    "f32": (0.16666659712791443, 0.07500521838665009, 0.044513385742902756, 0.03183875232934952,
            0.014317285269498825, 0.03769174590706825),
    "f64": (0.1666666666666676, 0.07499999999970863, 0.04464285717456521, 0.030381942709610844,
            0.022372214944004855, 0.01735161269603204, 0.013980813289922586,
            0.011398965638221343, 0.010779980728070616, 0.0037073501398664165,
            0.021705334826810068, -0.02099629066159797, 0.03262700889211528),
}  # fmt: skip
# (atan(x) / x - 1) / x^2 in x^2, |x| <= 1; 2^-28.5 and 2^-56.6.
_ATAN = {
    "f32": (-0.33333298563957214, 0.1999852955341339, -0.14264042675495148, 0.1095118522644043,
            -0.08400667458772659, 0.05791225656867027, -0.03113473765552044,
            0.010892437770962715, -0.0017888561123982072),
    "f64": (-0.3333333333333307, 0.19999999999951748, -0.1428571428258388, 0.11111111007093162,
            -0.09090907001424119, 0.07692279794346753, -0.06666403505113926,
            0.05880523566177759, -0.05253495814602708, 0.04722233194448846,
            -0.04218916948461066, 0.03663602629038017, -0.02989370719860646,
            0.021971415103906735, -0.013887024431785102, 0.00718631571305518,
            -0.0028793712433357655, 0.0008292581188174952, -0.00015169161168806022,
            1.317589170913879e-05),
}  # fmt: skip


def asin(x: Term) -> Term:
    size, high, low = abs(x), *_HALF_PI[x.kind]
    large, s, cubic = _arcsine_parts(size)
    # pi/4 - 2s is small and pi/4 added last: one rounding that counts, not two.
    quarter = x.constant(0.5 * high)
    complement = quarter - (fma(cubic, 2.0, -low) - (quarter - 2.0 * s))
    return with_sign_of(select(large, complement, s + cubic), x)


def acos(x: Term) -> Term:
    size, high, low = abs(x), *_HALF_PI[x.kind]
    large, s, cubic = _arcsine_parts(size)
    double = 2.0 * (s + cubic)
    turned = (2.0 * high - 2.0 * s) + fma(cubic, -2.0, 2.0 * low)
    s, cubic = with_sign_of(s, x), with_sign_of(cubic, x)
    return select(large, select(x < 0.0, turned, double), high - (s + (cubic - low)))


def _arcsine_parts(size: Term) -> tuple[Term, Term, Term]:
    """(size > 1/2, s, asin(s) - s), where s = sqrt((1 - size) / 2) if size > 1/2, else size."""
    large = size > 0.5
    square = select(large, fma(size, -0.5, 0.5), size * size)
    s = select(large, square_root(square), size)
    return large, s, square * s * polynomial(square, _ASIN[size.kind])


def atan(x: Term) -> Term:
    size, high, low = abs(x), *_HALF_PI[x.kind]
    large = size > 1.0
    t = select(large, 1.0, size) / select(large, size, 1.0)
    square = t * t
    cubic = square * t * horner(square, _ATAN[x.kind])
    return with_sign_of(select(large, high - (t + (cubic - low)), t + cubic), x)
