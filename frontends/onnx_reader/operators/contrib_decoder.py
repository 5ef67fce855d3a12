"""What decoders written for ONNX Runtime consist of: rotations, grouped attention with a cache.

A cache has `past` places of a batch's keys. In a row of the batch the first `before` of them count,
and the new keys follow: `before` is the row's length without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.compiler.ops.composite.composite_reduce import reduce, softmax
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size, with_trailing_sizes
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.contrib_attention import score_scale
from bessemer.frontends.onnx_reader.operators.heads import (
    in_heads,
    in_heads_of,
    side_by_side,
)
from bessemer.frontends.onnx_reader.operators.index import indices_at
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.operators.move import split_along
from bessemer.frontends.onnx_reader.operators.narrow_caches import NarrowCache, narrow_cache
from bessemer.frontends.onnx_reader.operators.sliding_caches import SlidingCache, sliding_cache
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


@rule("SimplifiedLayerNormalization")
def read_simplified_layer_norm(context: NodeContext) -> list[Item]:
    scale = context.input(1)
    x = with_trailing_sizes(context.builder, context.input(0), scale.type.shape)
    first = context.axis(x.type.rank, context.integer("axis", -1))
    axes = tuple(range(first, x.type.rank))
    epsilon = context.number("epsilon", 1e-5)
    return [normalize.rms_norm(context.builder, x, scale, axes, epsilon), None]


# Rotations


@rule("MRotaryEmbedding", domain=_DOMAIN)
def read_sectioned_rotary_embedding(context: NodeContext) -> Value:
    """A rotation whose angles come from three positions of a token, a section of them from each."""
    if context.integer("is_packed_batching", 0):
        context.unsupported("is_packed_batching = 1")
    x, tables = context.input(0), (context.input(2), context.input(3))
    shape, half = x.type.shape, tables[0].type.shape[1]
    if x.type.rank == 3:
        heads = context.integer("num_heads", 0)
        x = in_heads(context, x, heads) if heads else in_heads_of(context, x, half * 2)
    chosen = _section_of_each(context, half)
    scale = context.number("scale", 1.0)
    angles = [
        binary(context.builder, "mul", _from_sections(context, angle, chosen), scale)
        for angle in angles_at(context, indices_at(context, 1), tables)
    ]
    result = rotated(context, x, angles, bool(context.integer("interleaved", 0)))
    return side_by_side(context, result) if len(shape) == 3 else result


def _section_of_each(context: NodeContext, half: Size) -> Array:
    """Which of the three positions each angle is taken from, i64 [half]."""
    sections = context.integers("mrope_section")
    if len(sections) != 3 or sum(sections) != half:
        context.wrong(f"the sections {list(sections)} do not make {half} angles")
    if not context.integer("mrope_layout", 0):
        return np.repeat(np.arange(3), sections)
    chosen = np.zeros(sum(sections), np.int64)
    for place in (1, 2):
        chosen[place : sections[place] * 3 : 3] = place
    return chosen


def _from_sections(context: NodeContext, angles: Value, chosen: Array) -> Value:
    """[batch, length, half] of [3, batch, length, half]."""
    b, (_, *shape) = context.builder, angles.type.shape
    result, *others = (
        context.reshape(slice_axis(b, angles, 0, place, 1), shape) for place in range(3)
    )
    for place, other in enumerate(others, 1):
        result = context.elementwise("select", b.constant(chosen == place), other, result)
    return result


@rule("RotaryEmbedding", domain=_DOMAIN)
def read_rotary_embedding(context: NodeContext) -> Value:
    x, places = context.input(0), indices_at(context, 1)
    cos, sin = context.input(2), context.input(3)
    if context.integer("is_packed_batching", 0):
        context.unsupported("is_packed_batching = 1")
    shape = x.type.shape
    if x.type.rank == 3:
        heads = context.integer("num_heads", 0)
        size = cos.type.shape[1] * 2
        x = in_heads(context, x, heads) if heads else in_heads_of(context, x, size)
    length = x.type.shape[2]
    if places.type.numel == 1:
        steps = context.apply("iota", shape=(1, length), axis=1, dtype=i64)
        first = context.cast(context.reshape(places, (1, 1)), i64)
        places = context.elementwise("add", steps, first)
    interleaved = bool(context.integer("interleaved", 0))
    result = rotated(context, x, angles_at(context, places, (cos, sin)), interleaved)
    return side_by_side(context, result) if len(shape) == 3 else result


def angles_at(context: NodeContext, places: Value, tables: tuple[Value, Value]) -> list[Value]:
    """Cosines and sines [batch or 1, length, half] at positions [batch or 1, length]."""
    return [context.apply("gather", table, places, axis=0) for table in tables]


def rotated(context: NodeContext, x: Value, angles: Sequence[Value], interleaved: bool) -> Value:
    """[batch, heads, length, size] with pairs of numbers rotated by the angles whose cosines and
    sines are [batch or 1, length, half]; what there are no angles for stays."""
    b, (batch, heads, length, size) = context.builder, x.type.shape
    front, _, half = angles[0].type.shape
    turned = slice_axis(b, x, 3, 0, half * 2)
    inner, axis = ((half, 2), 4) if interleaved else ((2, half), 3)
    pairs = context.reshape(turned, (batch, heads, length, *inner))
    one, other = (
        context.reshape(slice_axis(b, pairs, axis, k, 1), (batch, heads, length, half))
        for k in range(2)
    )
    cos, sin = (context.reshape(angle, (front, 1, length, half)) for angle in angles)

    def mixed(operator: str, first: Value, second: Value) -> Value:
        parts = context.elementwise("mul", one, first), context.elementwise("mul", other, second)
        result = context.elementwise(operator, *parts)
        wide = (batch, heads, length, half, 1) if interleaved else (batch, heads, length, 1, half)
        return context.reshape(result, wide)

    both = context.apply("concat", mixed("sub", cos, sin), mixed("add", sin, cos), axis=axis)
    result = context.reshape(both, (batch, heads, length, half * 2))
    if half * 2 == size:
        return result
    rest = slice_axis(b, x, 3, half * 2, size - half * 2)
    return context.apply("concat", result, rest, axis=3)


# Attention


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch: `before` i64 [batch, 1], new places, places that the longest row has,
    places of the new cache, which may be more."""

    before: Value
    length: Size
    longest: Size
    total: Size

    def places(self, context: NodeContext) -> Value:
        """The places of the new keys, [batch, length]."""
        steps = context.apply("iota", shape=(1, self.length), axis=1, dtype=i64)
        return context.elementwise("add", self.before, steps)


