"""Mixtures of experts: every row goes through the few networks that a router chooses for it.

For each expert there is a branch that runs where a row chose it: it gathers those rows, puts them
through the expert's two products and adds what comes out to the rows' sums, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import product as size_of
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.compiler.ops.composite.composite_reduce import reduce, softmax
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext, Region
from bessemer.frontends.onnx_reader.operators.blocks import product_of_units, spread_units
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"


@dataclass(frozen=True, eq=False)
class _Layer:
    """One of the experts' two products: weights [expert, columns, depth], floats or, if quantized,
    units packed into bytes with scales; `bias` [expert, columns]."""

    weights: Array
    bias: Array | None
    scales: Array | None = None
    zeros: Array | None = None


@rule("MoE", domain=_DOMAIN)
def read_experts(context: NodeContext) -> Value:
    return _mixed(context, [_floats(context, 2), _floats(context, 4)], 6)


@rule("QMoE", domain=_DOMAIN)
def read_quantized_experts(context: NodeContext) -> Value:
    if context.text("quant_type", "int") != "int" or context.integer("weights_prepacked", 0) > 0:
        context.unsupported("weights that are not plain integers")
    return _mixed(context, [_units(context, 2, 11), _units(context, 5, 12)], 8)


def _floats(context: NodeContext, at: int) -> _Layer:
    return _Layer(context.constant_array(at, "weights"), _optional(context, at + 1, "a bias"))


def _units(context: NodeContext, at: int, zeros: int) -> _Layer:
    return _Layer(
        context.constant_array(at, "weights"),
        _optional(context, at + 2, "a bias"),
        context.constant_array(at + 1, "scales"),
        _optional(context, zeros, "zero points"),
    )


def _optional(context: NodeContext, at: int, what: str) -> Array | None:
    return None if context.optional(at) is None else context.constant_array(at, what)


def _mixed(context: NodeContext, layers: list[_Layer], third: int) -> Value:
    if context.optional(third) is not None:
        context.unsupported("a third product")
    if context.integer("use_sparse_mixer", 0):
        context.unsupported("use_sparse_mixer = 1")
    x = context.input(0)
    *front, depth = x.type.shape
    rows = context.cast(context.reshape(x, (size_of(front), depth)), f32)
    shares = _shares(context)
    total = context.full(TensorType(f32, (size_of(front), layers[1].weights.shape[1])), 0.0)
    for expert in range(len(layers[0].weights)):
        share = slice_axis(context.builder, shares, 1, expert, 1)
        total = _with_expert(context, total, rows, share, layers, expert)
    return context.cast(context.reshape(total, x.type.shape), x.type.dtype)


def _shares(context: NodeContext) -> Value:
    """How much of each expert a row gets, [rows, experts]: 0 of those not among its `k` best.

    onnxruntime's QMoE on CPUs makes the sum 1 whatever normalize_routing_weights says; its MoE
    does not.
    """
    b, scores = context.builder, context.cast(context.input(1), f32)
    given = context.optional(14)
    weights = softmax(b, scores, (1,)) if given is None else context.cast(given, f32)
    shares = where(b, _is_best(context, scores, context.integer("k", 1)), weights, 0.0)
    if context.integer("normalize_routing_weights", 0):
        shares = binary(b, "div", shares, reduce(b, "sum", shares, (1,), keep=True))
    return shares


def _with_expert(
    context: NodeContext, total: Value, rows: Value, share: Value, layers: list[_Layer], expert: int
) -> Value:
    """total [rows, width] and what one expert adds to it."""
    is_chosen = binary(context.builder, "ne", share, 0.0)
    regions = [context.subgraphs.new_region(name) for name in ("then", "else")]
    captured = (total, rows, share, is_chosen)
    held = [[_input(region, value) for value in captured] for region in regions]
    inner = replace(context, builder=regions[0].builder)
    graphs = (
        inner.builder.finish([_added(inner, held[0], layers, expert)]),
        regions[1].builder.finish([held[1][0]]),
    )
    any_row = context.apply("reduce_any", is_chosen, axes=(0, 1))
    (result,) = context.builder.apply_many("if", any_row, *captured, regions=graphs)
    return result


def _input(region: Region, value: Value) -> Value:
    return region.builder.input(value.name, value.type)


def _added(
    context: NodeContext, values: Sequence[Value], layers: list[_Layer], expert: int
) -> Value:
    """The branch of a row's expert; `values` are those of `_with_expert`, and who chose it."""
    total, rows, share, is_chosen = values
    b = context.builder
    found = context.apply("nonzero", is_chosen, symbol=b.fresh_symbol("rows_"))
    count = found.type.shape[1]
    places = context.reshape(slice_axis(b, found, 0, 0, 1), (count,))
    taken = context.apply("gather", rows, places, axis=0)
    first, second = layers
    hidden = _activated(context, _product(context, taken, first, expert, 1))
    result = _product(context, hidden, second, expert, 2)
    part = context.apply("gather", share, places, axis=0)
    result = context.elementwise("mul", result, part)
    index = context.reshape(places, (count, 1))
    return context.apply("scatter_nd", total, index, result, reduction="add")


