"""sin, cos and tan: |x| = n pi/2 + r, |r| <= pi/4, a polynomial in r, and the quadrant n mod 4.

The reduction (Cody & Waite 1980) is in f64 for f32 too, with pi/2 as a sum of parts. With FMA the
parts may have all bits: |x| - n * P1 is exact in one instruction. f64 keeps r as two words. (With
FMA, sin and cos of most f32 need no f64: `math_modulo_pi`.) Polynomials: minimax as described in
`math_exponential`.

That holds for |x| <= LARGE (f32) and 2^30 (f64). An f32 above LARGE is reduced by the method of
Payne & Hanek (1983): it is a multiple of so high a power of 2 that the first bits of 2/pi
contribute whole turns. These bits are left out, and the next PIECES * 29 bits, 29 at a time, are
multiplied without rounding. An f64 beyond 2^30 loses accuracy as it grows, and is taken as 0 above
LIMIT. Infinity gives NaN.
"""

from __future__ import annotations

import math

from bessemer.compiler.codegen.math.math_exponential import FORMATS
from bessemer.compiler.codegen.math.math_terms import Term, fma, polynomial, select
from bessemer.compiler.codegen.math.math_words import exact_product, exact_sum

LARGE = 2.0**31
LIMIT = 2.0**45
PIECES = 4
_TWO_OVER_PI = 0.6366197723675814
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
# 22 bits each but the last: n * part is exact without FMA for every n below 2^31.
_HALF_PI_SHORT = (1.5707964897155762, -1.6292068494294654e-07, 5.390302529957765e-15,
                  3.2820036682434026e-22)  # fmt: skip

# The first 264 bits of 2 / pi.
_TWO_OVER_PI_BITS = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561B7
_TWO_OVER_PI_SIZE = 264
# (sin(r) / r - 1) / r^2 in r^2; 2^-27.9, 2^-57.9. "f64 of f32": f64 arithmetic, f32's needs.
_SIN = {
    "f32": (-0.16666655242443085, 0.00833218451589346, -0.00019517206237651408),
    "f64": (-0.1666666666666663, 0.008333333333321796, -0.00019841269829291877,
            2.7557313506282987e-06, -2.505072809935527e-08, 1.58950051120633e-10),
    "f64 of f32": (-0.1666666664061237, 0.00833332926664664, -0.00019839296103923927,
                   2.717939651163828e-06),
}  # fmt: skip
# (cos(r) - 1 + r^2 / 2) / r^4 in r^2; 2^-32.9, 2^-63.8.
_COS = {
    "f32": (0.04166664555668831, -0.0013887304812669754, 2.4431125417654726e-05),
    "f64": (0.04166666666666659, -0.0013888888888872186, 2.480158728829538e-05,
            -2.755731401511693e-07, 2.0875678083778025e-09, -1.1357336655798873e-11),
    "f64 of f32": (0.04166666661753984, -0.0013888883334261578, 2.479941686864658e-05,
                   -2.720220785969012e-07),
}  # fmt: skip


def sin(x: Term, is_large: bool = False) -> Term:
    """sin(x). Here and below, `is_large` is for f32 with |x| > LARGE only."""
    sine, cosine, quadrant = _sine_and_cosine(abs(x), x.kind, is_large)
    return _negated(select(_is_odd(quadrant), cosine, sine), quadrant ^ _sign_as_quadrant(x))


def cos(x: Term, is_large: bool = False) -> Term:
    sine, cosine, quadrant = _sine_and_cosine(abs(x), x.kind, is_large)
    # cos is negative in quadrants 1 and 2, which is where n + 1 has its second bit set.
    return _negated(select(_is_odd(quadrant), sine, cosine), quadrant + 1)


def tan(x: Term, is_large: bool = False) -> Term:
    """sin / cos, computed in f64 for f32 too, since three roundings in f32 would be too many."""
    wide = x.widened("f64") if x.kind == "f32" else x
    fit = "f64 of f32" if x.kind == "f32" else "f64"
    sine, cosine, quadrant = _sine_and_cosine(abs(wide), fit, is_large)
    odd = _is_odd(quadrant)
    ratio = select(odd, cosine, sine) / select(odd, sine, cosine)
    result = _negated(ratio, (quadrant << 1) ^ _sign_as_quadrant(wide))
    return result.narrowed("f32") if x.kind == "f32" else result