@rule("GroupQueryAttention", domain=_DOMAIN)
def read_group_query_attention(context: NodeContext) -> list[Item]:
    query, key, value = parts_of(context)
    query, key = _normed(context, query, 14), _normed(context, key, 15)
    length = query.type.shape[2]
    last = context.cast(context.input(5), i64)
    new = context.cast(context.builder.scalar_size(length - 1), i64)
    before = context.elementwise("sub", last, new)
    if context.integer("sliding_window_cache", 0):
        sliding = sliding_cache(context, _in_use(context, before), last, length)
        rows = Rows(sliding.before, length, sliding.joint, sliding.joint)
    else:
        sliding, rows = None, rows_of(context, before, 6, length)
    if context.integer("do_rotary", 0):
        given = context.optional(9)
        places = rows.places(context) if given is None else indices_at(context, 9)
        tables = context.input(7), context.input(8)
        angles = angles_at(context, places, tables)
        interleaved = bool(context.integer("rotary_interleaved", 0))
        query, key = (rotated(context, x, angles, interleaved) for x in (query, key))
    keys_as = narrow_cache(context, 12, "k_quant_type", key)
    values_as = narrow_cache(context, 13, "v_quant_type", value)
    groups = key.type.shape[1]
    if keys_as is not None:
        query = keys_as.scaled(context, query, groups)
    (keys, seen_keys), (values, seen_values) = (
        _with_new(context, position, one, kept_as, rows, sliding)
        for position, one, kept_as in ((3, key, keys_as), (4, value, values_as))
    )
    seen = _seen(context, rows, key.type.shape[0]) if sliding is None else sliding.seen(context)
    mixed = _attended(context, query, seen_keys, seen_values, rows, seen)
    if values_as is not None:
        mixed = values_as.scaled(context, mixed, groups)
    mixed = context.cast(mixed, value.type.dtype)
    return [side_by_side(context, mixed), keys, values]


