"""A binary heap of i64 items inside a kernel: how operators sort without more memory.

The items are in `slots`; children of slot i are 2i+1 and 2i+2. Heapsort, because it needs nothing
but the slots, is n log n at worst, and ends early when only the first few are wanted
(J. W. J. Williams, "Algorithm 232: Heapsort", 1964; building bottom-up is R. W. Floyd's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, index_value
from bessemer.compiler.ops.rows import Row


@dataclass(frozen=True)
class Heap:
    """`above(a, b)` writes whatever statements it takes to tell whether item a belongs nearer to
    the root than b; it is a strict order without ties."""

    builder: KernelBuilder
    slots: Buffer
    slot: Row
    above: Callable[[Expression, Expression], Expression]

    def item(self, position: Size) -> Expression:
        """The item in a slot."""
        return self.slots[self.slot(position)]

    def put(self, position: Size, item: Expression) -> None:
        """Writes an item into a slot."""
        self.builder.store(self.slots, self.slot(position), item)

    def build(self, count: Size) -> None:
        """Makes a heap of the items in the first `count` slots."""
        with self.builder.loop(count // 2) as i:
            start = count // 2 - 1 - i
            self.sift_down(start, count, self.item(start))

    def drain(self, count: Size) -> None:
        """Turns a heap into a list: the root comes last."""
        # One round too many, so that an empty heap has a loop of no rounds.
        with self.builder.loop(count) as i:
            self.pop_behind(count - 1 - i)

    def pop_behind(self, last: Size) -> None:
        """Moves the root of a heap of last + 1 items into slot `last`; the others are a heap."""
        displaced = self.builder.define(self.item(last), "item")
        self.put(last, self.item(0))
        self.sift_down(0, last, displaced.value)

    def sift_down(self, start: Size, count: Size, item: Expression) -> None:
        """Puts an item into slot `start`, or below, where the heap of `count` items wants it.

        The hole first goes down to a leaf, then up as far as the item wants: most belong near the
        leaves, and which child is above another is nothing to branch on (I. Wegener, 1993).
        """
        builder = self.builder
        moving = builder.define(item, "item")
        hole = builder.define(index_value(start), "hole")
        right = builder.define(index_value(2 * start + 2), "right")
        with builder.repeat_while(right.value < index_value(count)):
            left = right.index - 1
            wins = self.above(self.item(right.index), self.item(left))
            child = builder.define(expr.select(wins, right.value, right.value - 1), "child")
            self.put(hole.index, self.item(child.index))
            hole.set(child.value)
            right.set(index_value(2 * child.index + 2))
        with builder.when(expr.binary("eq", right.value, index_value(count))):
            self.put(hole.index, self.item(right.index - 1))
            hole.set(right.value - 1)
        rises = builder.define(hole.value > index_value(start), "rises")
        with builder.repeat_while(rises.value):
            parent = builder.define(expr.binary("div", hole.value - 1, 2), "parent")
            rises.set(self.above(moving.value, self.item(parent.index)))
            with builder.when(rises.value):
                self.put(hole.index, self.item(parent.index))
                hole.set(parent.value)
                rises.set(hole.value > index_value(start))
        with builder.when(expr.less(hole.index, count)):
            self.put(hole.index, moving.value)