def _sine_and_cosine(size: Term, fit: str, is_large: bool) -> tuple[Term, Term, Term]:
    """(sin(r), cos(r), n), where n is an integer of x's width."""
    low = None
    if fit == "f64":
        size = select(size <= LIMIT, size, size * 0.0)
        r, low, quadrant = _reduced_to_words(size)
    else:
        reduced = _reduced_large if is_large else _reduced
        r, quadrant = reduced(size.widened("f64") if size.kind == "f32" else size)
    if size.kind == "f32":
        r, quadrant = r.narrowed("f32"), quadrant.narrowed("i32")
    return _sine(r, low, fit), _cosine(r, low, fit), quadrant


def _sine(r: Term, low: Term | None, fit: str) -> Term:
    square = r * r
    cubic = square * r * polynomial(square, _SIN[fit])
    return r + (cubic if low is None else cubic + fma(low, -0.5 * square, low))


def _cosine(r: Term, low: Term | None, fit: str) -> Term:
    square = r * r
    inner = fma(square, polynomial(square, _COS[fit]), -0.5)
    return fma(square, inner, 1.0) if low is None else 1.0 + fma(square, inner, -(r * low))


def _nearest_quarter(size: Term) -> tuple[Term, Term]:
    magic = FORMATS["f64"].magic
    shifted = fma(size, _TWO_OVER_PI, magic)
    return shifted - magic, shifted.bits()


def _reduced(size: Term) -> tuple[Term, Term]:
    n, bits = _nearest_quarter(size)
    r = size
    for part in _HALF_PI[:2] if size.writer.has_fma else _HALF_PI_SHORT:
        r = fma(n, -part, r)
    return r, bits


def _reduced_to_words(size: Term) -> tuple[Term, Term, Term]:
    n, bits = _nearest_quarter(size)
    first, first_low = exact_product(n, _HALF_PI[0])
    second, second_low = exact_product(n, _HALF_PI[1])
    high, low = exact_sum(size - first, -first_low)
    high, more = exact_sum(high, -second)
    low = (low + more) - fma(n, _HALF_PI[2], second_low)
    r = high + low
    return r, (high - r) + low, bits


def _reduced_large(size: Term) -> tuple[Term, Term]:
    """The reduction of an f32 from LARGE to infinity. It is a multiple of 2^(exponent - 23), and
    numbers in a band of exponents differ by at most a factor of 2^24, so one choice of the bits of
    2/pi serves a band."""
    magic = FORMATS["f64"].magic
    bands = [31 + 24 * band for band in range(5)]
    products = []
    for piece in range(PIECES):
        factor = size.constant(_bits_of_two_over_pi(bands[-1], piece))
        for band in reversed(bands[:-1]):
            factor = select(size < 2.0 ** (band + 24), _bits_of_two_over_pi(band, piece), factor)
        products.append(size * factor)
    first, second, third, fourth = products
    quarters, low = exact_sum(_without_turns(first), _without_turns(second))
    shifted = quarters + magic
    r = ((quarters - (shifted - magic)) + third) + (low + fourth)
    return r * _HALF_PI[0], shifted.bits()


def _bits_of_two_over_pi(band: int, piece: int) -> float:
    """29 bits of 2/pi. For arguments from 2^band on, piece 0 begins below the bits that contribute
    multiples of 4."""
    after = band - 23 - 2 + 29 * (piece + 1)
    bits = (_TWO_OVER_PI_BITS >> (_TWO_OVER_PI_SIZE - after)) & ((1 << 29) - 1)
    return math.ldexp(bits, -after)


def _without_turns(quarters: Term) -> Term:
    magic = FORMATS["f64"].magic
    return quarters - 4.0 * (fma(quarters, 0.25, magic) - magic)


def _is_odd(quadrant: Term) -> Term:
    return (quadrant & 1).equals(1)


def _sign_as_quadrant(x: Term) -> Term:
    """2, half a turn, for negative x; else 0."""
    sign_shift = int(x.bits().kind[1:]) - 1
    return (x.bits() >> sign_shift) << 1


def _negated(y: Term, quadrant: Term) -> Term:
    """-y if the quadrant's second bit is set, else y."""
    sign_shift = int(quadrant.kind[1:]) - 2
    return (y.bits() ^ ((quadrant & 2) << sign_shift)).as_float()
