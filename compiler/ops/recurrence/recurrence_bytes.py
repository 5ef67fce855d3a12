"""A state rounded to bytes in every step, for weights of bytes: products of integers are exact.

The scale covers the range of the whole state, and 0 (ONNX's DynamicQuantizeLinear):

    scale = (highest - lowest) / 255,  zero = round(-lowest / scale)
    bytes = round(state / scale) + zero,  state is about scale * (bytes - zero)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size, ceildiv
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    convert,
    select,
    unary,
)
from bessemer.compiler.ir.types import i32, u8
from bessemer.compiler.ops.recurrence.recurrence_dots import dot_sums

GROUP = 4
"""Bytes that are multiplied and added up at once."""
_HIGHEST = 255


class ByteState:
    """The state [B, H] as bytes; every member of a team has its own, so that none waits for it."""

    def __init__(self, builder: KernelBuilder, members: Size, batch: Size, hidden: Size) -> None:
        self._builder = builder
        self._batch = batch
        self._groups = ceildiv(hidden, GROUP)
        self._hidden = hidden
        self._bytes = builder.scratch(u8, (members, batch, self._groups * GROUP))
        self._member: Size = 0
        self._scale: Local | None = None
        self._zero: Local | None = None

    @property
    def scale(self) -> Expression:
        """What a unit of the bytes stands for, in the state's type."""
        assert self._scale is not None
        return self._scale.value

    @property
    def zero(self) -> Expression:
        """The byte that stands for 0 (i32)."""
        assert self._zero is not None
        return self._zero.value

    def element(self, row: Size, k: Size) -> Expression:
        """An element without its scale (i32)."""
        return convert(self._bytes[self._member, row, k], i32) - self.zero

    def round(self, state: Buffer, parity: Size, member: Size, lanes: int) -> None:
        """Rounds `state[parity]`."""
        builder = self._builder
        self._member = member
        low, high = (builder.define(constant(0.0, state.dtype), name) for name in ("low", "high"))
        with (
            builder.loop(self._batch) as row,
            builder.loop(self._hidden, "vector", lanes=lanes) as j,
        ):
            low.accumulate("min", state[parity, row, j])
            high.accumulate("max", state[parity, row, j])
        distance = high.value - low.value
        # A state of zeros has no range; any scale is right for it.
        scale = select(binary("eq", distance, 0.0), 1.0, distance / float(_HIGHEST))
        self._scale = builder.define(scale, "scale")
        zero = _bounded(unary("round", -low.value / self.scale))
        offset = builder.define(zero, "offset")
        self._zero = builder.define(convert(offset.value, i32), "zero")
        with (
            builder.loop(self._batch) as row,
            builder.loop(self._hidden, "vector", lanes=lanes) as j,
        ):
            unit = unary("round", state[parity, row, j] / self.scale) + offset.value
            builder.store(self._bytes, (member, row, j), convert(_bounded(unit), u8))

    def multiply(
        self, packed: Buffer, panel: Size, rows: Sequence[Size], member: Size
    ) -> Callable[[int, int, Size], Expression]:
        """Multiplies with a panel of weights; gives the sum (i32) of (number of the row, gate,
        column), zero points and all."""
        places = [(member, row) for row in rows]
        sums = dot_sums(self._builder, self._bytes, places, packed, panel, i32)
        width = packed.shape[3]
        return lambda r, gate, j: sums[r, gate * width + j]


def _bounded(unit: Expression) -> Expression:
    return binary("min", binary("max", unit, 0.0), float(_HIGHEST))
