"""Sorting by digits: as many passes as the keys' range has bytes, without a comparison.

Every pass counts how often each digit occurs, and so knows where the items of each digit begin; it
keeps the order of items whose digit is the same, so the least significant digit is first (H. H.
Seward, 1954). Keys are compared with the smallest one, so that small ranges take few passes.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert
from bessemer.compiler.ir.types import i64, u64

_BITS = 8
_DIGITS = 1 << _BITS


def sort_by_digits(
    builder: KernelBuilder, items: Buffer, count: Size, key: Callable[[Expression], Expression]
) -> Local:
    """Sorts the items in row 0 of `items` [2, count] (i64) by their keys (i64), equal ones in their
    order. Gives the row they are in at last; the other one is overwritten."""
    low = builder.define(constant((1 << 63) - 1, i64), "low")
    high = builder.define(constant(-(1 << 63), i64), "high")
    with builder.loop(count) as i:
        own = builder.define(key(items[0, i]), "own")
        low.accumulate("min", own.value)
        high.accumulate("max", own.value)
    row = builder.define(constant(0, i64), "row")
    shift = builder.define(constant(0, u64), "shift")
    span = builder.define(convert(high.value - low.value, u64), "span")
    with builder.when(low.value > high.value):
        span.set(constant(0, u64))
    places = builder.allocate(i64, (_DIGITS,))

    def digit(item: Expression) -> Size:
        above = expr.binary("shr", convert(key(item) - low.value, u64), shift.value)
        return builder.define(convert(above & constant(_DIGITS - 1, u64), i64), "digit").index

    with builder.repeat_while(expr.binary("ne", span.value, 0)):
        with builder.loop(_DIGITS, "vector", 0) as bucket:
            builder.store(places, (bucket,), 0)
        with builder.loop(count) as i:
            number = digit(items[row.index, i])
            builder.store(places, (number,), places[number] + 1)
        begin = builder.define(constant(0, i64), "begin")
        with builder.loop(_DIGITS) as bucket:
            length = builder.define(places[bucket], "length")
            builder.store(places, (bucket,), begin.value)
            begin.set(begin.value + length.value)
        with builder.loop(count) as i:
            item = builder.define(items[row.index, i], "item")
            number = digit(item.value)
            place = builder.define(places[number], "place")
            builder.store(items, (1 - row.index, place.index), item.value)
            builder.store(places, (number,), place.value + 1)
        row.set(1 - row.value)
        shift.set(shift.value + _BITS)
        span.set(expr.binary("shr", span.value, constant(_BITS, u64)))
    return row
