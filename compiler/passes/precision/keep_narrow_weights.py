"""Keeps weights in 16 bits that have no digits beyond.

    matmul(x, w) : f32     becomes     matmul(x, w as f16 or bf16, dtype=f32) : f32

Files of float16 numbers have such weights, and so have many of float32 numbers, as the checkpoints
of language models are bfloat16. No result changes: the numbers become float32 again where they are
multiplied. Products of few rows take the time of reading their weights, which is half as long; in
those of many, conversions are few beside multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, DType, bf16, f16, f32

_MANY_ROWS = 64
"""From so many rows on nothing is gained, and processors whose conversions wait for their units of
multiplication would lose."""
_LEAST_BYTES = 1 << 16
"""Smaller weights are in a cache near by."""
_FEW = 1 << 10
"""So many numbers tell whether it is worth looking at all of them."""


def keep_narrow_weights(graph: Graph) -> Graph:
    """The same network with weights of 16 bits where they are as exact."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "matmul" or node.output.type.dtype is not f32:
        return None
    x, weights = node.inputs
    array, rows = rewriter.constants.get(weights), dims.product(x.type.shape[:-1])
    if array is None or array.nbytes < _LEAST_BYTES or array.dtype != np.float32:
        return None
    if isinstance(rows, int) and rows > _MANY_ROWS:
        return None
    for dtype in (bf16, f16):
        if _holds(dtype, array.ravel()[:_FEW]) and _holds(dtype, array):
            narrow = rewriter.constant(array.astype(dtype.numpy), weights.name)
            return (rewriter.emit("matmul", x, narrow, dtype=f32),)
    return None


def _holds(dtype: DType, array: Array) -> bool:
    """Whether each of these numbers is one of that type."""
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(dtype.numpy).astype(np.float32), array)
