"""Pooling over windows or whole images."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops import composite_reduce
from bessemer.compiler.ops.composite_shape import from_channels_last, to_channels_last
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.windows import Window, read_window


def _input_and_window(context: NodeContext) -> tuple[Value, Window]:
    """The image, channels last, and the node's window."""
    x = context.input(0)
    if x.type.rank < 3:
        context.wrong(f"the input is {x.type}, an image [N, C, ...] is wanted")
    kernel: tuple[Size, ...] = context.integers("kernel_shape")
    return to_channels_last(context.builder, x), read_window(context, x.type.shape[2:], kernel)


@rule("MaxPool")
def read_max_pool(context: NodeContext) -> Value:
    if len([name for name in context.node.output if name]) > 1:
        context.unsupported("the second output, Indices")
    x, window = _input_and_window(context)
    result = context.apply(
        "max_pool",
        x,
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        low=window.low,
        high=window.high,
    )
    return from_channels_last(context.builder, result)


@rule("AveragePool")
def read_average_pool(context: NodeContext) -> Value:
    x, window = _input_and_window(context)
    result = context.apply(
        "average_pool",
        x,
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        low=window.low,
        high=window.high,
        count_include_pad=bool(context.integer("count_include_pad", 0)),
        uncounted=window.uncounted if any(size != 0 for size in window.uncounted) else (),
    )
    return from_channels_last(context.builder, result)


def _norm(context: NodeContext) -> float:
    p = context.number("p", 2.0)
    if not p > 0:
        context.wrong(f"p is {p}")
    return p


@rule("LpPool")
def read_lp_pool(context: NodeContext) -> Value:
    x, window = _input_and_window(context)
    result = composite_reduce.lp_pool(
        context.builder,
        x,
        _norm(context),
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        low=window.low,
        high=window.high,
    )
    return from_channels_last(context.builder, result)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def read_global_pool(context: NodeContext) -> Value:
    b = context.builder
    x = to_channels_last(b, context.input(0))
    match context.node.op_type:
        case "GlobalAveragePool":
            result = composite_reduce.global_average_pool(b, x)
        case "GlobalMaxPool":
            result = composite_reduce.global_max_pool(b, x)
        case _:
            result = composite_reduce.global_lp_pool(b, x, _norm(context))
    return from_channels_last(b, result)
