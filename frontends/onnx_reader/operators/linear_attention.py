"""Attention whose memory is one matrix a head: LinearAttention, GatedDeltaNet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, f32, f64
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import sum_square
from bessemer.compiler.ops.composite.composite_shape import split
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"
_RULES = {"linear": "", "gated": "decay", "delta": "beta", "gated_delta": "decay beta"}
"""What each update rule reads."""
_LEAST = 1e-12
"""What onnxruntime adds to the sum of squares by whose root it divides."""


@rule("LinearAttention")
@rule("LinearAttention", domain=_DOMAIN)
def read_linear_attention(context: NodeContext) -> list[Item]:
    """Heads lie side by side: query [B, T, Q * K], key [B, T, G * K], value [B, T, H * V], decay
    [B, T, H * K] or [B, T, H], beta [B, T, H] or [B, T, 1], state [B, H, K, V]."""
    queries, heads = context.integer("q_num_heads"), context.integer("kv_num_heads")
    if context.integer("state_window", 0):
        context.unsupported("state_window above 0")
    query, key, value = (context.input(at) for at in range(3))
    depth = _share(context, query.type.shape[2], queries)
    width = _share(context, value.type.shape[2], heads)
    keys = dims.divide_exactly(key.type.shape[2], depth)
    if keys is None:
        context.wrong(f"keys of {key.type.shape[2]} are not heads of {depth}")
    batch, steps = query.type.shape[:2]

    def apart(x: Value, count: Size, size: Size) -> Value:
        return context.reshape(x, (batch, steps, count, size))

    tokens = (apart(query, queries, depth), apart(key, keys, depth), apart(value, heads, width))
    wants, decay, beta = _wants(context), None, None
    if "decay" in wants:
        decay = context.input(4)
        decay = apart(decay, heads, _share(context, decay.type.shape[2], heads))
    if "beta" in wants:
        beta = context.input(5)
    past = context.optional(3)
    y, state = _attention(context, tokens, past, decay, beta)
    y = context.reshape(y, (batch, steps, y.type.shape[2] * y.type.shape[3]))
    return [context.cast(y, query.type.dtype), context.cast(state, (past or query).type.dtype)]


@rule("GatedDeltaNet", domain=_DOMAIN)
def read_gated_delta_net(context: NodeContext) -> list[Item]:
    """Tokens of sequences of one length lie one behind the other, [N, heads, size], or are given
    as [B, T, heads, size]; a state is [B, H, V, K]."""
    if context.integer("state_update_capacity", 0):
        context.unsupported("state_update_capacity above 0")
    past = context.optional(6)
    query, key, value = _tokens(context, past)
    front = query.type.shape[:-2]
    batch = front[0] if len(front) == 2 else _sequences(context, past)
    steps = _share(context, dims.product(front), batch)

    def apart(x: Value) -> Value:
        return context.reshape(x, (batch, steps, *x.type.shape[len(front) :]))

    query, key, value = (apart(x) for x in (query, key, value))
    if context.integer("qk_l2_norm", 0):
        query, key = (_normal(context, x) for x in (query, key))
    wants, decay, beta = _wants(context), None, None
    if "decay" in wants:
        rates = apart(context.input(4))
        heads = (*rates.type.shape, 1) if rates.type.rank == 3 else rates.type.shape
        decay = _decay(context, context.reshape(rates, heads))
    if "beta" in wants:
        beta = apart(context.input(5))
        if context.text("beta_activation", "none") == "sigmoid":
            beta = context.apply("sigmoid", context.cast(beta, f32))
    before = None if past is None else context.transpose(past, (0, 1, 3, 2))
    y, state = _attention(context, (query, key, value), before, decay, beta)
    y = context.reshape(y, (*front, *y.type.shape[2:]))
    y = context.cast(y, context.input(0).type.dtype)
    return [y, context.transpose(context.cast(state, f32), (0, 1, 3, 2))]


def _tokens(context: NodeContext, past: Value | None) -> list[Value]:
    """Query, key and value; of one tensor, in which they lie side by side, the state tells the
    sizes."""
    query, key = context.input(0), context.optional(1)
    if key is not None:
        return [query, key, context.input(2)]
    if past is None:
        context.wrong("query, key and value in one tensor need an initial_state")
    _, heads, width, depth = past.type.shape
    *front, total = query.type.shape
    queries = _share(context, total - heads * width, 2 * depth)
    counts = ((queries, depth), (queries, depth), (heads, width))
    parts = split(context.builder, query, [n * size for n, size in counts], len(front))
    return [context.reshape(x, (*front, *count)) for x, count in zip(parts, counts)]


def _sequences(context: NodeContext, past: Value | None) -> Size:
    """How many sequences of one length lie one behind the other."""
    ends = context.optional(3)
    batch = 1 if past is None else past.type.shape[0]
    if ends is not None and (ends.type.shape != (2,) or batch != 1):
        context.unsupported("cu_seqlens of more than one sequence")
    if ends is None and past is None:
        context.wrong("neither cu_seqlens nor initial_state says how many sequences there are")
    return batch


def _normal(context: NodeContext, x: Value) -> Value:
    """Heads of length 1."""
    wide = context.cast(x, f32)
    shifted = binary(context.builder, "add", sum_square(context.builder, wide, (3,), True), _LEAST)
    return context.elementwise("mul", wide, context.apply("rsqrt", shifted))


def _decay(context: NodeContext, given: Value) -> Value:
    """The logarithm [B, T, H, 1 or K] of what is kept of a state."""
    kind, b = context.text("gate_activation", "none"), context.builder
    if kind == "none":
        return given
    heads = given.type.shape[2]
    rate = context.apply("exp", context.reshape(context.cast(context.input(7), f32), (heads, 1)))
    shift = context.cast(context.input(8), f32)
    shift = context.reshape(shift, (heads, _share(context, shift.type.numel, heads)))
    moved = context.elementwise("add", context.cast(given, f32), shift)
    match kind:
        case "softplus" | "qwen":
            grown = activation.softplus(b, moved)
            return context.apply("neg", context.elementwise("mul", grown, rate))
        case "sigmoid" | "kda":
            opened = context.apply("sigmoid", context.elementwise("mul", moved, rate))
            return binary(b, "mul", opened, context.number("gate_lower_bound", -5.0))
        case _:
            context.wrong(f"gate_activation is {kind!r}")


def _wants(context: NodeContext) -> str:
    """What the node's update rule reads."""
    name = context.text("update_rule", "gated_delta")
    if name not in _RULES:
        context.wrong(f"update_rule is {name!r}")
    return _RULES[name]


