"""Constant folding of tables: of gathers from constants at constant indices, and of sums of
constants.

    %1 = iota() ... %5 = sub(%3, %4) : i64[196,196,2]      places, from nothing but numbers
    %6 = scatter_nd(%5, ...)
    %7 = gather(const : f32[732,3], %6) : f32[197,197,3]         becomes    const'

fold_constants does not fold nodes whose results are larger than their inputs, because each result
would be stored. Here a whole chain of nodes is computed, and only its end is stored: the biases for
pairs of positions in networks for images, or the kernels of a state-space model, which are sums of
exponentials. This is done only if the chain looks something up or adds something up (arithmetic
alone is as cheap as reading its result), and if the model does not grow by much.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import Array

LOOK_UPS = frozenset(
    {"gather", "gather_nd", "gather_elements", "scatter_nd", "scatter_elements", "resize"}
)
SUMS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "cumulative", "matmul"})
"""Operators whose result is smaller than their input, or that read their input many times."""
LEAST_GROWTH = 1 << 20
"""Bytes by which any model may grow; a large one may grow by an eighth."""
MOST_BYTES = 1 << 26
"""The size limit of each value in a chain."""


def fold_tables(graph: Graph) -> Graph:
    """The graph with such chains computed."""
    known = _chains(graph)
    if not known:
        return graph
    users, producers = graph.users(), graph.producers()
    outputs = set(graph.outputs)
    stored = sum(array.nbytes for array in graph.constants.values())
    left = max(LEAST_GROWTH, stored // 8)
    rewriter = GraphRewriter(graph)
    arrays: dict[Value, Array] = dict(graph.constants)
    for node in graph.nodes:
        ends = node in known and (
            node.output in outputs or any(user not in known for user in users.get(node.output, ()))
        )
        if ends and known[node] and _bytes(node.output) <= left:
            array = _computed(node, producers, arrays)
            if array is not None:
                left -= array.nbytes
                rewriter.stand(node.output, rewriter.constant(array))
                rewriter.changed = True
                continue
        rewriter.visit(node)
    return rewriter.finish()


def _chains(graph: Graph) -> dict[Node, bool]:
    """The nodes that depend on constants only, and whether anything has been looked up or added up
    before."""
    producers = graph.producers()
    found: dict[Node, bool] = {}
    for node in graph.nodes:
        if node.regions or node.operator.is_random or len(node.outputs) != 1:
            continue
        before = [producers.get(value) for value in node.inputs]
        sources = [value for value, made in zip(node.inputs, before) if made is None]
        if any(value not in graph.constants for value in sources):
            continue
        if any(made is not None and made not in found for made in before):
            continue
        if not node.output.type.is_static or _bytes(node.output) > MOST_BYTES:
            continue
        if node.has_symbols or _widens(node):
            continue
        is_work = node.operator.name in LOOK_UPS or node.operator.name in SUMS
        found[node] = is_work or any(made is not None and found[made] for made in before)
    return found


def _computed(
    end: Node, producers: Mapping[Value, Node], arrays: dict[Value, Array]
) -> Array | None:
    """The value of a node of a chain; None if it cannot be computed, in which case the run reports
    the error."""
    waiting = [end]
    while waiting:
        node = waiting[-1]
        missing = [producers[value] for value in node.inputs if value not in arrays]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        try:
            with np.errstate(all="ignore"):
                (array,) = node.operator.compute(
                    [arrays[value] for value in node.inputs], node.attributes
                )
        except (CompileError, InternalError, ArithmeticError, IndexError, TypeError, ValueError):
            return None
        arrays[node.output] = np.asarray(array)
    return np.asarray(arrays[end.output], order="C")


def _bytes(value: Value) -> int:
    numel = value.type.numel
    assert isinstance(numel, int)
    return numel * value.type.dtype.bytes


def _widens(node: Node) -> bool:
    """Whether a node converts quantized weights to floats. These are to stay small."""
    if node.operator.name != "cast" or not node.output.type.dtype.is_float:
        return False
    source = node.inputs[0].type.dtype
    return not source.is_float and source.bytes == 1
