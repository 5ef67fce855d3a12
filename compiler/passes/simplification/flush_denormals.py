"""Sets constants that are denormal numbers to zero.

    const f32 [1e-40, 1.0]                   becomes    const f32 [0.0, 1.0]

Compiled code flushes denormals (FTZ and DAZ) while it runs, so a denormal weight must not differ
from the zero that the processor takes it for. Denormal float16 numbers are kept: they are normal
numbers in the f32 arithmetic in which they are used.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node
from bessemer.compiler.ir.rewrite import map_regions
from bessemer.compiler.ir.types import Array, DType, bf16, f32, f64

_SMALLEST = {f32: 2.0**-126, bf16: 2.0**-126, f64: 2.0**-1022}
"""The smallest normal number of each type whose denormals the processor would see."""
PIECE = 65536
"""Elements: of f64, half of a second-level cache."""


def flush_denormals(graph: Graph) -> Graph:
    """The graph with denormal constants replaced by zeros of the same sign."""
    constants = {v: _flushed(array, v.type.dtype) for v, array in graph.constants.items()}
    nodes = tuple(_flush_node(node) for node in graph.nodes)
    same_nodes = all(a is b for a, b in zip(nodes, graph.nodes))
    if same_nodes and all(constants[v] is array for v, array in graph.constants.items()):
        return graph
    return replace(graph, constants=constants, nodes=nodes)


def _flushed(array: Array, dtype: DType) -> Array:
    smallest = _SMALLEST.get(dtype)
    if smallest is None:
        return array
    limit = np.asarray(smallest).astype(array.dtype)
    flat = array.ravel("K")
    # Piece by piece: what is compared stays in the cache.
    pieces = (flat[start : start + PIECE] for start in range(0, flat.size, PIECE))
    if not any(_has_denormals(piece, limit) for piece in pieces):
        return array
    with np.errstate(invalid="ignore"):
        denormal = (np.abs(array) < limit) & (array != 0)
    return np.where(denormal, np.copysign(np.zeros((), array.dtype), array), array)


def _has_denormals(piece: Array, limit: Array) -> bool:
    with np.errstate(invalid="ignore"):  # NaN is not a denormal
        small = np.abs(piece) < limit
    return bool(small.any() and (piece[small] != 0).any())


def _flush_node(node: Node) -> Node:
    if node.operator.name == "full":
        value, dtype = node.attributes["value"], node.attributes["dtype"]
        if dtype in _SMALLEST and 0 < abs(value) < _SMALLEST[dtype]:
            return replace(node, attributes={**node.attributes, "value": 0.0})
    return map_regions(node, flush_denormals)
