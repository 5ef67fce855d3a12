"""Quantizes sums of integers with a single factor, as onnxruntime does.

    %1 = cast(sum) : f32                                    sum: i32, or whole numbers as f32
    %2 = add(mul(%1, scales), biases)          becomes      %1 = cast(add(sum, biases')) : f32
    %3 = round(div(%2, scale))                              %3 = round(mul(%1, scales / scale))

This replaces a multiplication, an addition and a division by one multiplication. If the model's
biases are integers, as quantizers write them, they are added as integers, which is exact. Sums on a
tie, or next to one, are then rounded as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, f32, i8, i32, u8
from bessemer.compiler.passes.known_values import known, spread, uniform

_Users = Mapping[Value, Sequence[Node]]


def quantize_sums(graph: Graph) -> Graph:
    """The same network with such steps."""
    return rewrite_graph(graph, partial(_rule, graph.users()))


def _rule(users: _Users, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "round" or node.output.type.dtype is not f32:
        return None
    divided = _only_read_here(users, rewriter, node.inputs[0], "div")
    scale = uniform(rewriter, divided.inputs[1]) if divided else None
    if divided is None or scale is None or scale <= 0:
        return None
    value = divided.inputs[0]
    relu = _only_read_here(users, rewriter, value, "relu")
    value = relu.inputs[0] if relu else value
    biased = _only_read_here(users, rewriter, value, "add")
    biases = known(rewriter, biased.inputs[1]) if biased else None
    if biased is not None and biases is not None:
        value = biased.inputs[0]
    product = _only_read_here(users, rewriter, value, "mul")
    scales = known(rewriter, product.inputs[1]) if product else None
    if product is None or scales is None or not (scales > 0).all():
        return None
    total = _with_biases(rewriter, product.inputs[0], scales, biases)
    factors = scales / np.float32(scale)
    if total is None or not (np.isfinite(factors) & (factors > 0)).all():
        return None
    steps = rewriter.emit("mul", total, spread(rewriter, factors, total.type))
    return (rewriter.emit("round", rewriter.emit("relu", steps) if relu else steps),)


def _only_read_here(
    users: _Users, rewriter: GraphRewriter, value: Value, operator: str
) -> Node | None:
    """The node with this operator that computes a value, if nothing else reads the value."""
    return rewriter.producer(value, operator) if len(users.get(value, ())) <= 1 else None


def _with_biases(
    rewriter: GraphRewriter, total: Value, scales: Array, biases: Array | None
) -> Value | None:
    """A sum of integers, as f32, with the biases added in units of its scales. None if it is not a
    sum of integers, or the biases are not integers in these units."""
    node = rewriter.producer(total)
    if node is None:
        return None
    is_cast = node.operator.name == "cast" and node.inputs[0].type.dtype is i32
    if not is_cast and not _has_whole_weights(rewriter, node):
        return None
    if biases is None:
        return total
    steps = np.rint(biases / scales)
    if not (np.abs(steps) < 1 << 30).all() or not np.array_equal(steps * scales, biases):
        return None
    if not is_cast:
        return rewriter.emit("add", total, spread(rewriter, steps, total.type))
    most = _most(rewriter, node.inputs[0])
    if most is None or most + int(np.abs(steps).max(initial=0)) > np.iinfo(np.int32).max:
        return None
    whole, more = node.inputs[0], steps.astype(np.int32)
    corrected = rewriter.producer(whole, "add")
    known_before = known(rewriter, corrected.inputs[1]) if corrected else None
    if corrected is not None and known_before is not None:
        whole, more = corrected.inputs[0], more + known_before
    moved = rewriter.emit("add", whole, spread(rewriter, more, whole.type))
    return rewriter.emit("cast", moved, dtype=f32)


def _most(rewriter: GraphRewriter, value: Value) -> int | None:
    """A bound for the size of a sum of products of bytes, corrected by known numbers. None for
    other integers, which may have any size."""
    node = rewriter.producer(value)
    if node is None:
        return None
    if node.operator.name in ("add", "sub"):
        array, most = known(rewriter, node.inputs[1]), _most(rewriter, node.inputs[0])
        if array is None or most is None:
            return None
        return most + int(np.abs(array.astype(np.int64)).max(initial=0))
    if node.operator.name in ("transpose", "reshape"):
        return _most(rewriter, node.inputs[0])
    if node.operator.name not in ("matmul", "conv"):
        return None
    x, w = (operand.type for operand in node.inputs)
    depth = w.shape[-2] if node.operator.name == "matmul" else dims.product(w.shape[:-1])
    if not isinstance(depth, int) or not {x.dtype, w.dtype} <= {u8, i8}:
        return None
    return 255 * 255 * depth


def _has_whole_weights(rewriter: GraphRewriter, node: Node) -> bool:
    """Whether a convolution of f32 has weights that are integers, as quantized ones are."""
    if node.operator.name != "conv":
        return False
    weights = rewriter.constants.get(node.inputs[1])
    return weights is not None and bool((weights == np.rint(weights)).all())
