"""Steps that add their gradients up: the parameters move at every so many batches, by the means.

The sums are arrays of the state. A step that only adds computes the optimizer's results, too, and
keeps what was before in their place: it stays one graph, one loop over a parameter, and one
function in a C library.
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f64
from bessemer.compiler.ops.composite.composite import binary, cast, where


class Accumulation:
    """The sums over `count` batches. `step` counts the batches before this one, a number."""

    def __init__(self, builder: GraphBuilder, step: Value, count: int) -> None:
        self._builder, self._count = builder, count
        self._before = cast(builder, step, f64)
        self.state: dict[str, Value] = {}
        self.after: dict[str, Value] = {}
        self._moves: Value | None = None
        if count > 1:
            done = binary(builder, "add", self._before, 1.0)
            whole = binary(builder, "mul", self._rounds(done), float(count))
            self._moves = builder.apply("eq", done, whole)

    def _rounds(self, batches: Value) -> Value:
        """How many times the parameters have moved after so many batches."""
        if self._count == 1:
            return batches
        b = self._builder
        return b.apply("floor", binary(b, "div", batches, float(self._count)))

    @property
    def move(self) -> Value:
        """The number of the parameters' next move, from 1 on, an f64 scalar."""
        return binary(self._builder, "add", self._rounds(self._before), 1.0)

    def mean(self, gradients: Mapping[str, Value]) -> list[Value]:
        """What the parameters of these names would move by: with this batch, the last of all."""
        if self._moves is None:
            return list(gradients.values())
        b, found = self._builder, []
        for name, gradient in gradients.items():
            slot = f"{name}.gradients"
            self.state[slot] = b.input(slot, gradient.type)
            with b.source(name):
                total = b.apply("add", self.state[slot], gradient)
                self.after[slot] = where(b, self._moves, 0.0, total)
                found.append(binary(b, "mul", total, 1 / self._count))
        return found

    def moved(self, before: Value, after: Value) -> Value:
        """What becomes of an array that only moves after the last batch."""
        if self._moves is None:
            return after
        return where(self._builder, self._moves, after, before)
