"""A state as sums of two bfloat16 numbers, for weights of bfloat16.

    high = bfloat16(state),  low = bfloat16(state - high)

Their sum has the first 16 bits of the state; where high is infinite, low is 0. An instruction
multiplies two neighbours with their weights as they are in memory: two for 32 products, where to
widen the weights and multiply in float32 takes six or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    convert,
    select,
    unary,
)
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.ops.recurrence.recurrence_dots import dot_sums

PAIR = 2
"""Numbers that are multiplied and added up at once."""
PARTS = 2


class PairState:
    """What a product reads, [B, K], in parts; every member of a team has its own."""

    def __init__(self, builder: KernelBuilder, members: Size, batch: Size, depth: Size) -> None:
        self._builder = builder
        self._depth = depth
        self._parts = builder.scratch(bf16, (members, batch, PARTS, depth))

    def split(
        self,
        element: Callable[[Size, Size], Expression],
        rows: Sequence[Size],
        member: Size,
        lanes: int,
    ) -> None:
        """Splits these rows: element(row, k) for every k."""
        builder = self._builder
        with builder.loop(self._depth, "vector", lanes=lanes) as k:
            for row in rows:
                whole = builder.define(element(row, k), "whole").value
                high = builder.define(convert(whole, bf16), "high").value
                builder.store(self._parts, (member, row, 0, k), high)
                known = builder.define(convert(high, f32), "known").value
                is_finite = binary("lt", unary("abs", known), math.inf)
                low = select(is_finite, whole - known, constant(0, f32))
                builder.store(self._parts, (member, row, 1, k), convert(low, bf16))

    def multiply(
        self, packed: Buffer, panel: Size, rows: Sequence[Size], member: Size
    ) -> Callable[[int, int, Size], Expression]:
        """Multiplies with a panel of weights; gives the sum of (number of a row, gate, column)."""
        parts = [(member, row, part) for row in rows for part in range(PARTS)]
        sums = dot_sums(self._builder, self._parts, parts, packed, panel, f32)
        width = packed.shape[3]

        def whole(r: int, gate: int, j: Size) -> Expression:
            high, low = (sums[PARTS * r + part, gate * width + j] for part in range(PARTS))
            return high + low

        return whole
