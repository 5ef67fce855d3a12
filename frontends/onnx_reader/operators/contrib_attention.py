"""Attention as com.microsoft has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import boolean, i64
from bessemer.compiler.ops.composite.composite import binary, size_as
from bessemer.compiler.ops.composite.composite_reduce import softmax
from bessemer.compiler.ops.composite.composite_shape import slice_axis, stack
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import require_nonnegative, with_size
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.contrib_quantized import scaled_product
from bessemer.frontends.onnx_reader.operators.heads import in_heads, side_by_side
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.operators.move import concatenated, split_along
from bessemer.frontends.onnx_reader.operators.quantize import centered
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


def score_scale(context: NodeContext, size: Size) -> float:
    """What products of queries and keys of a size are multiplied by."""
    given = context.number("scale", 0.0)
    if given:
        return given
    if not isinstance(size, int):
        context.unsupported("heads of a size that is not known")
    return 1 / math.sqrt(size)


def _attended(
    context: NodeContext, query: Value, key: Value, value: Value, biases: Sequence[Value]
) -> tuple[Value, Value]:
    """What the softmax of the products selects, as [batch, length, heads * size]; the products."""
    scores = product(context, query, context.transpose(key, (0, 1, 3, 2)))
    scores = binary(context.builder, "mul", scores, score_scale(context, query.type.shape[-1]))
    for bias in biases:
        scores = context.elementwise("add", scores, bias)
    shares = softmax(context.builder, scores, (3,))
    return side_by_side(context, product(context, shares, value)), scores


def _masked(context: NodeContext, kept: Value, like: Value) -> Value:
    """0 where a mask's truth holds, a very negative number elsewhere."""
    return _unless(context, kept, like, context.number("mask_filter_value", -10000.0))


def _unless(context: NodeContext, kept: Value, like: Value, low: float) -> Value:
    zeros = context.full(kept.type.with_dtype(like.type.dtype), 0.0)
    return context.apply("select", kept, zeros, context.like(zeros, low))


def _padding_mask(context: NodeContext, mask: Value, keys: Size, like: Value) -> Value:
    """What a mask of truths, or of the places between which keys count, adds to the scores
    [batch, heads, queries, keys]."""
    rank = mask.type.rank
    if rank == 1:
        return _masked(context, _between(context, mask, keys, like.type.shape[0]), like)
    if rank not in (2, 3):
        context.unsupported(f"a mask {mask.type}")
    kept = context.cast(mask, boolean)
    batch, *middle, _ = kept.type.shape
    kept = context.reshape(kept, (batch, 1, *(middle or [1]), kept.type.shape[-1]))
    return _masked(context, kept, like)


def _between(context: NodeContext, mask: Value, keys: Size, batch: Size) -> Value:
    """Which keys count, [batch, 1, 1, keys]: a vector holds where each row of the batch ends, and
    then where each starts or, for kernels that leave padding out, sums of lengths."""
    count = mask.type.numel
    rows = batch if count in (batch * 2, batch * 3 + 2) else count
    steps = context.apply("iota", shape=(1, 1, 1, keys), axis=3, dtype=i64)

    def bounds(at: int) -> Value:
        found = slice_axis(context.builder, context.cast(mask, i64), 0, rows * at, rows)
        return context.reshape(found, (rows, 1, 1, 1))

    kept = context.elementwise("lt", steps, bounds(0))
    if count == batch * 2:
        kept = context.elementwise("and", kept, context.elementwise("ge", steps, bounds(1)))
    return kept


def _causal(context: NodeContext, before: Size, queries: Size, keys: Size, like: Value) -> Value:
    """Each query sees the keys up to its own place, which counts from the `before` past ones on."""
    b, shape = context.builder, (1, 1, queries, keys)
    rows = context.apply("iota", shape=shape, axis=2, dtype=i64)
    columns = context.apply("iota", shape=shape, axis=3, dtype=i64)
    if before != 0:
        rows = context.elementwise("add", rows, context.cast(b.scalar_size(before), i64))
    return _unless(context, context.apply("le", columns, rows), like, -math.inf)


def _behind(context: NodeContext, past: Value | None, new: Value) -> Value:
    """Keys or values [batch, heads, length, size], behind those of earlier calls."""
    return new if past is None else concatenated(context, (past, new), 2)


