"""Keys for sorting: integers whose order is that of elements, places among equal ones included.

NaN counts as larger than every number, zeros of both signs as equal. An element of up to 32 bits
and its place fit into one i64, so that whoever sorts moves and compares nothing but integers.
"""

from __future__ import annotations

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.expr import Expression, constant, convert, select
from bessemer.compiler.ir.types import DType, f32, i32, i64

_PLACE = (1 << 32) - 1
_LARGEST = (1 << 31) - 1


def is_packable(dtype: DType) -> bool:
    """Whether elements of a type have packed keys."""
    return dtype.bits <= 32


def packed_key(element: Expression, place: Expression, largest: bool = True) -> Expression:
    """The greater the better an element is; of equal elements the first one's is the greatest.
    Places are i64 below 2^32. No key is the smallest i64."""
    key = convert(element, i64)
    if element.dtype.is_float:
        # Adding zero makes -0 one of them. Below zero, bits fall where numbers rise.
        number = convert(element, f32) + 0.0
        bits = expr.bits(number, i32)
        rising = select(bits < 0, bits ^ constant(_LARGEST, i32), bits)
        key = convert(select(expr.unary("isnan", number), _LARGEST, rising), i64)
    elif element.dtype.kind == "u" and element.dtype.bits == 32:
        key = key - (1 << 31)
    upper = expr.binary("shl", key if largest else ~key, constant(32, i64))
    return upper + (constant(_PLACE, i64) - place)


def place_in(key: Expression) -> Expression:
    """The place in a packed key."""
    return constant(_PLACE, i64) - (key & constant(_PLACE, i64))
