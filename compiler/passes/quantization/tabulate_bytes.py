"""Replaces chains of operators from a byte to a byte by a table.

    %2 = mul(sub(cast(%1 : u8), zero), scale)                quantized: one of 256 numbers
    %3 = mul(%2, sigmoid(%2))
    %4 = cast(add(round(div(%3, scale')), zero')) : u8       becomes    gather(table, cast(%1))

The activations of quantized networks are such chains, and so are changes of the scale. The pass is
for machines that look bytes up in registers; on others the arithmetic is faster. The table's
entries are computed by the operators' references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, i8, i32, u8
from bessemer.compiler.passes.known_values import uniform
from bessemer.compiler.passes.pointwise import is_pointwise

BYTES = (u8, i8)
LEAST_STEPS = 3
"""Operators between two bytes that are worth a table."""


@dataclass(frozen=True, eq=False)
class _Function:
    """A value whose elements are `results`, indexed by the bits of the bytes in `source`. It takes
    `steps` operators to compute. A known number has no source."""

    source: Value | None
    results: Array
    steps: int = 0


def tabulate_bytes(graph: Graph) -> Graph:
    """The graph with such chains as look-ups."""
    known: dict[Value, _Function] = {}

    def rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        if not is_pointwise(node.operator):
            return None
        found = _applied(rewriter, known, node)
        if found is None or found.source is None:
            return None
        known[node.output] = found
        if node.output.type.dtype not in BYTES or found.steps < LEAST_STEPS:
            return None
        value = _looked_up(rewriter, found.source, found.results)
        known[value] = found
        return (value,)

    return rewrite_graph(graph, rule)


def _applied(
    rewriter: GraphRewriter, known: Mapping[Value, _Function], node: Node
) -> _Function | None:
    """What a node computes, as a function of one byte; None if it depends on more."""
    given = [_function(rewriter, known, value) for value in node.inputs]
    functions = [one for one in given if one is not None]
    sources = {one.source for one in functions if one.source is not None}
    if len(functions) < len(given) or len(sources) != 1:
        return None
    arrays = [one.results for one in functions]
    with np.errstate(all="ignore"):
        (results,) = node.operator.compute(arrays, node.attributes)
    return _Function(sources.pop(), results, 1 + max(one.steps for one in functions))


def _function(
    rewriter: GraphRewriter, known: Mapping[Value, _Function], value: Value
) -> _Function | None:
    if value in known:
        return known[value]
    dtype = value.type.dtype
    number = uniform(rewriter, value)
    if number is not None:
        return _Function(None, np.full(256, number, dtype.numpy))
    if dtype in BYTES and value not in rewriter.constants:
        return _Function(value, np.arange(256, dtype=np.uint8).view(dtype.numpy))
    return None


def _looked_up(rewriter: GraphRewriter, place: Value, results: Array) -> Value:
    if place.type.dtype is i8:
        place = rewriter.emit("cast", place, dtype=u8)
    place = rewriter.emit("cast", place, dtype=i32)
    return rewriter.emit("gather", rewriter.constant(results), place, axis=0)
