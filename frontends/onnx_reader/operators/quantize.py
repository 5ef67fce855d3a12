"""Quantized tensors: integers that stand for (integer - zero point) * scale.

Weights stay int8; what is subtracted and multiplied stays in the graph.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, f32, i8, i32, u8
from bessemer.compiler.ops.composite.composite_quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    quantize_linear,
)
from bessemer.compiler.ops.composite.composite_shape import from_channels_last, to_channels_last
from bessemer.compiler.ops.narrow_types import FORMATS, WIDTHS
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.model_state import Dequantized
from bessemer.frontends.onnx_reader.operators.convolution import convolved
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.registry import rule


def _axis(context: NodeContext, x: Value) -> int:
    """The axis that scales lie along; it only counts where there are several."""
    axis = context.integer("axis", 1)
    return axis % x.type.rank if -x.type.rank <= axis < x.type.rank else 0


def _as_wide_as(context: NodeContext, x: Value, scale: Value) -> Value:
    """x, whose axis has as many elements as there are scales, but for one or those of blocks."""
    one = scale.type.rank != 1 or scale.type.numel == 1
    if one or x.type.rank == 0 or context.integer("block_size", 0):
        return x
    # The axis of a vector is 1 where a file leaves it out.
    axis = 0 if x.type.rank == 1 else context.axis(x.type.rank, context.integer("axis", 1))
    return with_size(context.builder, x, axis, scale.type.shape[0])


@rule("QuantizeLinear")
def read_quantize_linear(context: NodeContext) -> Value:
    x, scale, zero_point = context.input(0), context.input(1), context.optional(2)
    dtype = context.dtype("output_dtype", u8) if context.integer("output_dtype", 0) else u8
    if zero_point is not None:
        dtype = zero_point.type.dtype
    if not (dtype.is_integer or dtype in WIDTHS or dtype in FORMATS):
        context.unsupported(f"quantization to {dtype}")
    x = _as_wide_as(context, x, scale)
    return quantize_linear(
        context.builder, x, scale, zero_point, axis=_axis(context, x),
        block=context.integer("block_size", 0), dtype=dtype,
        saturate=bool(context.integer("saturate", 1)),
    )  # fmt: skip


@rule("DequantizeLinear")
def read_dequantize_linear(context: NodeContext) -> Value:
    x, scale = context.input(0), context.input(1)
    x = _as_wide_as(context, x, scale)
    result = dequantize_linear(
        context.builder, x, scale, context.optional(2), axis=_axis(context, x),
        block=context.integer("block_size", 0),
    )  # fmt: skip
    _note_weights(context, result)
    if context.integer("output_dtype", 0):
        return context.cast(result, context.dtype("output_dtype"))
    return result


def _note_weights(context: NodeContext, result: Value) -> None:
    """Remembers what the result is made of, where a product may want it."""
    x, block = context.input(0), context.integer("block_size", 0)
    narrow = x.type.dtype in WIDTHS or x.type.dtype in (i8, u8)
    array, scale, zero = (context.array(place) for place in range(3))
    if not narrow or array is None or scale is None or array.ndim != 2:
        return
    if context.optional(2) is None or zero is not None:
        made = Dequantized(array, scale, zero, _axis(context, x), block)
        context.subgraphs.dequantized[result] = made


@rule("DynamicQuantizeLinear")
def read_dynamic_quantize_linear(context: NodeContext) -> list[Value]:
    return list(dynamic_quantize_linear(context.builder, context.input(0)))


def centered(
    context: NodeContext, x: Value, zero_point: Value | None, axis: int, dtype: DType = i32
) -> Value:
    """Integers minus their zero point: one number, or one for each place along an axis."""
    wide = context.cast(x, dtype)
    if zero_point is None:
        return wide
    zero = _along(context, context.cast(zero_point, dtype), x.type.rank, axis)
    return context.elementwise("sub", wide, zero)


def _along(context: NodeContext, parameter: Value, rank: int, axis: int) -> Value:
    """A scale or zero point, made to broadcast with a tensor of a rank."""
    if parameter.type.numel == 1:
        return context.reshape(parameter, ())
    if parameter.type.rank != 1:
        return parameter
    after = rank - 1 - axis % rank
    return context.reshape(parameter, (*parameter.type.shape, *(1,) * after))


@rule("MatMulInteger")
def read_matmul_integer(context: NodeContext) -> Value:
    left = centered(context, context.input(0), context.optional(2), -2)
    right = centered(context, context.input(1), context.optional(3), -1)
    return product(context, left, right)


@rule("QLinearMatMul")
def read_qlinear_matmul(context: NodeContext) -> Value:
    left = centered(context, context.input(0), context.input(2), -2)
    right = centered(context, context.input(3), context.input(5), -1)
    total = product(context, left, right)
    rank = total.type.rank
    left_scale = _along(context, context.cast(context.input(1), f32), rank, -2)
    right_scale = _along(context, context.cast(context.input(4), f32), rank, -1)
    return _requantized(context, total, left_scale, right_scale)


@rule("ConvInteger")
def read_conv_integer(context: NodeContext) -> Value:
    x = centered(context, context.input(0), context.optional(2), 0)
    weight = centered(context, context.input(1), context.optional(3), 0)
    return convolved(context, x, weight, None)


@rule("QLinearConv")
@rule("QLinearConv", domain="com.microsoft")
def read_qlinear_conv(context: NodeContext) -> Value:
    """onnxruntime's own has an attribute that says where channels are: in x and in the result, but
    not in the weight."""
    b, last = context.builder, bool(context.integer("channels_last", 0))
    x = context.input(0)
    x = centered(context, from_channels_last(b, x) if last else x, context.input(2), 0)
    weight = centered(context, context.input(3), context.input(5), 0)
    total = convolved(context, x, weight, context.optional(8))
    rank = total.type.rank
    weight_scale = _along(context, context.input(4), rank, 1)
    x_scale = context.reshape(context.input(1), ())
    result = _requantized(context, total, x_scale, weight_scale)
    return to_channels_last(b, result) if last else result


def _requantized(
    context: NodeContext, total: Value, left_scale: Value, right_scale: Value
) -> Value:
    """A sum of products of integers, in the scale and zero point of inputs 6 and 7. There is one
    factor, as in onnxruntime, so that ties are rounded as there."""
    rank = total.type.rank
    # The rows of a result may have a scale each.
    axis = max(rank - 2, 0)
    scale = _along(context, context.cast(context.input(6), f32), rank, axis)
    factor = context.elementwise("mul", left_scale, right_scale)
    factor = context.elementwise("div", factor, scale)
    steps = context.elementwise("mul", context.cast(total, f32), factor)
    one = context.builder.constant(np.array(1, np.float32))
    return quantize_linear(context.builder, steps, one, context.input(7), axis=axis)
