"""Computes contractions of 16-bit floats with float32 sums.

    conv(x, w) : f16      becomes      cast(conv(cast(x) : f32, w as f32) : f32) : f16
    conv(x, w) : bf16     becomes      cast(conv(x, w, dtype=f32) : f32) : bf16

The sums in register tiles are float32 anyway, and the casts join the kernels before and after. Some
machines multiply bf16 numbers as they are; for others, `widen_bfloat16` converts them to float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import bf16, f16, f32
from bessemer.compiler.ops.contractions.conv import is_depthwise

CONTRACTIONS = ("matmul", "conv", "conv_transpose")


def widen_half(graph: Graph) -> Graph:
    """The same network with float32 sums."""
    return rewrite_graph(graph, _rule)


def widen_bfloat16(graph: Graph) -> Graph:
    """The same network with float32 operands where they were bf16: the same values."""
    return rewrite_graph(graph, _operands_rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    dtype = node.output.type.dtype if node.operator.name in CONTRACTIONS else f32
    if dtype not in (f16, bf16):
        return None
    name, attributes = node.operator.name, dict(node.attributes)
    operands = list(node.inputs)
    if dtype is f16 or name == "conv_transpose" or is_depthwise(node):
        operands = [_widened(rewriter, value) for value in operands]
    else:
        attributes["dtype"] = f32
    return (rewriter.emit("cast", rewriter.emit(name, *operands, **attributes), dtype=dtype),)


def _operands_rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name not in CONTRACTIONS or node.inputs[0].type.dtype is not bf16:
        return None
    operands = [_widened(rewriter, value) for value in node.inputs]
    attributes = {name: entry for name, entry in node.attributes.items() if name != "dtype"}
    return (rewriter.emit(node.operator.name, *operands, **attributes),)


def _widened(rewriter: GraphRewriter, value: Value) -> Value:
    array = rewriter.constants.get(value)
    if array is not None:
        return rewriter.constant(array.astype(np.float32), value.name)
    return rewriter.emit("cast", value, dtype=f32)
