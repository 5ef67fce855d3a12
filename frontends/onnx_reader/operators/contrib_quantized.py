"""Quantized operators of com.microsoft."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, dtype_of, f32, u8
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.ops.composite.composite_quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    quantize_linear,
)
from bessemer.compiler.ops.composite.composite_shape import (
    from_channels_last,
    slice_axis,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.model_state import Dequantized
from bessemer.frontends.onnx_reader.operators.blocks import dequantized_rows, spread_units
from bessemer.frontends.onnx_reader.operators.index import indices_at
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.operators.move import concatenated
from bessemer.frontends.onnx_reader.operators.pooling import averaged
from bessemer.frontends.onnx_reader.operators.quantize import (
    centered,
    read_dequantize_linear,
    read_quantize_linear,
)
from bessemer.frontends.onnx_reader.operators.recurrent import recurrent
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.windows import read_window

_DOMAIN = "com.microsoft"

rule("QuantizeLinear", domain=_DOMAIN)(read_quantize_linear)
rule("DequantizeLinear", domain=_DOMAIN)(read_dequantize_linear)


def _real(context: NodeContext, first: int) -> Value:
    """Three inputs, quantized tensor, scale and zero point, as floats."""
    zero_point = context.optional(first + 2)
    return dequantize_linear(
        context.builder, context.input(first), context.input(first + 1), zero_point
    )


def _quantized(context: NodeContext, x: Value, first: int, like: int = 0) -> Value:
    """Floats under the scale and zero point that two inputs give, of another input's type."""
    zero_point = context.optional(first + 1)
    dtype = context.input(like).type.dtype
    return quantize_linear(context.builder, x, context.input(first), zero_point, dtype=dtype)


@rule("QLinearAdd", "QLinearMul", domain=_DOMAIN)
def read_qlinear_binary(context: NodeContext) -> Value:
    operator = "add" if context.node.op_type == "QLinearAdd" else "mul"
    real = context.elementwise(operator, _real(context, 0), _real(context, 3))
    return _quantized(context, real, 6)


@rule("QLinearWhere", domain=_DOMAIN)
def read_qlinear_where(context: NodeContext) -> Value:
    real = context.elementwise("select", context.input(0), _real(context, 1), _real(context, 4))
    return _quantized(context, real, 7, like=1)


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=_DOMAIN)
def read_qlinear_activation(context: NodeContext) -> Value:
    real = _real(context, 0)
    if context.node.op_type == "QLinearSigmoid":
        real = context.apply("sigmoid", real)
    else:
        real = context.apply("leaky_relu", real, slope=context.number("alpha", 0.01))
    return _quantized(context, real, 3)


@rule("QLinearSoftmax", domain=_DOMAIN)
def read_qlinear_softmax(context: NodeContext) -> Value:
    real = _real(context, 0)
    axis = context.axis(real.type.rank, context.integer("axis", -1))
    # Before operator set 13 a softmax was one over all axes from this one on.
    last = real.type.rank if context.integer("opset", 13) < 13 else axis + 1
    shares = composite_reduce.softmax(context.builder, real, tuple(range(axis, last)))
    return _quantized(context, shares, 3)


@rule("QGemm", domain=_DOMAIN)
def read_q_gemm(context: NodeContext) -> Value:
    """A product of integers, as floats where no scale is given for the result."""
    left = _transposed(context, centered(context, context.input(0), context.input(2), -2), "transA")
    columns = -2 if context.integer("transB", 0) else -1
    right = centered(context, context.input(3), context.input(5), columns)
    total = product(context, left, _transposed(context, right, "transB"))
    if context.optional(6) is not None:
        total = context.elementwise("add", total, context.input(6))
    scale = context.elementwise(
        "mul", _scalar(context, context.input(1)), _scalar(context, context.input(4))
    )
    real = context.elementwise("mul", context.cast(total, f32), scale)
    alpha = context.number("alpha", 1.0)
    if alpha != 1:
        real = context.apply("mul", real, context.like(real, alpha))
    return real if context.optional(7) is None else _quantized(context, real, 7)


def _transposed(context: NodeContext, x: Value, attribute: str) -> Value:
    return context.transpose(x, (1, 0)) if context.integer(attribute, 0) else x


@rule("QLinearGlobalAveragePool", domain=_DOMAIN)
def read_qlinear_global_average_pool(context: NodeContext) -> Value:
    b = context.builder
    real = _real(context, 0)
    last = bool(context.integer("channels_last", 0))
    pooled = composite_reduce.global_average_pool(b, real if last else to_channels_last(b, real))
    return _quantized(context, pooled if last else from_channels_last(b, pooled), 3)


@rule("QLinearAveragePool", domain=_DOMAIN)
def read_qlinear_average_pool(context: NodeContext) -> Value:
    b = context.builder
    last = bool(context.integer("channels_last", 0))
    x = _real(context, 0) if last else to_channels_last(b, _real(context, 0))
    window = read_window(context, x.type.shape[1:-1], context.integers("kernel_shape"))
    pooled = averaged(context, x, window)
    return _quantized(context, pooled if last else from_channels_last(b, pooled), 3)


@rule("QLinearConcat", domain=_DOMAIN)
def read_qlinear_concat(context: NodeContext) -> Value:
    parts = [_real(context, first) for first in range(2, len(context), 3)]
    axis = context.axis(parts[0].type.rank)
    real = concatenated(context, parts, axis)
    zero_point, dtype = context.optional(1), context.input(2).type.dtype
    return quantize_linear(context.builder, real, context.input(0), zero_point, dtype=dtype)


