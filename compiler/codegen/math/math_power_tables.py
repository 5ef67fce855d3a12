"""x|^y in f32 by lookups: log2(x) in f64 from tables with 32 entries, then 2^(y log2(x)) in f32.

x = 2^k m, 1 <= m < 2, log2(x) = (k + t) + log2(1 + f), f = m r - 1, as in `math_logarithm_tables`.
Here t = -log2(r) is an f32 to 2^-38 (r was searched for that), and f has no error. Only the
logarithm, its product with y, and the remainder of that product need f64.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_exponential import power_by_sixteenths
from bessemer.compiler.codegen.math.math_instructions import (
    exponent_of,
    significand_of,
    table_lookup,
)
from bessemer.compiler.codegen.math.math_terms import Term, fma, polynomial, select

_FIRST_BITS = 18  # of an f32's significand, below the five
_INVERSES = (
    1.0, 0.9553924, 0.92919904, 0.90165406, 0.87631273, 0.85430884, 0.8315027, 0.8102736, 0.7915587,
    0.7713992, 0.75205153, 0.7356279, 0.7180849, 0.70376, 0.68824065, 0.6735667, 0.65931857,
    0.6466383, 0.6336258, 0.6218947, 0.6100272, 0.5973511, 0.58711714, 0.57714117, 0.56690377,
    0.55685455, 0.54766107, 0.5377273, 0.52892953, 0.52092785, 0.5111477, 0.5,
)  # fmt: skip
_LOGARITHMS = (
    0.0, 0.065834664, 0.10594043, 0.14935407, 0.19048227, 0.22717038, 0.2662072, 0.30351898,
    0.33723179, 0.37445045, 0.41109657, 0.44295192, 0.47777373, 0.5068445, 0.539015, 0.5701073,
    0.6009524, 0.6289692, 0.658297, 0.68525773, 0.71305454, 0.743349, 0.76827973, 0.79300386,
    0.81882423, 0.84462756, 0.8686448, 0.8950534, 0.91885257, 0.94084454, 0.9681879, 1.0,
)  # fmt: skip
# log2(1 + f) / f for -1/64 <= f <= 1/32; 2^-33.7 of the logarithm.
_LOG2 = (1.4426950407871304, -0.7213475231858923, 0.480900980470158, -0.36069447734980176,
         0.27948964279640753)  # fmt: skip


def power_of_size(size: Term, y: Term) -> Term:
    """size^y for size >= 0. NaN if one of them is NaN, except that it is 1 where size is 1 or y is
    0."""
    significand = significand_of(size)
    piece = significand.bits() >> _FIRST_BITS
    inverse, logarithm = table_lookup(_INVERSES, piece), table_lookup(_LOGARITHMS, piece)
    f = fma(significand.widened("f64"), inverse.widened("f64"), -1.0)
    whole = exponent_of(size).widened("f64") + logarithm.widened("f64")
    product = y.widened("f64") * fma(f, polynomial(f, _LOG2), whole)
    magnitude = power_by_sixteenths(product)
    # Whatever the other one is, NaN too.
    return select(size.equals(1.0) | y.equals(0.0), 1.0, magnitude)
