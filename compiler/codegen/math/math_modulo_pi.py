"""sin and cos of f32, reduced modulo pi in f32, for machines with multiply-add: x = n pi + r,
|r| <= pi/2.

With multiply-add, |x| - n * P1 is exact (n is an integer, or one half more); P2 and P3 add the rest
of pi. One polynomial, sin(r), serves both functions, and n's last bit is the result's sign. That is
half the work of reducing modulo pi/2 in f64 (`math_trigonometric`), which is for larger angles.
"""

from __future__ import annotations

import math

from bessemer.compiler.codegen.math.math_exponential import FORMATS
from bessemer.compiler.codegen.math.math_terms import Term, at_least, at_most, fma, polynomial

FARTHEST = 2.0**17
"""The largest |x|. Up to there n is off by at most 2^-8, and r by 2^-55, which is n times the part
of pi that P3 lacks."""
# No part is negative, so that none turns -0 into 0.
_PI = (3.141592502593994, 1.5099578831723193e-07, 1.078060505991553e-14)
# (sin(r) / r - 1) / r^2 in r^2, |r| <= 1.585; 2^-27.2.
_SIN = (-0.16666659712791443, 0.008333064615726471, -0.00019809220975730568, 2.6045265713037224e-06)


def sin_modulo_pi(x: Term) -> Term:
    shifted = fma(x, 1.0 / math.pi, FORMATS["f32"].magic)
    n = -(shifted - FORMATS["f32"].magic)
    return _alternating(x, n, shifted.bits())


def cos_modulo_pi(x: Term) -> Term:
    """cos(x) by x = (n + 1/2) pi - r."""
    shifted = fma(x, 1.0 / math.pi, -0.5) + FORMATS["f32"].magic
    n = (shifted - FORMATS["f32"].magic) + 0.5
    return _alternating(-x, n, shifted.bits())


def _alternating(x: Term, n: Term, bits: Term) -> Term:
    """sin(x + n pi): sin(x), negated if the bits are odd."""
    r = x
    for part in _PI:
        r = fma(n, part, r)
    square = r * r
    # Adding 0 to what may be -0 keeps the sign of r where that is -0.
    rest = fma(square, polynomial(square, _SIN), 0.0)
    y = at_least(at_most(fma(rest, r, r), 1.0), -1.0)
    return (y.bits() ^ (bits << 31)).as_float()
