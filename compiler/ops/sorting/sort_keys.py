"""Keys for sorting: integers whose order is that of elements, places among equal ones included.

NaN counts as larger than every number, zeros of both signs as equal. An element of up to 32 bits
and its place fit into one i64, so that whoever sorts moves and compares nothing but integers.
"""

from __future__ import annotations

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.expr import Expression, constant, convert, select
from bessemer.compiler.ir.types import DType, f32, f64, i32, i64

_PLACE = (1 << 32) - 1
_LARGEST, _LARGEST_LONG = (1 << 31) - 1, (1 << 63) - 1


def is_packable(dtype: DType) -> bool:
    """Whether elements of a type have packed keys."""
    return dtype.bits <= 32


def rising_key(element: Expression) -> Expression:
    """An i64 whose order is that of elements, equal for equal ones; of 32 bits it has as many."""
    if element.dtype.is_float:
        wide = element.dtype.bits > 32
        number, bits, largest = (f64, i64, _LARGEST_LONG) if wide else (f32, i32, _LARGEST)
        # Adding zero makes -0 one of them. Below zero, bits fall where numbers rise.
        value = convert(element, number) + 0.0
        given = expr.bits(value, bits)
        rising = select(given < 0, given ^ constant(largest, bits), given)
        return convert(select(expr.unary("isnan", value), largest, rising), i64)
    key = convert(element, i64)
    if element.dtype.kind == "u" and element.dtype.bits == 32:
        return key - (1 << 31)
    if element.dtype.kind == "u" and element.dtype.bits == 64:
        return key ^ constant(-1 - _LARGEST_LONG, i64)
    return key


def packed_key(element: Expression, place: Expression, largest: bool = True) -> Expression:
    """The greater the better an element is; of equal elements the first one's is the greatest.
    Places are i64 below 2^32. No key is the smallest i64."""
    key = rising_key(element)
    upper = expr.binary("shl", key if largest else ~key, constant(32, i64))
    return upper + (constant(_PLACE, i64) - place)


def place_in(key: Expression) -> Expression:
    """The place in a packed key."""
    return constant(_PLACE, i64) - (key & constant(_PLACE, i64))
