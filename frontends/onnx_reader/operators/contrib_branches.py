"""Networks whose hidden state is several branches, which layers read and write by gates."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite import binary, in_f32, matmul, where
from bessemer.compiler.ops.composite.composite_reduce import reduce
from bessemer.compiler.ops.composite.composite_shape import unsqueeze
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


@rule("BranchwiseRMSNorm", domain=_DOMAIN)
def read_branchwise_rms_norm(context: NodeContext) -> Value:
    x = _branches(context, context.input(0))
    scale, count = context.optional(1), x.type.shape[-2]
    if scale is not None:
        scale = context.cast(scale, f32)
        if scale.type.rank == 1 and scale.type.shape != x.type.shape[-1:]:
            scale = context.reshape(scale, (count, x.type.shape[-1]))
    epsilon = context.number("epsilon", 1e-5)
    return _as_given(context, normalize.rms_norm(context.builder, x, scale, (-1,), epsilon))


@rule("HyperConnectionPreMix", domain=_DOMAIN)
def read_pre_mix(context: NodeContext) -> Value:
    """The sum of the branches, each times a gate."""
    x = _branches(context, context.input(0))
    gated = context.elementwise("mul", x, _gates(context, context.input(1), x))
    total = reduce(context.builder, "sum", gated, (-2,))
    scaled = binary(context.builder, "mul", total, context.number("reduction_scale", 1.0))
    return context.cast(scaled, context.input(0).type.dtype)


@rule("HyperConnectionPostMix", domain=_DOMAIN)
def read_post_mix(context: NodeContext) -> Value:
    """The branches, mixed, and what a layer made of them, times a gate for each."""
    b, x = context.builder, _branches(context, context.input(0))
    made = unsqueeze(b, in_f32(b, context.input(1)), [-2])
    written = context.elementwise("mul", made, _gates(context, context.input(2), x))
    mix = context.optional(3)
    if mix is not None:
        rank = mix.type.rank
        turned = context.transpose(in_f32(b, mix), (*range(rank - 2), rank - 1, rank - 2))
        x = matmul(b, turned, x)
    return _as_given(context, context.elementwise("add", x, written))


@rule("EngramGate", domain=_DOMAIN)
def read_engram_gate(context: NodeContext) -> list[Value]:
    """A value [B, T, H] for every branch [B, T, C, H], as far as its key fits its query."""
    b, epsilon = context.builder, context.number("epsilon", 1e-5)
    dtype = context.input(0).type.dtype

    def norm(x: Value, scale: Value) -> Value:
        return normalize.rms_norm(b, in_f32(b, x), in_f32(b, scale), (-1,), epsilon)

    key, query = (norm(context.input(at), context.input(at + 3)) for at in range(2))
    width = dims.number(key.type.shape[-1])
    dot = reduce(b, "sum", context.elementwise("mul", key, query), (-1,), keep=True)
    dot = binary(b, "mul", dot, width**-0.5)
    root = context.apply("sqrt", binary(b, "max", context.apply("abs", dot), 1e-6))
    signed = where(b, binary(b, "lt", dot, 0.0), context.apply("neg", root), root)
    gate = context.apply("sigmoid", where(b, binary(b, "eq", dot, 0.0), 0.0, signed))
    value = unsqueeze(b, in_f32(b, context.input(2)), [-2])
    gated = context.elementwise("mul", gate, value)
    results = [gated]
    if context.optional(5) is not None:
        results.append(norm(gated, context.input(5)))
    return [context.cast(result, dtype) for result in results]


def _branches(context: NodeContext, x: Value) -> Value:
    """x as [..., C, H] in float32; it may be [..., C * H]."""
    count = context.integer("num_branches", 0)
    if count == 0:
        return in_f32(context.builder, x)
    width = dims.divide_exactly(x.type.shape[-1], count)
    if width is None:
        context.wrong(f"{x.type} is not {count} branches")
    return in_f32(context.builder, context.reshape(x, (*x.type.shape[:-1], count, width)))


def _gates(context: NodeContext, gates: Value, x: Value) -> Value:
    """What broadcasts with branches x [..., C, H]; gates may be [..., C] or [..., C * H]."""
    *front, count, width = x.type.shape
    if gates.type.rank != x.type.rank:
        size = 1 if gates.type.shape[-1] == count else width
        gates = context.reshape(gates, (*front, count, size))
    return in_f32(context.builder, gates)


def _as_given(context: NodeContext, x: Value) -> Value:
    given = context.input(0).type
    return context.cast(context.reshape(x, given.shape), given.dtype)
