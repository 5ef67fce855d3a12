"""Blocked summation: after a limited number of terms, a sum inside of a vector loop is added to a
total and begins anew."""

from __future__ import annotations

import math

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Reduce

SHORTEST_BLOCK = 64
"""The least number of steps after which a sum begins anew."""


def summation_block(node: Reduce, steps: Size) -> int:
    """The number of steps after which a sum begins anew, about the square root of all. 0 if it is
    short, or the reduction is not a sum of floats.

    The rounding error of a sum grows with its number of steps, that of a sum of such sums with the
    square root of that.
    """
    if node.name != "add" or not node.dtype.is_float:
        return 0
    if not isinstance(steps, int):
        return 4 * SHORTEST_BLOCK
    if steps <= 2 * SHORTEST_BLOCK:
        return 0
    return max(SHORTEST_BLOCK, 1 << (math.isqrt(steps).bit_length() - 1))


def is_longer(size: Size, than: int) -> bool:
    """Whether a size may be larger than a number."""
    return not isinstance(size, int) or size > than