def _with_new(
    context: NodeContext, position: int, new: Value, kept_as: NarrowCache | None, rows: Rows,
    sliding: SlidingCache | None,
) -> tuple[Value, Value]:  # fmt: skip
    """A cache, which is an input, with the new keys or values; and what a step sees of them."""
    if kept_as is not None:
        new = kept_as.stored(context, new)
    past = context.optional(position)
    if sliding is None:
        # The share of a place without a key is 0, and so must be what is multiplied with it.
        cleared = rows.longest if position == 4 else 0
        cache = joined = extended(context, past, new, rows, cleared)
    else:
        joined = sliding.joined(context, _cache_of(context, past, new), new)
        cache = sliding.kept(context, joined)
    return cache, joined if kept_as is None else kept_as.numbers(context, joined)


def parts_of(context: NodeContext) -> list[Value]:
    """Queries, keys and values, [batch, heads, length, size] each."""
    heads, groups = context.integer("num_heads"), context.integer("kv_num_heads")
    joint = context.input(0)
    if context.optional(1) is not None:
        size = dims.divide_exactly(joint.type.shape[2], heads)
        parts = [joint, context.input(1), context.input(2)]
    else:
        size = dims.divide_exactly(joint.type.shape[2], heads + 2 * groups)
        widths = () if size is None else (heads * size, groups * size, groups * size)
        parts = split_along(context, joint, 2, widths) if widths else []
    if size is None or groups == 0 or heads % groups:
        context.wrong(f"{joint.type} cannot be shared among {heads} and {groups} heads")
    return [in_heads_of(context, part, size) for part in parts]


def rows_of(context: NodeContext, before: Value, longest_at: int, length: Size) -> Rows:
    """Rows of a batch of which so many places [batch] are in use, in the cache that is input 3;
    an input says how many the longest has, with the new ones."""
    (longest,) = context.sizes(longest_at)
    past = context.optional(3)
    total = longest if past is None else dims.maximum(longest, past.type.shape[2])
    return Rows(_in_use(context, before), length, longest, total)


def _in_use(context: NodeContext, before: Value) -> Value:
    """The places in use, [batch, 1]: in a first prompt short rows are filled up behind, with keys
    that are not looked at later."""
    before = context.reshape(before, (before.type.numel, 1))
    return context.apply("max", before, context.like(before, 0))


def extended(
    context: NodeContext, past: Value | None, new: Value, rows: Rows, cleared: Size = 0
) -> Value:
    """The cache with the new keys behind those that count, and zeros up to the place `cleared`."""
    past = _cache_of(context, past, new)
    places = context.reshape(rows.before, (new.type.shape[0],))
    return context.apply(
        "tensor_scatter", past, places, new, axis=2, size=rows.total, cleared=cleared
    )


def _cache_of(context: NodeContext, past: Value | None, new: Value) -> Value:
    """The cache for such new keys [batch, heads, length, size], empty where there is none."""
    batch, heads, _, size = new.type.shape
    if past is None:
        past = context.full(TensorType(new.type.dtype, (batch, heads, 0, size)), 0)
    if past.type.rank != 4:
        context.wrong(f"a cache {past.type} of keys {new.type}")
    for axis, agreed in ((0, batch), (1, heads), (3, size)):
        past = with_size(context.builder, past, axis, agreed)
    return past


def group_scores(context: NodeContext, query: Value, keys: Value, rows: Rows) -> Value:
    """Scaled products [batch, groups, each, length, longest]: heads of a group share keys."""
    batch, heads, length, size = query.type.shape
    groups = keys.type.shape[1]
    each = dims.floordiv(heads, groups)
    apart = context.reshape(query, (batch, groups, each, length, size))
    keys = _shared(context, keys, rows)
    scores = product(context, apart, context.transpose(keys, (0, 1, 2, 4, 3)))
    return binary(context.builder, "mul", context.cast(scores, f32), score_scale(context, size))


