"""Operators of com.microsoft that networks of images are made of for GPUs; channels come last."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite_shape import (
    from_channels_last,
    split_evenly,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.convolution import convolved
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


@rule("NhwcConv", domain=_DOMAIN)
def read_conv_of_last_channels(context: NodeContext) -> Value:
    """The weights' channels come last, too."""
    b = context.builder
    x, weight = (from_channels_last(b, context.input(at)) for at in range(2))
    return to_channels_last(b, convolved(context, x, weight, context.optional(2)))


@rule("GroupNorm", domain=_DOMAIN)
def read_group_norm(context: NodeContext) -> Value:
    return _group_norm(context, context.input(0))


@rule("SkipGroupNorm", domain=_DOMAIN)
def read_skip_group_norm(context: NodeContext) -> list[Item]:
    """Group normalization of a sum, which is an output, too."""
    x, skip = context.input(0), context.input(3)
    if skip.type.rank == 2:
        batch, channels = skip.type.shape
        skip = context.reshape(skip, (batch, 1, 1, channels))
    total = context.elementwise("add", x, skip)
    if context.optional(4) is not None:
        total = context.elementwise("add", total, context.input(4))
    return [_group_norm(context, total), total]


def _group_norm(context: NodeContext, x: Value) -> Value:
    b = context.builder
    if not context.integer("channels_last", 1):
        context.unsupported("channels_last = 0")
    result = normalize.group_norm(
        b, x, context.input(1), context.input(2), context.integer("groups"),
        context.number("epsilon", 1e-5),
    )  # fmt: skip
    return activation.silu(b, result) if context.integer("activation") else result


@rule("BiasSplitGelu", domain=_DOMAIN)
def read_bias_split_gelu(context: NodeContext) -> Value:
    """Half of the columns, times the GELU of the other half."""
    x = context.elementwise("add", context.input(0), context.input(1))
    linear, gate = split_evenly(context.builder, x, 2, -1)
    return context.apply("mul", linear, activation.gelu(context.builder, gate))


@rule("BiasAdd", domain=_DOMAIN)
def read_bias_add(context: NodeContext) -> Value:
    biased = context.elementwise("add", context.input(0), context.input(1))
    return context.elementwise("add", biased, context.input(2))
