"""Rounds activations to bytes, if a product with weights of few bits allows that.

    matmul_blocks(x, weights, scales, rounds=True)
    becomes   matmul_rounded(round_blocks(x), weights', scales)

This is for machines with an instruction that adds up products of bytes, which does four times the
work of a multiply-add. The weights are packed in another order for it. All blocks must be whole,
and not very long. Shifts of bytes, which would need a ninth bit, are a product of their own: a row
has one number for each block there, the sum of its activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.contractions.matmul_rounded import GROUP, pack_rounded
from bessemer.compiler.ops.contractions.nibbles import HALF, TOGETHER, unpack_blocks, unpack_units

_LONGEST_BLOCK = 1024
"""Of the depth: a thread has the units of a block on its stack."""
_LOWEST_SHIFT = -7
"""From here on, shifts of units of four bits are i8 numbers that are not below 0."""


def round_activations(graph: Graph) -> Graph:
    """The same network with products of bytes, where nodes allow them."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "matmul_blocks" or not node.attributes.get("rounds"):
        return None
    x, *given = node.inputs
    known = [rewriter.constants[value] for value in given if value in rewriter.constants]
    columns, block = node.attributes["columns"], node.attributes["block"]
    if len(known) < len(given) or block % GROUP or block > _LONGEST_BLOCK:
        return None
    if known[0].shape[1] % block:
        return None
    packed, scales, *shifts = known
    width = 4 if packed.shape[2] == HALF else 8
    weights = pack_rounded(unpack_units(packed, columns, width), width)
    middle = 1 << (width - 1)
    more: list[Value] = []
    if shifts and width == 4:
        moved = shifts[0].astype(np.float32) - _LOWEST_SHIFT
        if (moved != np.rint(moved)).any() or moved.min() < 0 or moved.max() > 255 - 15:
            return None
        more.append(rewriter.constant(_by_step(moved.astype(np.uint8))))
        middle -= _LOWEST_SHIFT
    rounded = rewriter.emit_many("round_blocks", (x,), {"block": block})
    attributes = {"columns": columns, "block": block, "middle": middle}
    weights_value = rewriter.constant(weights)
    result = rewriter.emit("matmul_rounded", *rounded, weights_value, given[1], *more, **attributes)
    if shifts and width == 8:
        moved = unpack_blocks(shifts[0].astype(np.float32) * scales.astype(np.float32), columns)
        sums = rewriter.constant(np.ascontiguousarray(moved.T))
        result = rewriter.emit("add", result, rewriter.emit("matmul", rounded[2], sums))
    return (result,)


def _by_step(shifts: Array) -> Array:
    """[panels, blocks, 32] -> [wide panels, blocks, 4, 128]: one for every byte of a step."""
    panels, blocks, _ = shifts.shape
    wide = np.repeat(shifts, GROUP, axis=2).reshape(panels // TOGETHER, TOGETHER, blocks, -1)
    return np.ascontiguousarray(wide.transpose(0, 2, 1, 3))
