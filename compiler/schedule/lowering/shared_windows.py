"""Multiplies by windows that share most of their rows (grouping/shared_windows.py) where these lie.

    parallel item in windows x panels x row tiles
      the sums of a tile, from the window's rows

The matrices are as many as an image has rows, and each is multiplied by few rows of weights, so
that one tile, or a few, read a panel. A panel that ends with the last column is whole: it has
columns of the one before, too.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan, registers_tile
from bessemer.compiler.schedule.grouping.groups import Grouping
from bessemer.compiler.schedule.grouping.shared_windows import is_of_shared_windows
from bessemer.compiler.schedule.grouping.views import source_of
from bessemer.compiler.targets.machine import Target

_MOST_VECTORS = 4
"""The width of a panel."""


def reads_shared_windows(anchor: Node, grouping: Grouping) -> bool:
    """Whether a contraction is a product by such windows."""
    right = anchor.inputs[1]
    return is_of_shared_windows(anchor, source_of(right, grouping.views(right)))


def shared_windows(
    anchor: Node, draft: Contraction, grouping: Grouping, target: Target
) -> tuple[Value, Contraction, Tiling] | None:
    """The value in whose memory such windows lie, and a contraction and a tiling that read them
    there; None for other products. The caller still has to set the contraction's `b`."""
    right = anchor.inputs[1]
    source = source_of(right, grouping.views(right))
    if source is None or not is_of_shared_windows(anchor, source):
        return None
    tiling = _tiling(draft, target)
    if tiling is None or draft.group != 1 or draft.bands is not None:
        return None
    *_, height, depth, step = source.value.type.shape
    images = right.type.shape[:-3]
    batch = [height * product(images[place + 1 :]) for place in range(len(images))] + [1]
    rows = [replace(row, b_stride=stride) for row, stride in zip(draft.rows, batch)]
    reading = replace(draft, rows=(*rows, draft.rows[-1]), b_step=step, b_distance=depth * step)
    return source.value, reading, tiling


def _tiling(draft: Contraction, target: Target) -> Tiling | None:
    """Tiles that are no wider than a row, of the shape that loads the fewest vectors and numbers
    for its products, and computes the fewest columns twice."""
    rows, columns = draft.rows[-1].extent, draft.columns
    if not isinstance(rows, int):
        return None
    costs: dict[float, Tiling] = {}
    for vectors in range(1, _MOST_VECTORS + 1):
        height = cut_evenly(rows, registers_tile(vectors, target.vector_registers)).height
        assert isinstance(height, int)
        tiling = plan(draft, target, shape=(height, vectors))
        if dims.is_nonnegative(columns - tiling.panel):
            share = -(-columns // tiling.panel) * tiling.panel if isinstance(columns, int) else 1
            costs[share * (1 + (vectors + height) / (vectors * height))] = tiling
    if not costs:
        return None
    found = costs[min(costs)]
    return replace(found, block=1, prefetch=False, fetches_rows=False, strip=1)
