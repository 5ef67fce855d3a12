"""Convolutions of sequences that are continued: a state holds the last positions before them."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite.composite_shape import (
    concat,
    from_channels_last,
    slice_axis,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_ELSEWHERE = ("state_window", "state_update_capacity", "state_length", "input_channels")
"""Attributes that onnxruntime knows on GPUs only; they are 0 where they mean nothing."""


@rule("CausalConvWithState")
@rule("CausalConvWithState", domain="com.microsoft")
def read_causal_convolution(context: NodeContext) -> list[Value]:
    """x [B, C, L] or, `channels_last`, [B, L, *C], weight [C, 1, K]; a state is (K - 1) * dilation
    positions long."""
    for name in _ELSEWHERE:
        if context.integer(name, 0):
            context.unsupported(f"{name} = {context.integer(name)}")
    if context.integer("ndim", 1) != 1:
        context.unsupported(f"ndim = {context.integer('ndim')}")
    given, weight, bias = context.input(0), context.input(1), context.optional(2)
    channels, _, taps = weight.type.shape
    is_last = bool(context.integer("channels_last", 0))
    axis, dilation = 1 if is_last else 2, context.integer("dilation", 1)
    length = (taps - 1) * dilation
    if given.type.rank < 3 or weight.type.rank != 3:
        context.wrong(f"the input is {given.type} and the weight {weight.type}")

    def plain(x: Value, positions: Size) -> Value:
        if not is_last:
            return x
        return context.reshape(x, (x.type.shape[0], positions, dims.product(x.type.shape[2:])))

    x = plain(given, given.type.shape[axis])
    batch, count = x.type.shape[0], x.type.shape[axis]
    past = context.optional(3)
    if past is None:
        shape = (batch, length, channels) if is_last else (batch, channels, length)
        before = context.full(x.type.with_shape(shape), 0.0)
    else:
        before = plain(past, length)
    whole = concat(context.builder, [before, x], axis)
    result = context.apply(
        "conv",
        whole if is_last else to_channels_last(context.builder, whole),
        context.transpose(weight, (2, 1, 0)),
        strides=(1,),
        dilations=(dilation,),
        low=(0,),
        high=(0,),
        groups=channels,
    )
    if bias is not None:
        result = context.elementwise("add", result, bias)
    match context.text("activation", "none"):
        case "silu" | "swish":
            result = activation.silu(context.builder, result)
        case "none":
            pass
        case other:
            context.wrong(f"activation is {other!r}")
    kept = slice_axis(context.builder, whole, axis, count, length)
    if not is_last:
        return [from_channels_last(context.builder, result), kept]
    behind = given.type.shape[2:]
    return [
        context.reshape(result, given.type.shape),
        context.reshape(kept, (batch, length, *behind)),
    ]
