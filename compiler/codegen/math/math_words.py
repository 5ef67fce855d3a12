"""Error-free transformations: sums and products as double words, pairs (high, low) of floats whose
sum is exact.

Dekker, "A floating-point technique for extending the available precision", 1971; Knuth, The Art of
Computer Programming 2, 4.2.2. They hold for rounding to nearest, without overflow.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import Term, fma

# The mask keeps half of the significand, so that a product of two halves is exact.
_HALF_MASK = {"f32": ~0xFFF, "f64": ~0x7FFFFFF}


def ordered_sum(large: Term | float, small: Term) -> tuple[Term, Term]:
    """large + small exactly, if |large| >= |small| or large is 0 (Fast2Sum)."""
    total = large + small
    return total, small - (total - large)


def exact_sum(left: Term | float, right: Term) -> tuple[Term, Term]:
    """left + right exactly, whichever is larger (2Sum)."""
    total = left + right
    rest = total - left
    return total, (left - (total - rest)) + (right - rest)


def exact_product(left: Term, right: Term | float) -> tuple[Term, Term]:
    """left * right exactly: by one FMA, or by Dekker's splitting where there is none."""
    factor = left.constant(right) if isinstance(right, int | float) else right
    product = left * factor
    if left.writer.has_fma:
        return product, fma(left, factor, -product)
    left_high, left_low = _halves(left)
    right_high, right_low = _halves(factor)
    crossed = (left_high * right_high - product) + left_high * right_low + left_low * right_high
    return product, crossed + left_low * right_low


def _halves(x: Term) -> tuple[Term, Term]:
    high = (x.bits() & _HALF_MASK[x.kind]).as_float()
    return high, x - high


def remainder_of_product(target: Term, left: Term, right: Term) -> Term:
    """target - left * right, rounded once, if the product is close to the target."""
    product, error = exact_product(left, right)
    return (target - product) - error