def _product(context: NodeContext, x: Value, layer: _Layer, expert: int, number: int) -> Value:
    """x [rows, depth] times an expert's weights, and its bias."""
    b, weights = context.builder, layer.weights[expert]
    if layer.scales is None:
        result = product(context, x, b.constant(weights.T.astype(np.float32)))
    else:
        bits = context.integer("expert_weight_bits", 4)
        bits = context.integer(f"fc{number}_expert_weight_bits", bits)
        if bits not in (2, 4, 8):
            context.unsupported(f"weights of {bits} bits")
        units = spread_units(weights.astype(np.uint8, copy=False), bits)
        block = context.integer("block_size", 0) or units.shape[1]
        scales = layer.scales[expert].reshape(len(units), -1).astype(np.float32)
        shifts = _shifts(layer.zeros, expert, scales.shape, bits)
        result = product_of_units(context, x, units, scales, shifts, block, bits)
    if layer.bias is None:
        return result
    return context.elementwise("add", result, b.constant(layer.bias[expert].astype(np.float32)))


def _shifts(zeros: Array | None, expert: int, shape: tuple[int, ...], bits: int) -> Array | None:
    """What is added to an expert's units above their middle, for every column and block."""
    if zeros is None:
        return None
    columns, blocks = shape
    given = zeros[expert].astype(np.uint8, copy=False)
    units = spread_units(given.reshape(columns, -1) if given.ndim == 2 else given, bits)
    units = units.reshape(columns, -1)[:, :blocks] if given.ndim == 2 else units[:columns, None]
    return ((1 << (bits - 1)) - units.astype(np.int16)).astype(np.int8 if bits < 8 else np.float32)


def _activated(context: NodeContext, x: Value) -> Value:
    """What is done between the two products."""
    b = context.builder
    match context.text("activation_type", "relu"):
        case "relu":
            return context.apply("relu", x)
        case "silu":
            return activation.silu(b, x)
        case "gelu":
            return activation.gelu(b, x, tanh=True)
        case "identity":
            return x
        case "swiglu" if context.integer("swiglu_fusion", 0) in (1, 2):
            return _gated(context, x)
        case name:
            context.unsupported(f"activation_type = {name}")


def _gated(context: NodeContext, x: Value) -> Value:
    """SwiGLU: gates and what goes through them are interleaved or stand one behind the other."""
    b, (rows, width) = context.builder, x.type.shape
    assert isinstance(width, int)
    half, limit = width // 2, context.number("swiglu_limit", math.inf)
    interleaved = context.integer("swiglu_fusion", 0) == 1
    pairs = context.reshape(x, (rows, half, 2) if interleaved else (rows, 2, half))
    gate, linear = (
        context.reshape(slice_axis(b, pairs, 2 if interleaved else 1, at, 1), (rows, half))
        for at in range(2)
    )
    if limit < math.inf:
        gate = binary(b, "min", gate, limit)
        linear = context.apply("clip", linear, minimum=-limit, maximum=limit)
    gate = activation.silu(b, gate, context.number("activation_alpha", 1.0))
    return b.apply("mul", gate, binary(b, "add", linear, context.number("activation_beta", 0.0)))


@rule("MoEGroupRouter", domain=_DOMAIN)
def read_group_router(context: NodeContext) -> Value:
    """Logarithms [rows, experts] of the chosen experts' scores: of the best groups of experts the
    best; a group is as good as the sum of its best few."""
    if len(context.node.output) > 1 or context.optional(2) is not None:
        context.unsupported("scores and weights of all experts")
    b, logits = context.builder, context.cast(context.input(0), f32)
    *front, experts = logits.type.shape
    rows, groups = size_of(front), context.integer("n_group", 1)
    size = dims.divide_exactly(experts, groups)
    if size is None:
        context.wrong(f"{experts} experts are not {groups} groups")
    scores = context.apply("sigmoid", context.reshape(logits, (rows, experts)))
    ranked = context.elementwise("add", scores, context.input(1))
    grouped = context.reshape(ranked, (rows, groups, size))
    count = min(context.integer("group_topk", 2), dims.number(size))
    best, _ = b.apply_many("top_k", grouped, k=count, axis=2, largest=True)
    is_open = _is_best(context, reduce(b, "sum", best, (2,)), context.integer("topk_group", 1))
    is_open = context.reshape(is_open, (rows, groups, 1))
    held = where(b, is_open, grouped, -math.inf)
    is_chosen = _is_best(context, context.reshape(held, (rows, experts)), context.integer("top_k"))
    logarithm = context.apply("log", binary(b, "max", scores, 1e-20))
    routed = where(b, is_chosen, logarithm, context.number("router_sentinel", -10000.0))
    return context.cast(routed, context.input(0).type.dtype)


def _is_best(context: NodeContext, scores: Value, count: int) -> Value:
    """Whether a score [rows, n] is among the `count` best of its row."""
    b, (rows, size) = context.builder, scores.type.shape
    _, chosen = b.apply_many("top_k", scores, k=count, axis=1, largest=True)
    places = context.apply("iota", shape=(1, 1, size), axis=2, dtype=i64)
    is_one = binary(b, "eq", context.reshape(chosen, (rows, count, 1)), places)
    return b.apply("reduce_any", is_one, axes=(1,))
