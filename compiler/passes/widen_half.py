"""Computes contractions of 16-bit floats in float32, which is how they accumulate anyway.

    conv(x, w) : f16      becomes      cast(conv(cast(x) : f32, w as f32) : f32) : f16

Register tiles hold float32 sums; the casts join the kernels before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import bf16, f16, f32

CONTRACTIONS = ("matmul", "conv", "conv_transpose")


def widen_half(graph: Graph) -> Graph:
    """The same network with float32 contractions."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name not in CONTRACTIONS or node.output.type.dtype not in (f16, bf16):
        return None
    operands = [_widened(rewriter, value) for value in node.inputs]
    wide = rewriter.emit(node.operator.name, *operands, **node.attributes)
    return (rewriter.emit("cast", wide, dtype=node.output.type.dtype),)


def _widened(rewriter: GraphRewriter, value: Value) -> Value:
    array = rewriter.constants.get(value)
    if array is not None:
        return rewriter.constant(array.astype(np.float32), value.name)
    return rewriter.emit("cast", value, dtype=f32)