@rule("Attention", domain=_DOMAIN)
def read_attention(context: NodeContext) -> list[Item]:
    """Self-attention: one product makes queries, keys and values."""
    joint = product(context, context.input(0), context.input(1))
    if context.optional(2) is not None:
        joint = context.elementwise("add", joint, context.input(2))
    return _self_attention(
        context, joint, context.optional(3), context.optional(4), context.optional(5)
    )


@rule("QAttention", domain=_DOMAIN)
def read_quantized_attention(context: NodeContext) -> list[Item]:
    """Self-attention whose product is one of integers."""
    left = centered(context, context.input(0), context.optional(6), -2)
    right = centered(context, context.input(1), context.optional(7), -1)
    scales = context.input(3), context.input(4)
    joint = scaled_product(context, left, right, scales, context.input(2))
    return _self_attention(context, joint, context.optional(5), context.optional(8), None)


def _self_attention(
    context: NodeContext, joint: Value, mask: Value | None, past: Value | None, bias: Value | None
) -> list[Item]:
    """Attention among rows that hold query, key and value one behind the other, and the keys and
    values of this call and all before it, [2, batch, heads, length, size]."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if context.integer(name, 0):
            context.unsupported(f"{name} = 1")
    heads = context.integer("num_heads")
    width = joint.type.shape[-1]
    sizes: Sequence[Size] = context.integers("qkv_hidden_sizes", ())
    sizes = sizes or (dims.floordiv(width, 3),) * 3
    parts = split_along(context, joint, 2, sizes)
    query, *new = (in_heads(context, part, heads) for part in parts)
    olds = [None, None] if past is None else _apart(context, past, 0)
    key, value = (_behind(context, old, one) for old, one in zip(olds, new))
    before = 0 if past is None else past.type.shape[3]
    mixed, _ = _attended_with_masks(context, query, key, value, before, mask, bias)
    present = stack(context.builder, (key, value)) if key.type == value.type else None
    return [mixed, present]


def _attended_with_masks(
    context: NodeContext,
    query: Value,
    key: Value,
    value: Value,
    before: Size,
    mask: Value | None,
    bias: Value | None,
) -> tuple[Value, Value]:
    """The first `before` of the keys are those of earlier calls."""
    queries, keys = query.type.shape[2], key.type.shape[2]
    biases: list[Value] = []
    if mask is not None:
        biases.append(_padding_mask(context, mask, keys, query))
    if context.integer("unidirectional", 0):
        biases.append(_causal(context, before, queries, keys, query))
    if bias is not None:
        biases.append(bias)
    return _attended(context, query, key, value, biases)


@dataclass(frozen=True)
class _Places:
    """Which inputs of an operator are what, but for query, key and value."""

    bias: int
    mask: int
    added: int
    past_key: int
    past_value: int
    used: int
    beams: int


_MULTI_HEAD = _Places(bias=3, mask=4, added=5, past_key=6, past_value=7, used=8, beams=9)
_DECODER = _Places(bias=10, mask=3, added=4, past_key=5, past_value=6, used=7, beams=9)


@rule("MultiHeadAttention", domain=_DOMAIN)
def read_multi_head_attention(context: NodeContext) -> list[Item]:
    return _multi_head_attention(context, _MULTI_HEAD)


@rule("DecoderMaskedMultiHeadAttention", domain=_DOMAIN)
def read_decoder_attention(context: NodeContext) -> list[Item]:
    return _multi_head_attention(context, _DECODER)


def _multi_head_attention(context: NodeContext, at: _Places) -> list[Item]:
    query, key, value = _projected(context, at.bias)
    past = [context.optional(place) for place in (at.past_key, at.past_value)]
    mask, added = context.optional(at.mask), context.optional(at.added)
    if past[0] is not None and past[1] is not None and context.optional(at.used) is not None:
        (before,) = context.sizes(at.used)
        value = with_size(context.builder, value, 2, key.type.shape[2])
        news, caches = (key, value), (past[0], past[1])
        presents = [_written(context, old, new, before) for old, new in zip(caches, news)]
        beams = context.optional(at.beams)
        key, value = (
            _in_use(context, present, new, before, beams) for present, new in zip(presents, news)
        )
    else:
        if context.optional(at.beams) is not None:
            context.unsupported("beams without a cache that past and present share")
        before = 0 if past[0] is None else past[0].type.shape[2]
        key, value = presents = [_behind(context, old, new) for old, new in zip(past, (key, value))]
    mixed, scores = _attended_with_masks(context, query, key, value, before, mask, added)
    return [mixed, *presents, scores]


def _written(context: NodeContext, past: Value, new: Value, before: Size) -> Value:
    """A cache [batch, heads, places, size] with new keys or values behind the `before` in use."""
    batch, heads, length, size = new.type.shape
    for axis, agreed in ((0, batch), (1, heads), (3, size)):
        past = with_size(context.builder, past, axis, agreed)
    places = past.type.shape[2]
    room = f"{length} new places behind {before} of {places}"
    require_nonnegative(context.builder, (places - before - length,), room)
    first = size_as(context.builder, before, i64, (batch,))
    return context.apply("tensor_scatter", past, first, new, axis=2, size=places)


def _in_use(
    context: NodeContext, present: Value, new: Value, before: Size, beams: Value | None
) -> Value:
    """What counts of a cache. `beams` [batch, width, places] tell from which of the beams that are
    neighbours in it the earlier ones of a beam's places are."""
    b, (rows, heads, places, size) = context.builder, present.type.shape
    if beams is None:
        return slice_axis(b, present, 2, 0, before + new.type.shape[2])
    batch, width, known = beams.type.shape
    require_nonnegative(b, (known - before,), f"beams of {before} places among {known}")
    origin = context.cast(slice_axis(b, beams, 2, 0, before), i64)
    row = context.elementwise("add", origin, _steps(context, (batch, 1, 1), 0, width))
    row = _times(context, context.reshape(row, (rows, 1, before)), heads)
    head = context.elementwise("add", row, _steps(context, (1, heads, 1), 1, 1))
    place = context.elementwise(
        "add", _times(context, head, places), _steps(context, (1, 1, before), 2, 1)
    )
    flat = context.reshape(present, (dims.product((rows, heads, places)), size))
    return context.apply("concat", context.apply("gather", flat, place, axis=0), new, axis=2)


