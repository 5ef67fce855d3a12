"""log and log1p of f32 by tables with 32 entries, for machines with lookups; also the log of a sum
of two words.

x = 2^k m, 1 <= m < 2, log(x) = (k ln 2 + t) + log(1 + f), f = m r - 1. The first five bits of m
select r, nearly 1 / m, and t = -log(r); r is chosen so that t has hardly any error as an f32 (Gal,
"Computing elementary functions: a new approach for achieving high accuracy and good performance",
1986). Near x = 1 nothing cancels: in the first entry r is 1 and t is 0, and in the last one r is
1/2 and t is ln 2 as f32 rounds it, so that k ln 2 + t is 0 again. From the entry for 3/2 on, t
compensates for that rounding.

Zero, infinity, NaN and negative numbers need no separate cases.
"""

from __future__ import annotations

import math

from bessemer.compiler.codegen.math.math_instructions import (
    exponent_of,
    scaled,
    significand_of,
    table_lookup,
)
from bessemer.compiler.codegen.math.math_terms import Term, fma, polynomial, select, with_sign_of

_FIRST_BITS = 18  # of an f32's significand, below the five
_INVERSES = (
    1.0, 0.9552043, 0.9275087, 0.9015071, 0.8768798, 0.8534205, 0.8311185, 0.8100589, 0.7902937,
    0.77118164, 0.7530798, 0.7354064, 0.719033, 0.7031499, 0.68825334, 0.6738138, 0.6599558,
    0.6464965, 0.63383186, 0.6214795, 0.6093445, 0.5983253, 0.5873233, 0.57644224, 0.56638825,
    0.55661607, 0.5469388, 0.53800523, 0.52878916, 0.5201788, 0.5118646, 0.5,
)  # fmt: skip
_LOGARITHMS = (
    0.0, 0.045830026, 0.07525309, 0.10368738, 0.13138534, 0.15850289, 0.18498287, 0.21064833,
    0.23535064, 0.25983134, 0.28358412, 0.307332, 0.32984802, 0.35218516, 0.37359828, 0.39480144,
    0.41558242, 0.43618754, 0.45597157, 0.47565234, 0.49537152, 0.5136207, 0.53217983, 0.55088013,
    0.5684755, 0.58587956, 0.6034184, 0.619887, 0.6371655, 0.6535827, 0.66969514, 0.6931472,
)  # fmt: skip
# (log(1 + f) - f) / f^2 for -1/64 <= f <= 1/32; 2^-26.9 of the logarithm.
_LOG = (-0.5000012, 0.33339038, -0.24485432)


def log_by_table(x: Term) -> Term:
    constant, _, f = _reduced(x)
    return constant + _log_near_one(f)


def log1p_by_table(x: Term) -> Term:
    """log(1 + x): what the sum of 1 and x loses by rounding is added to f."""
    above = x > 1.0
    large, small = select(above, x, 1.0), select(above, 1.0, x)
    u = 1.0 + x
    return with_sign_of(log_of_words_by_table(u, small - (u - large)), x)


def log_of_words_by_table(high: Term, low: Term, more: Term | None = None) -> Term:
    """log(high + low) + more * ln 2"""
    constant, inverse, f = _reduced(high)
    if more is not None:
        constant = fma(more, math.log(2.0), constant)
    # Where `high` is 0 or infinite, `low` is 0 or NaN, and scaling it would give NaN.
    rest = select(low.differs(0.0), scaled(low * inverse, -exponent_of(high)), 0.0)
    return constant + _log_near_one(f + rest)


def _reduced(x: Term) -> tuple[Term, Term, Term]:
    """The reduction of x: (k ln 2 + t, r, f)."""
    significand = significand_of(x)
    piece = significand.bits() >> _FIRST_BITS
    inverse = table_lookup(_INVERSES, piece)
    constant = fma(exponent_of(x), math.log(2.0), table_lookup(_LOGARITHMS, piece))
    return constant, inverse, fma(significand, inverse, -1.0)


def _log_near_one(f: Term) -> Term:
    return fma(f * f, polynomial(f, _LOG), f)
