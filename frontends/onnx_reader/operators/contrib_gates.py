"""Operators of com.microsoft for gates of state-space models and linear attention."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite import in_f32
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


@rule("GatedRMSNorm", domain=_DOMAIN)
def read_gated_rms_norm(context: NodeContext) -> Value:
    """Rows hold several groups of as many numbers as there are weights, each with its own norm."""
    b, x, scale = context.builder, in_f32(context.builder, context.input(0)), context.input(1)
    (size,) = scale.type.shape
    *leading, width = x.type.shape
    groups = dims.divide_exactly(width, size)
    if groups is None:
        context.wrong(f"rows of {width} are not groups of {size}")
    apart = context.reshape(x, (*leading, groups, size))
    epsilon = context.number("epsilon", 1e-5)
    normal = normalize.rms_norm(b, apart, context.cast(scale, f32), (len(leading) + 1,), epsilon)
    gate = in_f32(b, context.input(2))
    match context.text("activation", "silu"):
        case "silu" | "swish":
            gate = activation.silu(b, gate)
        case "sigmoid":
            gate = context.apply("sigmoid", gate)
        case other:
            context.wrong(f"activation is {other!r}")
    result = context.elementwise("mul", context.reshape(normal, x.type.shape), gate)
    return context.cast(result, context.input(0).type.dtype)


@rule("LinearAttentionGate", domain=_DOMAIN)
def read_linear_attention_gate(context: NodeContext) -> list[Item]:
    """How much of a head's state is kept, as a logarithm, and how much is written."""
    given, rates = context.input(0), context.optional(3)
    shifted = context.elementwise("add", in_f32(context.builder, given), context.input(1))
    grown = activation.softplus(context.builder, shifted)
    decay = context.cast(context.elementwise("mul", context.input(2), grown), given.type.dtype)
    return [decay, None if rates is None else context.apply("sigmoid", rates)]


@rule("GatedAdd", domain=_DOMAIN)
def read_gated_add(context: NodeContext) -> Value:
    gated = context.elementwise("mul", context.input(1), context.input(2))
    return context.elementwise("add", context.input(0), gated)


@rule("ScaledSiLU", domain=_DOMAIN)
def read_scaled_silu(context: NodeContext) -> Value:
    x, scale = context.input(0), context.optional(1)
    if scale is None:
        scale = context.like(x, context.number("alpha", 1.0))
    else:
        scale = context.reshape(context.cast(scale, x.type.dtype), ())
    return activation.silu(context.builder, context.elementwise("mul", x, scale))
