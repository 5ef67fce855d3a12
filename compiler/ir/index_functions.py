"""Functions of expressions on index values that need no code: the result is a size again, or is
decided by the ranges of the indices.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size


def combine_indices(name: str, a: Size, b: Size) -> Size | None:
    """A function of functions.BINARY as a size; None for one that sizes do not have."""
    match name:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "div" if isinstance(b, int) and b > 0:
            return dims.floordiv(a, b)
        case "mod" if isinstance(b, int) and b > 0:
            return dims.mod(a, b)
        case "min":
            return dims.minimum(a, b)
        case "max":
            return dims.maximum(a, b)
        case _:
            return None


def compare_indices(name: str, a: Size, b: Size) -> bool | None:
    """A comparison that comes out alike for all values of the symbols; None for another."""
    if name in ("eq", "ne"):
        return (a == b) == (name == "eq") if isinstance(a - b, int) else None
    if name in ("gt", "le"):
        a, b = b, a
    # a < b for lt and gt, a >= b negated for the others: `lt` holds or fails for all values.
    strict = name in ("lt", "gt")
    if dims.is_nonnegative(b - a - 1):
        return strict
    if dims.is_nonnegative(a - b):
        return not strict
    return None
