"""A cost model of a contraction's register tiles, to choose the shapes that `bessemer tune`
measures.

A step of the depth multiplies a column of `height` numbers by a row of `vectors` vectors. The
model: a processor starts two fused multiply-adds per cycle, which take four cycles each, and two
loads; every row needs a broadcast, which is a load, and every vector of the right operand needs one
load.
"""

from __future__ import annotations

from math import ceil

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import Contraction, walk_of
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.tiles import registers_tile
from bessemer.compiler.targets.machine import Target

_MULTIPLIERS = 2
_LOADS = 2
_LATENCY = 4
_TILE_CYCLES = 40
"""Cycles per tile besides its steps: to clear the sums, store the results, and end the loops."""
_WORTH = 1.25
"""Shapes that cost more than this many times the best are left out: the model is not that wrong."""
_USUAL = 512
"""Assumed for sizes that are only known when the model runs."""


def tile_cost(work: Contraction, target: Target, height: int, vectors: int) -> float:
    """The cycles of the whole contraction by tiles of `height` rows and `vectors` vectors, if all
    operands come from the first-level cache."""
    lanes = target.lanes(work.dtype)
    walk = walk_of(work, height)
    cut = cut_evenly(walk.axis.extent, max(1, height // walk.unit))
    rows = cut.height * walk.unit
    count = _known(cut.count)
    for axis in (*walk.batch, *walk.outer):
        count *= _known(axis.extent)
    panels = ceil(_known(work.columns) / (vectors * lanes))
    steps = _known(work.depth_steps)
    sums = rows * vectors
    cycles = max(sums / _MULTIPLIERS, (rows + vectors) / _LOADS, _LATENCY)
    return count * panels * (steps * cycles + _TILE_CYCLES)


def promising_shapes(work: Contraction, target: Target) -> list[tuple[int, int]]:
    """(height, vectors) of the tiles that may be fastest, the most promising first. Heights that
    give the same tiles when an axis is cut evenly are listed once, as the largest of them."""
    costs: dict[tuple[int, int], float] = {}
    tiles: set[tuple[int, int]] = set()
    for vectors in (1, 2, 3, 4):
        most = registers_tile(vectors, target.vector_registers)
        for height in range(most, max(0, most - 6), -1):
            walk = walk_of(work, height)
            cut = cut_evenly(walk.axis.extent, max(1, height // walk.unit))
            tile = (cut.height * walk.unit, vectors)
            if tile not in tiles:
                tiles.add(tile)
                costs[height, vectors] = tile_cost(work, target, height, vectors)
    best = min(costs.values())
    found = [shape for shape, cost in costs.items() if cost <= best * _WORTH]
    return sorted(found, key=lambda shape: (costs[shape], shape))


def _known(size: Size) -> int:
    return size if isinstance(size, int) else _USUAL
