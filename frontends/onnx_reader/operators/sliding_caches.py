"""Caches that keep the last keys only, as many as a window reaches back or a few more.

A cache has as many `places` before a step as behind it; the first ones are in use, by the latest
keys in their order. How many, only the row's length decides: where the places are full, as many are
given up at once as there are more of them than the window has, and one.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import require_nonnegative


@dataclass(frozen=True, eq=False)
class SlidingCache:
    """Places, and for the rows of a batch, i64 [batch, 1] each: keys there were, and are then."""

    window: int
    places: Size
    length: Size
    before: Value
    after: Value

    @property
    def joint(self) -> Size:
        """All that a step may see: the places, and the new keys behind them."""
        return self.places + self.length

    def joined(self, context: NodeContext, past: Value, new: Value) -> Value:
        # Places not in use may hold NaN, which a share of 0 would not take out of a mixture.
        steps = self._steps(context, self.places)
        there = context.elementwise("lt", steps, self._old(context))
        there = context.reshape(there, (*there.type.shape[:1], 1, self.places, 1))
        known = where(context.builder, there, past, 0)
        return context.apply("concat", known, new, axis=2)

    def kept(self, context: NodeContext, joined: Value) -> Value:
        """The places behind the step; what those not in use hold means nothing."""
        first = context.elementwise("sub", self.after, self._in_use(context, self.after))
        position = context.elementwise("add", first, self._steps(context, self.places))
        # The new keys lie behind all places, those before in the first of them.
        offset = context.elementwise("sub", position, self.before)
        is_new = binary(context.builder, "ge", offset, 0)
        behind = context.elementwise("select", is_new, self._places(context), self._old(context))
        place = context.elementwise("add", offset, behind)
        last = context.builder.scalar_size(self.joint - 1)
        place = context.elementwise("min", place, context.cast(last, i64))
        batch, _, _, _ = joined.type.shape
        indices = context.reshape(place, (batch, self.places, 1))
        by_place = context.transpose(joined, (0, 2, 1, 3))
        chosen = context.apply("gather_nd", by_place, indices, batch_dims=1)
        return context.transpose(chosen, (0, 2, 1, 3))

    def seen(self, context: NodeContext) -> Value:
        """Which of the joined keys a query sees, [batch, 1, 1, length, places + length]."""
        b, (batch, _) = context.builder, self.before.type.shape
        steps = self._steps(context, self.joint)
        places, old = self._places(context), self._old(context)
        is_new = context.elementwise("ge", steps, places)
        moved = context.elementwise("sub", steps, where(b, is_new, places, old))
        position = context.elementwise("add", self.before, moved)
        there = context.elementwise("or", is_new, context.elementwise("lt", steps, old))
        own = context.elementwise("add", self.before, self._steps(context, self.length))
        own = context.reshape(own, (batch, self.length, 1))
        position, there = (
            context.reshape(one, (batch, 1, self.joint)) for one in (position, there)
        )
        seen = context.elementwise("le", position, own)
        in_window = context.elementwise("gt", position, binary(b, "sub", own, self.window))
        seen = context.elementwise("and", context.elementwise("and", seen, in_window), there)
        return context.reshape(seen, (batch, 1, 1, *seen.type.shape[1:]))

    def _in_use(self, context: NodeContext, count: Value) -> Value:
        """Places in use, of rows that have had so many keys."""
        b = context.builder
        each = context.cast(b.scalar_size(self.places - self.window + 1), i64)
        more = context.elementwise("sub", count, self._places(context))
        rounded = context.elementwise("add", more, binary(b, "sub", each, 1))
        times = context.elementwise("trunc_div", rounded, each)
        left = context.elementwise("sub", count, context.elementwise("mul", times, each))
        return where(b, binary(b, "gt", more, 0), left, count)

    def _old(self, context: NodeContext) -> Value:
        return self._in_use(context, self.before)

    def _places(self, context: NodeContext) -> Value:
        return context.cast(context.builder.scalar_size(self.places), i64)

    def _steps(self, context: NodeContext, count: Size) -> Value:
        return context.apply("iota", shape=(1, count), axis=1, dtype=i64)


def sliding_cache(context: NodeContext, before: Value, last: Value, length: Size) -> SlidingCache:
    """The cache of a node whose rows have a last key each, i64 [batch], the new ones among them."""
    window = context.integer("local_window_size", -1)
    if window <= 0 or not context.integer("causal", 1):
        context.wrong("sliding_window_cache = 1 is for a causal attention with a local_window_size")
    if context.optional(10) is not None:
        context.unsupported("an attention_bias with sliding_window_cache = 1")
    places = context.input(3).type.shape[2]
    if isinstance(places, int) and places < window:
        context.wrong(f"a cache of {places} places for a window of {window}")
    require_nonnegative(context.builder, (places - window,), f"{places} >= {window}")
    after = binary(context.builder, "add", context.reshape(last, before.type.shape), 1)
    return SlidingCache(window, places, length, before, after)
