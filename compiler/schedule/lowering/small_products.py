"""Products of free sizes that a run may find small: of few rows, or of few steps.

Packing the right operand then takes as long as multiplying by it, or longer. So a launch of its own
multiplies such products and reads the operand where it lies; the launches that pack it and multiply
by what is packed do nothing. All three decide by the sizes of the run, which each of them is given.

    item in strips x row tiles
      for panel in the strip:   the sums of a tile, from the rows of b

The panels are four vectors wide, so that each row of `b` gives whole cache lines, and the output is
written row by row. (Zen 5, all sizes free, one thread, packed and in place: 1x512x512 40 -> 17 us,
12x512x512 61 -> 33, 16x768x768 141 -> 101, 1000x3x1000 85 -> 57, 1024x3x1024 105 -> 55.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan, registers_tile
from bessemer.compiler.schedule.grouping.groups import Grouping, in_order
from bessemer.compiler.schedule.grouping.views import source_of
from bessemer.compiler.schedule.lowering.tile_job import TileJob
from bessemer.compiler.targets.machine import Target

_VECTORS = 4
"""The width of a panel."""
_MOST_ROWS = 24
"""Of a small product. (Zen 5: 24x1024x1024 334 us packed, 294 in place; 48x768x768 330 and 354.)"""
_MOST_STEPS = 8
"""The same. (500x12x500 32 us and 35; 1000x8x1000 126 and 106, on two threads 73 and 82.)"""
_STEPS_OF_ITEM = 256
"""An item has panels of so many steps, all together."""


@dataclass(frozen=True, eq=False)
class SmallProduct:
    """How a product is computed if the run finds `is_small` to be 1, and not 0. `right` is the
    value in whose memory the right operand lies; `contraction` has no `b` yet."""

    right: Value
    contraction: Contraction
    tiling: Tiling
    is_small: Size


def small_product(
    job: TileJob, anchor: Node, draft: Contraction, grouping: Grouping, target: Target
) -> SmallProduct | None:
    """None unless the run decides whether the product is small, and rows of the right operand are
    contiguous in memory.

    The columns must be free, too: products of weights, whose updates may join them in training
    (update_in_product.py), are left alone.
    """
    if anchor.operator.name != "matmul" or job.matrices != 1 or isinstance(draft.columns, int):
        return None
    if len(draft.depth) != 1 or draft.group != 1 or draft.bands is not None:
        return None
    right = anchor.inputs[1]
    source = source_of(right, grouping.views(right))
    if source is None or source.base != 0 or source.strides[-1] != 1:
        return None
    if not all(
        node.operator.is_view and node.inputs for node in in_order(grouping.packs.get(anchor))
    ):
        return None
    height = registers_tile(_VECTORS, target.vector_registers)
    model = plan(draft, target, shape=(height, _VECTORS))
    rows = dims.product(axis.extent for axis in draft.rows)
    is_large = _is_more(rows, _MOST_ROWS) * _is_more(draft.depth_extent, _MOST_STEPS)
    is_wide = _is_more(draft.columns, model.panel - 1)
    strip = dims.maximum(1, dims.floordiv(_STEPS_OF_ITEM, dims.maximum(1, draft.depth_extent)))
    tiling = replace(model, block=1, prefetch=False, fetches_rows=False, strip=strip)
    reading = replace(draft, b_step=source.strides[-2])
    return SmallProduct(source.value, reading, tiling, is_wide - is_wide * is_large)


def _is_more(size: Size, than: int) -> Size:
    """1 if a size is larger than a number, else 0."""
    return dims.minimum(1, dims.floordiv(size, than + 1))
