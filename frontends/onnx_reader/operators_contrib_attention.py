"""Attention as com.microsoft has it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import boolean, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import softmax
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators_contrib_quantized import scaled_product
from bessemer.frontends.onnx_reader.operators_matmul import product
from bessemer.frontends.onnx_reader.operators_move import split_along
from bessemer.frontends.onnx_reader.operators_quantize import centered
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


def _heads(context: NodeContext, x: Value, count: int) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    batch, length, width = x.type.shape
    size = dims.divide_exactly(width, count)
    if size is None:
        context.wrong(f"{x.type} cannot be shared among {count} heads")
    return context.transpose(context.reshape(x, (batch, length, count, size)), (0, 2, 1, 3))


def _attended(
    context: NodeContext, query: Value, key: Value, value: Value, biases: Sequence[Value]
) -> Value:
    """Softmax of the products, and what it selects, as [batch, length, heads * size]."""
    size = query.type.shape[-1]
    default = 1 / math.sqrt(size) if isinstance(size, int) else 1.0
    scale = context.number("scale", 0.0) or default
    scores = product(context, query, context.transpose(key, (0, 1, 3, 2)))
    scores = binary(context.builder, "mul", scores, scale)
    for bias in biases:
        scores = context.elementwise("add", scores, bias)
    shares = softmax(context.builder, scores, (3,))
    mixed = context.transpose(product(context, shares, value), (0, 2, 1, 3))
    batch, length, heads, width = mixed.type.shape
    return context.reshape(mixed, (batch, length, heads * width))


def _masked(context: NodeContext, kept: Value, like: Value) -> Value:
    """0 where a truth holds, a very negative number elsewhere."""
    low = context.number("mask_filter_value", -10000.0)
    zeros = context.full(kept.type.with_dtype(like.type.dtype), 0.0)
    return context.apply("select", kept, zeros, context.like(zeros, low))


def _padding_mask(context: NodeContext, mask: Value, keys: Size, like: Value) -> Value:
    """A mask [batch, keys] or [batch, queries, keys], or lengths [batch], as a bias [batch, 1 or
    queries, keys] with an axis for heads."""
    if mask.type.rank == 1:
        shape = (mask.type.shape[0], keys)
        places = context.apply("iota", shape=shape, axis=1, dtype=i64)
        lengths = context.reshape(context.cast(mask, i64), (mask.type.shape[0], 1))
        kept = context.elementwise("lt", places, lengths)
    elif mask.type.rank in (2, 3):
        kept = context.cast(mask, boolean)
    else:
        context.unsupported(f"a mask {mask.type}")
    batch, *queries, length = kept.type.shape
    kept = context.reshape(kept, (batch, 1, *(queries or [1]), length))
    return _masked(context, kept, like)


def _causal(context: NodeContext, queries: Size, keys: Size, like: Value) -> Value:
    """Each query sees the keys up to its own place."""
    shape = (1, 1, queries, keys)
    rows = context.apply("iota", shape=shape, axis=2, dtype=i64)
    columns = context.apply("iota", shape=shape, axis=3, dtype=i64)
    return _masked(context, context.apply("le", columns, rows), like)


@rule("Attention", domain=_DOMAIN)
def read_attention(context: NodeContext) -> list[Item]:
    """Self-attention: one product makes queries, keys and values."""
    if context.optional(4) is not None or context.optional(6) is not None:
        context.unsupported("the input past")
    joint = product(context, context.input(0), context.input(1))
    if context.optional(2) is not None:
        joint = context.elementwise("add", joint, context.input(2))
    return [_self_attention(context, joint, context.optional(3), context.optional(5)), None]


@rule("QAttention", domain=_DOMAIN)
def read_quantized_attention(context: NodeContext) -> list[Item]:
    """Self-attention whose product is one of integers."""
    if context.optional(8) is not None:
        context.unsupported("the input past")
    left = centered(context, context.input(0), context.optional(6), -2)
    right = centered(context, context.input(1), context.optional(7), -1)
    scales = context.input(3), context.input(4)
    joint = scaled_product(context, left, right, scales, context.input(2))
    return [_self_attention(context, joint, context.optional(5), None), None]


def _self_attention(
    context: NodeContext, joint: Value, mask: Value | None, bias: Value | None
) -> Value:
    """Attention among rows that hold query, key and value one behind the other."""
    if context.integer("do_rotary", 0):
        context.unsupported("do_rotary = 1")
    heads = context.integer("num_heads")
    width = joint.type.shape[-1]
    sizes: Sequence[Size] = context.integers("qkv_hidden_sizes", ())
    sizes = sizes or (dims.floordiv(width, 3),) * 3
    parts = split_along(context, joint, 2, sizes)
    query, key, value = (_heads(context, part, heads) for part in parts)
    length = joint.type.shape[1]
    biases: list[Value] = []
    if mask is not None:
        biases.append(_padding_mask(context, mask, length, joint))
    if context.integer("unidirectional", 0):
        biases.append(_causal(context, length, length, joint))
    if bias is not None:
        biases.append(bias)
    return _attended(context, query, key, value, biases)


@rule("MultiHeadAttention", domain=_DOMAIN)
def read_multi_head_attention(context: NodeContext) -> list[Item]:
    if any(context.optional(position) is not None for position in (6, 7)):
        context.unsupported("the inputs past_key and past_value")
    heads = context.integer("num_heads")
    parts = [context.input(position) for position in range(3)]
    if any(part.type.rank != 3 for part in parts):
        context.unsupported("packed inputs")
    bias = context.optional(3)
    if bias is not None:
        pieces = split_along(context, bias, 0, [part.type.shape[2] for part in parts])
        parts = [context.elementwise("add", *pair) for pair in zip(parts, pieces)]
    query, key, value = (_heads(context, part, heads) for part in parts)
    biases: list[Value] = []
    keys = key.type.shape[2]
    if context.optional(4) is not None:
        biases.append(_padding_mask(context, context.input(4), keys, query))
    if context.integer("unidirectional", 0):
        biases.append(_causal(context, query.type.shape[2], keys, query))
    if context.optional(5) is not None:
        biases.append(context.input(5))
    return [_attended(context, query, key, value, biases), None, None]
