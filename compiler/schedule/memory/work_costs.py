"""Estimates what it costs to compute a node once more: operations and bytes moved."""

from __future__ import annotations

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.schedule.grouping.kinds import is_costly, kind_of
from bessemer.compiler.schedule.memory.live_memory import Count

BALANCE = 8
"""The machine balance: operations that a processor does in the time in which it loads or stores a
byte."""
_COSTLY_OPERATIONS = 12


def node_cost(node: Node, count: Count) -> int:
    """Operations plus bytes moved, weighted so that both are in units of an operation."""
    if node.operator.is_view:
        return 0
    moved = sum(count(value.type.numel) * value.type.dtype.bytes for value in node.outputs)
    return operations(node, count) + BALANCE * moved


def operations(node: Node, count: Count) -> int:
    """The floating-point operations of a node. A function such as exp counts as several."""
    if node.operator.is_view:
        return 0
    numel = count(node.outputs[0].type.numel) if node.outputs else 0
    match node.operator.name:
        case "matmul":
            return 2 * numel * count(node.inputs[0].type.shape[-1])
        case "conv":
            return 2 * numel * count(product(node.inputs[1].type.shape[:-1]))
        case "plane_conv":
            return 2 * numel * count(product(node.inputs[1].type.shape[1:]))
        case "conv_transpose":
            source = count(node.inputs[0].type.numel)
            weight = node.inputs[1].type.shape
            return 2 * source * count(product((*weight[:-2], weight[-1])))
        case "lstm" | "gru" | "rnn":
            sequence = node.inputs[0].type.shape
            steps = count(product(sequence[:2]))
            return 2 * steps * sum(count(v.type.numel) for v in node.inputs[1:3])
        case name if name.startswith("reduce_"):
            return count(node.inputs[0].type.numel)
        case name if kind_of(node) in ("statements", "structural", "heavy"):
            return 4 * sum(count(v.type.numel) for v in (*node.inputs, *node.outputs))
        case name:
            return numel * (_COSTLY_OPERATIONS if is_costly(node) else 1)