def _steps(context: NodeContext, shape: Sequence[Size], axis: int, step: Size) -> Value:
    """0, 1, 2 ... times a step, along an axis."""
    return _times(context, context.apply("iota", shape=tuple(shape), axis=axis, dtype=i64), step)


def _times(context: NodeContext, x: Value, size: Size) -> Value:
    return context.apply("mul", x, size_as(context.builder, size, i64, x.type.shape))


def _projected(context: NodeContext, bias_at: int) -> list[Value]:
    """Queries, keys and values, [batch, heads, length, size] each, their bias added."""
    heads = context.integer("num_heads")
    parts = [one for one in (context.optional(at) for at in range(3)) if one is not None]
    if parts and parts[-1].type.rank == 5:
        # [batch, length, heads, 2 or 3, size]
        together = _apart(context, parts[-1], 3)
        parts = [*parts[:-1], *(context.transpose(one, (0, 2, 1, 3)) for one in together)]
    if len(parts) != 3:
        context.wrong("a query, keys and values are wanted")
    found = [x if x.type.rank == 4 else in_heads(context, x, heads) for x in parts]
    bias = context.optional(bias_at)
    if bias is None:
        return found
    pieces = split_along(context, bias, 0, [heads * one.type.shape[3] for one in found])
    # Keys and values that come by heads have been through this before.
    done = [context.optional(at) is x for at, x in enumerate(found)]
    return [
        x if is_done else _with_bias(context, x, piece)
        for x, is_done, piece in zip(found, done, pieces)
    ]


def _with_bias(context: NodeContext, x: Value, bias: Value) -> Value:
    _, heads, _, size = x.type.shape
    return context.elementwise("add", x, context.reshape(bias, (1, heads, 1, size)))


def _apart(context: NodeContext, x: Value, axis: int) -> list[Value]:
    """What lies along an axis, each without it."""
    count = x.type.shape[axis]
    if not isinstance(count, int):
        context.unsupported(f"axis {axis} of {x.type}")
    shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
    pieces = (slice_axis(context.builder, x, axis, k, 1) for k in range(count))
    return [context.reshape(one, shape) for one in pieces]