def group_mixture(context: NodeContext, shares: Value, values: Value, rows: Rows) -> Value:
    """[batch, heads, length, size]: heads of a group share values, too."""
    batch, groups, each, length, _ = shares.type.shape
    mixed = product(
        context, context.cast(shares, values.type.dtype), _shared(context, values, rows)
    )
    return context.reshape(
        mixed, (batch, dims.product((groups, each)), length, mixed.type.shape[4])
    )


def _shared(context: NodeContext, cache: Value, rows: Rows) -> Value:
    """What is in use of a cache, which may have more places, for all heads of a group."""
    batch, groups, total, size = cache.type.shape
    whole = context.reshape(cache, (batch, groups, 1, total, size))
    return slice_axis(context.builder, whole, 3, 0, rows.longest)


def _attended(
    context: NodeContext, query: Value, keys: Value, values: Value, rows: Rows, seen: Value
) -> Value:
    b, scores = context.builder, group_scores(context, query, keys, rows)
    _, groups, each, _, _ = scores.type.shape
    cap = context.number("softcap", 0.0)
    if cap:
        scores = binary(b, "mul", b.apply("tanh", binary(b, "div", scores, cap)), cap)
    if context.optional(10) is not None:
        scores = context.elementwise("add", scores, _bias(context, groups, each, rows))
    shares = _shares(context, where(b, seen, scores, -1e30))
    return group_mixture(context, shares, values, rows)


def _shares(context: NodeContext, scores: Value) -> Value:
    """Softmax of [batch, groups, each, length, longest], where a head's sink takes a share, too:
    one more score that no key has, 0 for all heads if the softmax is only to be smooth."""
    b, (_, groups, each, _, _) = context.builder, scores.type.shape
    if context.optional(11) is not None:
        sinks = context.reshape(context.cast(context.input(11), f32), (1, groups, each, 1, 1))
    elif context.integer("smooth_softmax", 0) > 0:
        sinks = context.full(TensorType(f32, (1, groups, each, 1, 1)), 0.0)
    else:
        return softmax(b, scores, (4,))
    highest = binary(b, "max", reduce(b, "max", scores, (4,), keep=True), sinks)
    powers = b.apply("exp", binary(b, "sub", scores, highest))
    aside = b.apply("exp", binary(b, "sub", sinks, highest))
    total = reduce(b, "sum", powers, (4,), keep=True)
    return binary(b, "div", powers, binary(b, "add", total, aside))


def _normed(context: NodeContext, x: Value, position: int) -> Value:
    """Heads [batch, heads, length, size] through the norm whose weights an input may hold."""
    weight = context.optional(position)
    if weight is None:
        return x
    epsilon = context.number("qk_norm_epsilon", 1e-6)
    return normalize.rms_norm(context.builder, x, weight, (3,), epsilon)


def _bias(context: NodeContext, groups: Size, each: Size, rows: Rows) -> Value:
    bias = context.cast(context.input(10), f32)
    bias = with_size(context.builder, bias, 3, rows.longest)
    batch, heads, length, _ = bias.type.shape
    apart = (1, 1) if heads == 1 else (groups, each)
    return context.reshape(bias, (batch, *apart, length, rows.longest))


def _seen(context: NodeContext, rows: Rows, batch: Size) -> Value:
    """Which keys a query sees, [batch, 1, 1, length, longest]: those up to its own place, as far
    back as the window goes; all there are unless it is causal."""
    steps = context.apply("iota", shape=(1, 1, 1, 1, rows.longest), axis=4, dtype=i64)
    if not context.integer("causal", 1):
        last = context.reshape(context.cast(context.input(5), i64), (batch, 1, 1, 1, 1))
        return context.elementwise("le", steps, last)
    own = context.reshape(rows.places(context), (batch, 1, 1, rows.length, 1))
    seen = context.elementwise("le", steps, own)
    window = context.integer("local_window_size", -1)
    if window >= 0:
        in_window = context.elementwise("gt", steps, binary(context.builder, "sub", own, window))
        seen = context.elementwise("and", seen, in_window)
    return seen
