"""A state rounded to bfloat16, for weights of bfloat16.

An instruction multiplies two neighbours with their weights as they are in memory: one for 32
products, where to widen the weights and multiply in float32 takes six or more. What a step computes
from its sums, and what it keeps for the next step, is float32. The second half of a state's bits,
as a number and a product of its own, would take the same time again, and lower the error of a
network by a hundredth: that of rounded weights remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.ops.recurrence.recurrence_dots import dot_sums

PAIR = 2
"""Numbers that are multiplied and added up at once."""


class PairState:
    """What a product reads, [B, K], rounded; every member of a team has its own."""

    def __init__(self, builder: KernelBuilder, members: Size, batch: Size, depth: Size) -> None:
        self._builder = builder
        self._depth = depth
        self._rounded = builder.scratch(bf16, (members, batch, depth))

    def round(
        self,
        element: Callable[[Size, Size], Expression],
        rows: Sequence[Size],
        member: Size,
        lanes: int,
    ) -> None:
        """Rounds these rows: element(row, k) for every k."""
        builder = self._builder
        with builder.loop(self._depth, "vector", lanes=lanes) as k:
            for row in rows:
                whole = builder.define(element(row, k), "whole").value
                builder.store(self._rounded, (member, row, k), convert(whole, bf16))

    def multiply(
        self, packed: Buffer, panel: Size, rows: Sequence[Size], member: Size
    ) -> Callable[[int, int, Size], Expression]:
        """Multiplies with a panel of weights; gives the sum of (number of a row, gate, column)."""
        places = [(member, row) for row in rows]
        sums = dot_sums(self._builder, self._rounded, places, packed, panel, f32)
        width = packed.shape[3]
        return lambda r, gate, j: sums[r, gate * width + j]
