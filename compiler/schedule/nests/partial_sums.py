"""Limits how long a sum inside a vector loop grows before it is put away and a new one begins."""

from __future__ import annotations

import math

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Reduce

SHORTEST_STRETCH = 64
"""Steps that a sum adds up at least before it begins anew."""


def stretch_of(node: Reduce, steps: Size) -> int:
    """Steps after which a sum begins anew, about the root of all; 0: it is short, or no sum.

    One sum's rounding error grows with the number of steps, that of sums of sums with the root.
    """
    if node.name != "add" or not node.dtype.is_float:
        return 0
    if not isinstance(steps, int):
        return 4 * SHORTEST_STRETCH
    if steps <= 2 * SHORTEST_STRETCH:
        return 0
    return max(SHORTEST_STRETCH, 1 << (math.isqrt(steps).bit_length() - 1))


def is_longer(size: Size, than: int) -> bool:
    """Whether a size may be larger than a number."""
    return not isinstance(size, int) or size > than
