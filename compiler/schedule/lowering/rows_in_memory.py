"""Matrix products whose right operand is read where it lies, because there are only few rows
(grouping/few_rows.py).

The lines of a panel are then as far apart as the rows of the operand. If that is a power of two,
they fall into few sets of a cache. So the depth is cut into blocks. The second-level cache can
hold the lines of one depth block, which all tiles of a block use, and those of the next.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.schedule.grouping.few_rows import tiles_read_in_place
from bessemer.compiler.schedule.grouping.groups import Grouping, in_order
from bessemer.compiler.schedule.grouping.views import source_of
from bessemer.compiler.targets.machine import Target

_SHORTEST, _LONGEST = 64, 256
"""The least and the greatest number of steps of a depth block. For shorter ones, adding partial
sums takes longer than packing."""


def in_memory(
    anchor: Node, draft: Contraction, tiling: Tiling, grouping: Grouping, target: Target
) -> tuple[Value, Contraction, Tiling] | None:
    """The value in whose memory the right operand lies, and a contraction and a tiling that read it
    there. None if it should be packed. The caller still has to set the contraction's `b`."""
    if anchor.operator.name != "matmul":
        return None
    right = anchor.inputs[1]
    operands = [source_of(value, grouping.views(value)) for value in anchor.inputs]
    source, pack_nodes = operands[1], in_order(grouping.packs.get(anchor))
    if source is None or not tiles_read_in_place(anchor, pack_nodes, operands):
        return None
    *outer, step, _ = source.strides
    columns, depth = right.type.shape[-1], right.type.shape[-2]
    assert isinstance(step, int) and isinstance(columns, int) and isinstance(depth, int)
    if columns % tiling.panel or len(draft.depth) != 1 or draft.group != 1 or tiling.depth_block:
        return None
    longest = min(_LONGEST, target.l2_bytes // (2 * step * right.type.dtype.bytes))
    if longest < _SHORTEST:
        return None
    depth_block = None
    if depth > longest:
        blocks = -(-depth // longest)
        depth_block = -(-depth // (blocks * tiling.unroll)) * tiling.unroll
    distance = outer[0] if outer else 0
    reading = replace(draft, b_step=step, b_distance=distance)
    return source.value, reading, replace(tiling, depth_block=depth_block, fetches_rows=False)
