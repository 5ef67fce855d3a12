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
MOST_OF_A_ROW = 8
"""The same of one row at a time, in scalar registers."""
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
    kept = Kept(builder, x, row, k, largest)
    kept.begin(x.shape[axis])
    return kept.places()


class Kept:
    """The best few of the elements of a row that were inserted, in order of their places."""

    def __init__(self, builder: KernelBuilder, x: Buffer, row: Row, k: int, largest: bool) -> None:
        self._builder, self._x, self._row, self._largest = builder, x, row, largest
        self._best = [builder.define(neutral("max", i64), "best") for _ in range(k)]
        self._beside: list[Local] = []
        if not is_packable(x.dtype):
            self._beside = [builder.define(constant(0, i64), "place") for _ in range(k)]

    def begin(self, count: Size) -> None:
        """Inserts the first `count` elements."""
        first: Size = 0
        if self._beside:
            first = dims.minimum(count, len(self._best))
            with self._builder.loop(first) as i:
                self._insert_long(i, may_be_empty=True)
        with self._builder.loop(count - first) as step:
            self.insert(first + step)

    def insert(self, place: Size) -> None:
        """Puts an element where it belongs. Longer ones than those that are packed are inserted by
        `begin` until no rank is empty."""
        if self._beside:
            self._insert_long(place, may_be_empty=False)
            return
        element, best = self._x[self._row(place)], self._best
        packed = packed_key(element, index_value(place), self._largest)
        key = self._builder.define(packed, "key").value
        for rank in reversed(range(len(best))):
            # What is below its neighbour stays, or gives way to the lesser of that one and the key.
            moved = expr.binary("min", best[rank - 1].value, key) if rank else key
            best[rank].set(expr.binary("max", best[rank].value, moved))

    def places(self) -> list[Expression]:
        """The places of those that are kept, best first."""
        if self._beside:
            return [place.value for place in self._beside]
        return [place_in(key.value) for key in self._best]

    def _insert_long(self, place: Size, *, may_be_empty: bool) -> None:
        """Ranks from `place` on are empty, if any may be."""
        best, places = self._best, self._beside
        rising, at = rising_key(self._x[self._row(place)]), index_value(place)
        key = self._builder.define(rising if self._largest else ~rising, "key").value

        def beats(rank: int) -> Expression:
            is_better = expr.binary("gt", key, best[rank].value)
            return is_better | expr.binary("le", at, rank) if may_be_empty else is_better

        ranks = [self._builder.define(beats(rank), "beats").value for rank in range(len(best))]
        for rank in reversed(range(len(best))):
            for kept, new in ((best, key), (places, at)):
                moved = select(ranks[rank - 1], kept[rank - 1].value, new) if rank else new
                kept[rank].set(select(ranks[rank], moved, kept[rank].value))
