"""Separates the decoding of weights of bytes from their product, where decoding inside it does not
pay.

    matmul_blocks(x, bytes, scales, shifts)      one block for the whole depth
    becomes   matmul(x, (cast(bytes) - zeros) * scales)

This is for GPUs, whose products of floats run on all processors and on tensor cores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.contractions.nibbles import PANEL, unpack_blocks, unpack_units

_MIDDLE = 128.0


def decode_weights(graph: Graph) -> Graph:
    """The same network, with products of floats for those with bytes."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "matmul_blocks":
        return None
    x, *given = node.inputs
    known = [rewriter.constants[value] for value in given if value in rewriter.constants]
    if len(known) < len(given):
        return None
    packed, scales, *shifts = known
    columns = node.attributes["columns"]
    if packed.shape[2] != PANEL or node.attributes["block"] < packed.shape[1]:
        return None
    units = np.ascontiguousarray(unpack_units(packed, columns, 8).T)
    zeros = np.full((1, columns), _MIDDLE, np.float32)
    for shift in shifts:
        zeros -= unpack_blocks(shift, columns).T.astype(np.float32)
    weights = rewriter.emit("cast", rewriter.constant(units), dtype=f32)
    factors = np.ascontiguousarray(unpack_blocks(scales, columns).T.astype(np.float32))
    for operator, numbers in (("sub", zeros), ("mul", factors)):
        row = rewriter.emit("broadcast_to", rewriter.constant(numbers), shape=units.shape)
        weights = rewriter.emit(operator, weights, row)
    return (rewriter.emit("matmul", x, weights),)
