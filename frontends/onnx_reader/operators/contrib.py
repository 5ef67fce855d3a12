"""Operators of com.microsoft that onnxruntime's tools write: fused products and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, i32
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.ops.composite.composite import cast
from bessemer.compiler.ops.composite.composite_quantize import dequantize_linear
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_trailing_sizes
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.convolution import convolved
from bessemer.frontends.onnx_reader.operators.detection import read_grid_sample
from bessemer.frontends.onnx_reader.operators.index import indices_at, read_gather_nd
from bessemer.frontends.onnx_reader.operators.matmul import product, read_gemm, scaled, swapped
from bessemer.frontends.onnx_reader.operators.shape import read_range, read_trilu
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"

rule("GridSample", domain=_DOMAIN)(read_grid_sample)
rule("Trilu", domain=_DOMAIN)(read_trilu)
rule("Range", domain=_DOMAIN)(read_range)
rule("GatherND", domain=_DOMAIN)(read_gather_nd)


def _activated(context: NodeContext, x: Value) -> Value:
    """The activation that a fused operator ends with."""
    b, name = context.builder, context.text("activation", "")
    given = context.numbers("activation_params", ()) or tuple(
        context.number(each)
        for each in ("activation_alpha", "activation_beta", "activation_gamma")
        if context.has(each)
    )
    match name:
        case "":
            return x
        case "Relu" | "Tanh" | "Sigmoid":
            return context.apply(name.lower(), x)
        case "LeakyRelu":
            return context.apply("leaky_relu", x, slope=given[0] if given else 0.01)
        case "Clip" if len(given) == 2:
            return context.apply("clip", x, minimum=given[0], maximum=given[1])
        case "HardSigmoid" if len(given) == 2:
            return activation.hard_sigmoid(b, x, *given)
        case "Selu" if len(given) == 2:
            return activation.selu(b, x, *given)
        case "Elu" if len(given) == 1:
            return activation.elu(b, x, *given)
        case "ThresholdedRelu" if len(given) == 1:
            return activation.thresholded_relu(b, x, *given)
        case "HardSwish":
            return activation.hard_swish(b, x)
        case "Softplus":
            return activation.softplus(b, x)
        case "Softsign":
            return activation.softsign(b, x)
        case _:
            context.unsupported(f"activation = {name}")


@rule("FusedConv", domain=_DOMAIN)
def read_fused_conv(context: NodeContext) -> Value:
    result = convolved(context, context.input(0), context.input(1), context.optional(2))
    added = context.optional(3)
    if added is not None:
        result = context.elementwise("add", result, added)
    return _activated(context, result)


@rule("FusedGemm", domain=_DOMAIN)
def read_fused_gemm(context: NodeContext) -> Value:
    return _activated(context, read_gemm(context))


@rule("FusedMatMul", "TransposeMatMul", domain=_DOMAIN)
def read_fused_matmul(context: NodeContext) -> Value:
    sides = []
    for position, letter in enumerate("AB"):
        value = context.input(position)
        rank = value.type.rank
        if context.integer(f"transBatch{letter}", 0) and rank > 2:
            value = context.transpose(value, (*range(1, rank - 1), 0, rank - 1))
        is_transposed = context.integer(f"trans{letter}", 0) and rank > 1
        sides.append(swapped(context, value) if is_transposed else value)
    return scaled(context, product(context, *sides), context.number("alpha", 1.0))


@rule("MatMulInteger16", domain=_DOMAIN)
def read_matmul_integer16(context: NodeContext) -> Value:
    sides = [context.cast(context.input(position), i32) for position in range(2)]
    return product(context, *sides)


@rule("UnfoldTensor", domain=_DOMAIN)
def read_unfold_tensor(context: NodeContext) -> Value:
    """Windows along an axis, whose elements become the last axis."""
    x = context.input(0)
    rank = x.type.rank
    axis = context.axis(rank, context.integer("dim", -1), "dim")
    size, step = context.integer("size"), context.integer("step", 1)
    count = dims.floordiv(x.type.shape[axis] - size, step) + 1
    seen = context.apply("windows", x, axis=axis, start=0, sizes=(count, size), steps=(step, 1))
    order = (*range(axis + 1), *range(axis + 2, rank + 1), axis + 1)
    return context.transpose(seen, order)


@rule("CDist", domain=_DOMAIN)
def read_distances(context: NodeContext) -> Value:
    """Distances of all rows from all others; as |a|^2 - 2 a b + |b|^2, like onnxruntime's."""
    b, left, right = context.builder, context.input(0), context.input(1)
    lengths = [
        composite_reduce.reduce(b, "sum", context.apply("mul", x, x), (1,), keep=True)
        for x in (left, right)
    ]
    crossed = product(context, left, context.transpose(right, (1, 0)))
    ends = context.elementwise("add", lengths[0], context.transpose(lengths[1], (1, 0)))
    squares = context.apply("sub", ends, scaled(context, crossed, 2.0))
    squares = context.apply("max", squares, context.like(squares, 0.0))
    metric = context.text("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        context.unsupported(f"metric = {metric}")
    return squares if metric == "sqeuclidean" else context.apply("sqrt", squares)


@rule("Gelu", domain=_DOMAIN)
def read_gelu(context: NodeContext) -> Value:
    return activation.gelu(context.builder, context.input(0))


@rule("BiasGelu", "FastGelu", domain=_DOMAIN)
def read_bias_gelu(context: NodeContext) -> Value:
    x, bias = context.input(0), context.optional(1)
    if bias is not None:
        x = context.elementwise("add", x, bias)
    return activation.gelu(context.builder, x, tanh=context.node.op_type == "FastGelu")


@rule("QuickGelu", domain=_DOMAIN)
def read_quick_gelu(context: NodeContext) -> Value:
    return activation.silu(context.builder, context.input(0), context.number("alpha", 1.702))


@rule("SkipLayerNormalization", domain=_DOMAIN)
def read_skip_layer_norm(context: NodeContext) -> list[Item]:
    """Layer normalization of a sum, which is an output, too."""
    x = context.elementwise("add", context.input(0), context.input(1))
    bias = context.optional(4)
    if bias is not None:
        x = context.elementwise("add", x, bias)
    x = with_trailing_sizes(context.builder, x, context.input(2).type.shape)
    normal, center, inverse = normalize.standardize(
        context.builder, x, (x.type.rank - 1,), context.number("epsilon", 1e-12)
    )
    result = normalize.scale_and_shift(
        context.builder, normal, context.input(2), context.optional(3)
    )
    return [cast(context.builder, result, x.type.dtype), center, inverse, x]


@rule("SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def read_skip_rms_norm(context: NodeContext) -> list[Item]:
    x = context.elementwise("add", context.input(0), context.input(1))
    bias = context.optional(3)
    if bias is not None:
        x = context.elementwise("add", x, bias)
    x = with_trailing_sizes(context.builder, x, context.input(2).type.shape)
    epsilon = context.number("epsilon", 1e-12)
    axes = (x.type.rank - 1,)
    result = normalize.rms_norm(context.builder, x, context.input(2), axes, epsilon)
    return [result, None, None, x]


@rule("EmbedLayerNormalization", domain=_DOMAIN)
def read_embed_layer_norm(context: NodeContext) -> list[Item]:
    """Layer normalization of the sum of word, position and segment embeddings."""
    gathered = _gathered(context, context.optional(8))
    total = _sum(context, gathered)
    gamma, beta = context.input(5), context.input(6)
    result = _normalized_rows(context, total, gamma, beta)
    return [result, _lengths(context), total]


@rule("QEmbedLayerNormalization", domain=_DOMAIN)
def read_quantized_embed_layer_norm(context: NodeContext) -> list[Item]:
    """The same from tables of bytes; each has a scale and a zero point."""
    b = context.builder
    gathered = [
        dequantize_linear(b, rows, context.input(8 + table), context.input(13 + table))
        for table, rows in enumerate(_gathered(context, None))
    ]
    gamma, beta = (
        dequantize_linear(b, context.input(at), context.input(at + 6), context.input(at + 11))
        for at in (5, 6)
    )
    result = _normalized_rows(context, _sum(context, gathered), gamma, beta)
    return [result, _lengths(context)]


def _gathered(context: NodeContext, places: Value | None) -> list[Value]:
    """The rows of the tables of words, positions and, if there are any, segments."""
    ids = indices_at(context, 0)
    if places is None:
        order = context.apply("iota", shape=ids.type.shape[1:], axis=0, dtype=i32)
    else:
        order = indices_at(context, 8)
    pairs = [(context.input(2), ids), (context.input(3), order)]
    if context.optional(1) is not None and context.optional(4) is not None:
        pairs.append((context.input(4), indices_at(context, 1)))
    return [context.apply("gather", table, at, axis=0) for table, at in pairs]


def _sum(context: NodeContext, parts: Sequence[Value]) -> Value:
    return reduce(lambda left, right: context.elementwise("add", left, right), parts)


def _normalized_rows(context: NodeContext, x: Value, gamma: Value, beta: Value) -> Value:
    epsilon = context.number("epsilon", 1e-12)
    return normalize.layer_norm(context.builder, x, gamma, beta, (2,), epsilon)


def _lengths(context: NodeContext) -> Value:
    """How many places of each row the mask keeps; 0 without a mask."""
    mask = context.optional(7)
    if mask is None:
        return context.full(TensorType(i32, context.input(0).type.shape[:1]), 0)
    return composite_reduce.reduce(context.builder, "sum", context.cast(mask, i32), (1,))
