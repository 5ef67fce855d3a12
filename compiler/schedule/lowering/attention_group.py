"""Lowers a group around an attention: its kernel, behind those that pack its keys and, unless they
lie in order, its values."""

from __future__ import annotations

from bessemer.compiler.ir.program import Launch
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.lowering.attention_in_place import most_rows_in_place
from bessemer.compiler.schedule.lowering.attention_kernel import AttentionKernel
from bessemer.compiler.schedule.lowering.attention_packing import (
    Packed,
    pack_right,
    packed_by_panels,
    panel_width,
)
from bessemer.compiler.schedule.lowering.attention_query import query_of
from bessemer.compiler.schedule.lowering.attention_tiles import is_on_tiles
from bessemer.compiler.schedule.lowering.attention_values import values_in_memory
from bessemer.compiler.schedule.lowering.lower import Lowering


def lower_attention_group(group: Group, grouping: Grouping, lowering: Lowering) -> list[Launch]:
    """The launches of a group around an attention."""
    attention, packs = group.attention, grouping.packs
    assert attention is not None and group.root is not None
    products = (attention.scores, attention.product)
    before = [packs[product].nodes if product in packs else [] for product in products]
    nodes = [node for part in before for node in part]
    few = most_rows_in_place(attention, nodes)
    views = grouping.views(attention.scores.inputs[0])
    query = query_of(attention, views, Fusion({}, lowering.constants))
    on_tiles = is_on_tiles(attention, query, lowering.target)
    by_panels = None
    if not few and not on_tiles and lowering.vectorize:
        by_panels = packed_by_panels(attention, before[0], lowering.target)
    keys = by_panels or pack_right(
        attention.scores, packs.get(attention.scores), lowering, few, on_tiles
    )
    width = panel_width(attention.product, lowering.target)
    values = values_in_memory(attention, before[1], width) or pack_right(
        attention.product, packs.get(attention.product), lowering, few, on_tiles
    )
    kernel = AttentionKernel(group, keys, values, few, on_tiles, nodes, views, lowering)
    packing = [one.launch for one in (keys, values) if isinstance(one, Packed)]
    return [*packing, kernel.launch()]
