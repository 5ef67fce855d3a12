"""Lowers a group around an attention to launches: one that packs the keys, one that packs the
values unless these are read where they lie, and the attention kernel."""

from __future__ import annotations

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.schedule.grouping.groups import Group, Grouping, in_order
from bessemer.compiler.schedule.grouping.views import source_of
from bessemer.compiler.schedule.lowering.attention_in_place import most_rows_in_place
from bessemer.compiler.schedule.lowering.attention_kernel import AttentionKernel
from bessemer.compiler.schedule.lowering.attention_packing import (
    Packed,
    pack_right,
    packed_by_panels,
    panel_width,
)
from bessemer.compiler.schedule.lowering.attention_tiles import is_on_tiles
from bessemer.compiler.schedule.lowering.attention_values import values_in_memory
from bessemer.compiler.schedule.lowering.lowering import Lowering


def lower_attention_group(group: Group, grouping: Grouping, lowering: Lowering) -> list[Launch]:
    """The launches of a group around an attention."""
    attention = group.attention
    assert attention is not None and group.root is not None
    scores, product = attention.scores, attention.product
    to_keys, to_values = (in_order(grouping.packs.get(node)) for node in (scores, product))
    few = most_rows_in_place(attention, [*to_keys, *to_values])
    views = grouping.views(scores.inputs[0])
    query = source_of(scores.inputs[0], views)
    if query is None:
        raise InternalError("an attention's query does not lie in memory")
    on_tiles = is_on_tiles(attention, query, lowering.target)
    by_panels = None
    if not few and not on_tiles and lowering.vectorize:
        by_panels = packed_by_panels(attention, to_keys, lowering.target)
    keys = by_panels or pack_right(scores, to_keys, lowering, few, on_tiles)
    width = panel_width(product, lowering.target)
    values = values_in_memory(attention, to_values, width) or pack_right(
        product, to_values, lowering, few, on_tiles
    )
    kernel = AttentionKernel(
        group, query, keys, values, few, on_tiles, (*to_keys, *to_values), views, lowering
    )
    packing = [one.launch for one in (keys, values) if isinstance(one, Packed)]
    return [*packing, kernel.launch()]
