"""Caches whose numbers are integers of eight bits, or of four, two to a byte.

Each stands for itself times a scale, the tensor's or its channel's. Scores are sums over the
channels, and mixtures have them, so that queries and mixtures are multiplied by the scales, not
the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32, i8, u8
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext

_BYTE = 8
_MIDDLE = 8
"""What is added to numbers of four bits to store them."""


@dataclass(frozen=True, eq=False)
class NarrowCache:
    """Bits of a number, and the scales f32 [groups, 1, channels] or [1, 1, 1]."""

    bits: int
    scale: Value

    def stored(self, context: NodeContext, new: Value) -> Value:
        """New keys or values [batch, groups, length, channels] as the cache holds them."""
        b = context.builder
        steps = context.elementwise("div", context.cast(new, f32), self.scale)
        steps = b.apply("round", steps)
        least = -(1 << (self.bits - 1))
        kept = binary(b, "max", binary(b, "min", steps, float(-least - 1)), float(least))
        return context.cast(kept, i8) if self.bits == _BYTE else _paired(context, kept)

    def numbers(self, context: NodeContext, cache: Value) -> Value:
        """The cache's integers as floats."""
        if self.bits == _BYTE:
            return context.cast(cache, f32)
        b, (batch, groups, places, half) = context.builder, cache.type.shape
        parts = (binary(b, "and", cache, 15), binary(b, "shr", cache, 4))
        apart = [context.reshape(part, (batch, groups, places, half, 1)) for part in parts]
        pairs = context.cast(context.apply("concat", *apart, axis=4), f32)
        units = context.reshape(pairs, (batch, groups, places, half * 2))
        return binary(b, "sub", units, float(_MIDDLE))

    def scaled(self, context: NodeContext, x: Value, groups: Size) -> Value:
        """[batch, heads, length, channels], as f32, by the scales of the groups that share it."""
        batch, heads, length, size = x.type.shape
        each = dims.floordiv(heads, groups)
        apart = context.reshape(x, (batch, groups, each, length, size))
        first, _, last = self.scale.type.shape
        scale = context.reshape(self.scale, (first, 1, 1, last))
        scaled = context.elementwise("mul", context.cast(apart, f32), scale)
        return context.reshape(scaled, x.type.shape)


def _paired(context: NodeContext, steps: Value) -> Value:
    """Integers of four bits, as floats, two to a byte; the first is the lower one."""
    b, (batch, groups, length, size) = context.builder, steps.type.shape
    half = dims.divide_exactly(size, 2)
    if half is None:
        context.unsupported(f"a cache of 4 bits for heads of {size}")
    units = context.cast(binary(b, "add", steps, float(_MIDDLE)), u8)
    pairs = context.reshape(units, (batch, groups, length, half, 2))
    low, high = (
        context.reshape(slice_axis(b, pairs, 4, place, 1), (batch, groups, length, half))
        for place in range(2)
    )
    return context.elementwise("or", low, binary(b, "shl", high, 4))


def narrow_cache(context: NodeContext, position: int, kind: str, new: Value) -> NarrowCache | None:
    """The cache of new keys or values [batch, groups, length, channels], if an input has scales for
    it; `kind` is the attribute that says what one of them is for."""
    mode = context.text(kind, "NONE")
    if mode == "NONE":
        return None
    bits, scale = (
        context.integer("kv_cache_bit_width", 0),
        context.cast(context.input(position), f32),
    )
    _, groups, _, size = new.type.shape
    shape = {"PER_TENSOR": (1, 1, 1), "PER_CHANNEL": (groups, 1, size)}.get(mode)
    past = context.optional(3)
    if shape is None or bits not in (4, _BYTE) or (past and past.type.dtype not in (i8, u8)):
        context.unsupported(f"a cache of {bits} bits, {kind} = {mode}")
    return NarrowCache(bits, context.reshape(scale, shape))
