"""Computes at compile time what depends on constants only.

    %2 = sqrt(const)                                     becomes    const'
    %3 = add(broadcast_to(const), full(1e-5))            becomes    broadcast_to(const')
    %4 = slice(sizes((batch, 3, 224, 224)), 2, 1)        becomes    const: [224]

Pointwise arithmetic is done before broadcasting, whatever the (symbolic) shape is. Constants do not
grow: a result with over 64 KiB more than its inputs stays a node, and quantized weights stay
integers. Weights of 16 bits that a file widens to float32 do grow, or every run would convert them
all (keep_narrow_weights narrows those again that 16 bits serve better); tables do not, of which a
run reads some rows. Transposed and reshaped weights are views; each is copied once, among the
weights.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial

import numpy as np

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import Attributes
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, bf16, f16, f32
from bessemer.compiler.passes.known_values import known, spread
from bessemer.compiler.passes.pointwise import is_pointwise

GROWTH_LIMIT = 64 * 1024
"""Bytes that folding one node may add."""
VIEWS = ("transpose", "reshape")
KEPT = ("full", "iota", "broadcast_to")
"""Already cheaper than the array that they stand for."""


def fold_constants(graph: Graph) -> Graph:
    """The graph, with the nodes evaluated whose inputs are all known."""
    return rewrite_graph(graph, partial(_fold, _tables(graph)))


def _tables(graph: Graph) -> Set[Value]:
    """What gathers read."""
    return {node.inputs[0] for node in graph.walk() if node.operator.name == "gather"}


def _fold(tables: Set[Value], rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    operator = node.operator
    if node.regions or operator.is_random or operator.name in KEPT or not node.outputs:
        return None
    if node.has_symbols:
        return None
    if operator.name == "slice" and (sizes := rewriter.producer(node.inputs[0], "sizes")):
        return _fold_sizes(rewriter, node, sizes)
    arrays = [known(rewriter, value) for value in node.inputs]
    found = [array for array in arrays if array is not None]
    if len(found) != len(arrays) or _is_dequantization(node, found):
        return None
    if is_pointwise(operator):
        may_grow = _is_widening(node) and node.output not in tables
        return _fold_pointwise(rewriter, node, found, may_grow)
    if not all(value.type.is_static for value in (*node.inputs, *node.outputs)):
        return None
    if operator.name not in VIEWS and _grows(node, found):
        return None
    results = _compute(node, [_full_shape(a, v) for a, v in zip(found, node.inputs)])
    return None if results is None else [rewriter.constant(array) for array in results]


def _fold_sizes(rewriter: GraphRewriter, node: Node, sizes: Node) -> Sequence[Value] | None:
    """Those of an array's sizes that are numbers, though others are symbols."""
    (start,), (step,) = node.attributes["starts"], node.attributes["steps"]
    (count,) = node.output.type.static_shape
    taken = [sizes.attributes["sizes"][start + step * place] for place in range(count)]
    if not all(isinstance(size, int) for size in taken):
        return None
    return [rewriter.constant(np.array(taken, np.int64))]


def _fold_pointwise(
    rewriter: GraphRewriter, node: Node, arrays: list[Array], may_grow: bool
) -> Sequence[Value] | None:
    """Computes in the smallest shape, without the axes that broadcasting added."""
    small = np.broadcast_shapes(*(array.shape for array in arrays))
    size = int(np.prod(small)) * node.output.type.dtype.bytes
    if not may_grow and size - sum(array.nbytes for array in arrays) > GROWTH_LIMIT:
        return None
    results = _compute(node, [np.broadcast_to(array, small) for array in arrays])
    return None if results is None else [spread(rewriter, results[0], node.output.type)]


def _full_shape(array: Array, value: Value) -> Array:
    return np.broadcast_to(array, value.type.static_shape)


def _compute(node: Node, arrays: list[Array]) -> tuple[Array, ...] | None:
    attributes: Attributes = node.attributes
    try:
        with np.errstate(all="ignore"):
            results = node.operator.compute(arrays, attributes)
    except (CompileError, InternalError, ArithmeticError, IndexError, TypeError, ValueError):
        return None  # what is wrong with it is said when it runs, if it ever does
    return tuple(np.asarray(result) for result in results)


def _grows(node: Node, arrays: list[Array]) -> bool:
    made = sum(
        int(np.prod(value.type.static_shape, dtype=np.int64)) * value.type.dtype.bytes
        for value in node.outputs
    )
    return made - sum(array.nbytes for array in arrays) > GROWTH_LIMIT


def _is_widening(node: Node) -> bool:
    """Whether a cast turns floats of 16 bits into float32."""
    if node.operator.name != "cast" or node.output.type.dtype is not f32:
        return False
    return node.inputs[0].type.dtype in (f16, bf16)


def _is_dequantization(node: Node, arrays: list[Array]) -> bool:
    """Whether a cast turns a matrix of 8-bit weights (not a vector of zero points) into floats."""
    if node.operator.name != "cast":
        return False
    (array,) = arrays
    narrow = array.dtype.kind in "iu" and array.dtype.itemsize == 1
    is_vector = sum(size > 1 for size in array.shape) <= 1
    return narrow and not is_vector and bool(node.attributes["dtype"].is_float)