@rule("NhwcMaxPool", domain=_DOMAIN)
def read_nhwc_max_pool(context: NodeContext) -> Value:
    x = context.input(0)
    window = read_window(context, x.type.shape[1:-1], context.integers("kernel_shape"))
    return context.apply("max_pool", x, **window.attributes)


def scaled_product(
    context: NodeContext, left: Value, right: Value, scales: tuple[Value, Value], bias: Value | None
) -> Value:
    """A product of integers as floats; a scale is one number, or one for each column."""
    total = context.cast(product(context, left, right), f32)
    scale = context.elementwise("mul", *(_scalar(context, value) for value in scales))
    real = context.elementwise("mul", total, scale)
    return real if bias is None else context.elementwise("add", real, bias)


def _scalar(context: NodeContext, value: Value) -> Value:
    """A vector of one as a scalar, so that it adds no axis."""
    return context.reshape(value, ()) if value.type.numel == 1 else value


@rule("MatMulIntegerToFloat", domain=_DOMAIN)
def read_matmul_integer_to_float(context: NodeContext) -> Value:
    left = centered(context, context.input(0), context.optional(4), -2)
    right = centered(context, context.input(1), context.optional(5), -1)
    scales = (context.input(2), context.input(3))
    return scaled_product(context, left, right, scales, context.optional(6))


@rule("DynamicQuantizeMatMul", domain=_DOMAIN)
def read_dynamic_quantize_matmul(context: NodeContext) -> Value:
    quantized, scale, zero_point = dynamic_quantize_linear(context.builder, context.input(0))
    left = centered(context, quantized, zero_point, -2)
    right = centered(context, context.input(1), context.optional(3), -1)
    return scaled_product(context, left, right, (scale, context.input(2)), context.optional(4))


@rule("DynamicQuantizeLSTM", domain=_DOMAIN)
def read_dynamic_quantize_lstm(context: NodeContext) -> list[Value]:
    """The products are of integers, as in onnxruntime: the input is rounded to 8 bits once, the
    state in every step. It stays float if there are lengths or peepholes, or unknown weights."""
    return recurrent(context, "lstm", _quantized_products)


def _quantized_products(context: NodeContext, number: int, x: Value) -> tuple[Value, ...]:
    weight, scale, zero_point = _direction(context, (1, 8, 9), number)
    quantized, x_scale, x_zero = dynamic_quantize_linear(context.builder, x)
    left = centered(context, quantized, x_zero, -2)
    right = centered(context, weight, zero_point, -1)
    gates_x = scaled_product(context, left, right, (x_scale, scale), None)
    known = _known_bytes(context, number)
    if known is not None:
        return gates_x, *(context.builder.constant(array) for array in known)
    across = _direction(context, (2, 10, 11), number)
    return gates_x, dequantize_linear(context.builder, *across, axis=1)


def _known_bytes(context: NodeContext, number: int) -> tuple[Array, Array] | None:
    """A direction's recurrent weights without zero points as i8, and a scale for each column."""
    arrays = [context.array(position) for position in (2, 10, 11)]
    if context.optional(4) is not None or context.optional(7) is not None:
        return None
    found = [array[number] for array in arrays if array is not None]
    if len(found) != len(arrays) or found[0].ndim != 2:
        return None
    weights, scales, zero_points = found
    centred = weights.astype(np.int16) - zero_points.astype(np.int16)
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return None
    columns = np.broadcast_to(scales.astype(np.float32).reshape(-1), centred.shape[1:])
    return centred.astype(np.int8), np.ascontiguousarray(columns)


def _direction(
    context: NodeContext, positions: tuple[int, int, int], number: int
) -> tuple[Value, Value, Value]:
    """One direction's weights, scale and zero point (one for all, or one for each column)."""
    weight, scale, zero_point = (_part(context, position, number) for position in positions)
    return weight, scale, zero_point


def _part(context: NodeContext, position: int, number: int) -> Value:
    value = context.input(position)
    one = slice_axis(context.builder, value, 0, number, 1)
    return context.reshape(one, value.type.shape[1:])


@rule("GatherBlockQuantized", domain=_DOMAIN)
def read_gather_block_quantized(context: NodeContext) -> Value:
    data = context.constant_array(0, "data")
    axes = context.integer("gather_axis", 0), context.integer("quantize_axis", 1)
    if data.ndim != 2 or axes != (0, 1):
        context.unsupported(f"data of {data.ndim} axes, gathered and quantized along {axes}")
    scale = context.constant_array(2, "scales")
    zero = None if context.optional(3) is None else context.constant_array(3, "zero points")
    if dtype_of(data) is u8:
        bits = context.integer("bits", 4)
        if bits not in (2, 4, 8):
            context.unsupported(f"data of {bits} bits")
        data = spread_units(data, bits)
        middle = np.full((1, 1), 1 << (bits - 1), np.uint8)
        zero = np.broadcast_to(middle, scale.shape) if zero is None else spread_units(zero, bits)
        zero = zero[:, : scale.shape[1]]
    made = Dequantized(data, scale, zero, 1, context.integer("block_size", 128))
    return dequantized_rows(context, made, indices_at(context, 1))