def _share(context: NodeContext, size: Size, count: Size) -> Size:
    """The size of each of `count` equal parts."""
    part = dims.divide_exactly(size, count)
    if part is None:
        context.wrong(f"{size} is not a multiple of {count}")
    return part


def _attention(
    context: NodeContext,
    tokens: Sequence[Value],
    past: Value | None,
    decay: Value | None,
    beta: Value | None,
) -> tuple[Value, Value]:
    """Query, key and value [B, T, heads, size], in the type that is computed in, through all steps;
    `decay` is a logarithm."""
    working = f64 if tokens[0].type.dtype == f64 else f32
    query, key, value = (context.cast(x, working) for x in tokens)
    depth = query.type.shape[3]
    scale = context.number("scale", 0.0) or 1 / math.sqrt(dims.number(depth))
    query = binary(context.builder, "mul", query, scale)
    if past is None:
        kept = (query.type.shape[0], value.type.shape[2], depth, value.type.shape[3])
        past = context.full(TensorType(working, kept), 0.0)
    given = [query, key, value, context.cast(past, working)]
    if decay is not None:
        given.append(context.apply("exp", context.cast(decay, working)))
    if beta is not None:
        given.append(context.cast(beta, working))
    y, state = context.builder.apply_many(
        "linear_attention", *given, has_decay=decay is not None, has_beta=beta is not None
    )
    return y, state
