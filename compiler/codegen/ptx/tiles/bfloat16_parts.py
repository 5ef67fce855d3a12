"""Splits float32 numbers into three bf16 numbers, for matrix products (Henry, Tang and Heinecke,
arXiv 1904.06376).

    x = p0 + p1 + p2,   |p1| <= 2^-8 |x|,   |p2| <= 2^-16 |x|

A product is nine products of parts, of which the six largest are enough. They are added up smallest
first, for sixteen steps of the depth separately, and only then to the sum: matrix units truncate
when they add, so that long sums of theirs are less exact than float32's.

The parts of infinities, NaN, and numbers that round to infinity in bf16 are of no use. So sums that
are not finite are computed again (exact_sums.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.ptx.words import vector_of
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import boolean, f32, i32

PRODUCTS = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))
"""Which part of the left number is multiplied by which of the right one, smallest products
first."""
PARTS = 3


def split_pair(w: Writer, low: Value, high: Value) -> list[Value]:
    """The parts of two numbers; each element has that part of both in one register."""
    rest = [low, high]
    found: list[Value] = []
    for part in range(PARTS):
        if part:
            rest = _without(w, rest, found[-1])
        both = vector_of(w, rest)
        cut = w.compute(f"fptrunc {both.typed} to <2 x bfloat>", boolean, 1, both.level)
        found.append(w.compute(f"bitcast <2 x bfloat> {cut.text} to i32", i32, 1, both.level))
    return found


def _without(w: Writer, pair: Sequence[Value], part: Value) -> list[Value]:
    """Two numbers minus a part of each. Nothing is rounded."""
    low = w.compute(f"shl {part.typed}, 16", i32, 1, part.level)
    high = w.compute(f"and {part.typed}, -65536", i32, 1, part.level)
    return [
        w.operate(
            "fsub", f32, number, w.compute(f"bitcast {bits.typed} to float", f32, 1, bits.level)
        )
        for number, bits in zip(pair, (low, high), strict=True)
    ]
