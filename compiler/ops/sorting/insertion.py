"""The best few of many rows, a row a lane: all elements of a row are inserted one after the other
into the few that are kept, best first, which lie in registers.

An element and its place are one i64 where they fit into it. Longer ones are kept beside their
places: as elements come in order, one that equals another comes behind it.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, index_value, neutral, select
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.rows import FEWEST_BEHIND, Row
from bessemer.compiler.ops.sorting.sort_keys import is_packable, packed_key, place_in, rising_key

MOST_INSERTED, FEWEST_ROWS = 32, 8
"""How many elements are kept by insertion at most, and of how many rows at least."""
MOST_LONG = 8
"""The same of elements that are kept beside their places."""
MOST_OF_UNKNOWN_ROWS, LONGEST_OF_UNKNOWN_ROWS = 8, 256
"""The same of rows along memory where nobody knows how many there are: there may be one."""


def is_by_insertion(x: Buffer, k: int, axis: int) -> bool:
    """Whether the best few of many rows are kept in registers, a row a lane."""
    if k == 0:
        return False
    size, behind = x.shape[axis], dims.product(x.shape[axis + 1 :])
    rows = dims.product((*x.shape[:axis], behind))
    are_neighbours = not isinstance(behind, int) or behind >= FEWEST_BEHIND
    if not is_packable(x.dtype):
        return are_neighbours and k <= MOST_LONG
    if isinstance(rows, int):
        return k <= MOST_INSERTED and rows >= FEWEST_ROWS and isinstance(size, int)
    if are_neighbours:
        return k <= MOST_INSERTED
    is_short = isinstance(size, int) and size <= LONGEST_OF_UNKNOWN_ROWS
    return k <= MOST_OF_UNKNOWN_ROWS and is_short


def best_places(
    builder: KernelBuilder, x: Buffer, row: Row, axis: int, k: int, largest: bool
) -> list[Expression]:
    """The places of a row's k best elements, best first, as i64."""
    if is_packable(x.dtype):
        return _of_packed(builder, x, row, axis, k, largest)
    return _of_long(builder, x, row, axis, k, largest)


def _of_packed(
    builder: KernelBuilder, x: Buffer, row: Row, axis: int, k: int, largest: bool
) -> list[Expression]:
    best = [builder.define(neutral("max", i64), "best") for _ in range(k)]
    with builder.loop(x.shape[axis]) as i:
        key = builder.define(packed_key(x[row(i)], index_value(i), largest), "key").value
        for rank in reversed(range(k)):
            # What is below its neighbour stays, or gives way to the lesser of that one and the key.
            moved = expr.binary("min", best[rank - 1].value, key) if rank else key
            best[rank].set(expr.binary("max", best[rank].value, moved))
    return [place_in(key.value) for key in best]


def _of_long(
    builder: KernelBuilder, x: Buffer, row: Row, axis: int, k: int, largest: bool
) -> list[Expression]:
    best = [builder.define(neutral("max", i64), "best") for _ in range(k)]
    places = [builder.define(constant(0, i64), "place") for _ in range(k)]
    size = x.shape[axis]
    first = dims.minimum(size, k)
    with builder.loop(first) as i:
        _insert(builder, best, places, x[row(i)], i, largest, may_be_empty=True)
    with builder.loop(size - first) as step:
        place = first + step
        _insert(builder, best, places, x[row(place)], place, largest, may_be_empty=False)
    return [place.value for place in places]


def _insert(
    builder: KernelBuilder,
    best: list[Local],
    places: list[Local],
    element: Expression,
    place: Size,
    largest: bool,
    *,
    may_be_empty: bool,
) -> None:
    """Puts an element where it belongs; ranks from `place` on are empty, if any may be."""
    rising, at = rising_key(element), index_value(place)
    key = builder.define(rising if largest else ~rising, "key").value

    def beats(rank: int) -> Expression:
        is_better = expr.binary("gt", key, best[rank].value)
        return is_better | expr.binary("le", at, rank) if may_be_empty else is_better

    ranks = [builder.define(beats(rank), "beats").value for rank in range(len(best))]
    for rank in reversed(range(len(best))):
        for kept, new in ((best, key), (places, at)):
            moved = select(ranks[rank - 1], kept[rank - 1].value, new) if rank else new
            kept[rank].set(select(ranks[rank], moved, kept[rank].value))
