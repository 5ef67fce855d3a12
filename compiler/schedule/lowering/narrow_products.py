"""Lowers products with packed weights of four or eight bits; their tiles are as high as the
machine's registers allow."""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.contractions.nibbles import PANEL, TOGETHER
from bessemer.compiler.ops.contractions.row_tiles import FEW_REGISTERS_ROWS
from bessemer.compiler.schedule.lowering.lower_statements import lower_statements
from bessemer.compiler.schedule.lowering.lowering import Lowering

_VECTORS = 2
"""The width of a tile in vectors."""
_MANY_REGISTERS_ROWS = 12  # 24 sums, two vectors of weights, their scales and shifts


def lower_narrow_product(node: Node, lowering: Lowering) -> Launch | None:
    """The launch of a matmul_blocks or matmul_rounded; None for other operators."""
    if node.operator.name not in ("matmul_blocks", "matmul_rounded"):
        return None
    x, many = node.inputs[0].type, lowering.target.vector_registers > 16
    sizes = {"rows": _MANY_REGISTERS_ROWS if many else FEW_REGISTERS_ROWS}
    if node.operator.name == "matmul_blocks":
        sizes["width"] = min(_VECTORS * lowering.target.lanes(f32), PANEL)
    tall = replace(node, attributes={**node.attributes, **sizes})
    launch = lower_statements(tall, lowering, 2 * x.numel * PANEL * TOGETHER)
    return replace(launch, nodes=(node,))
