"""Computes blocks of rows column by column, where data gives the places along the row, and these
are the same in every row.

    out[n*i + j] = x[m*i + place[j]]      becomes
    parallel block:  vector j in 0..n:  for i in 32 rows:  out[n*i + j] = x[m*i + place[j]]

So the places of a vector, and whether they are neighbours, are computed once for 32 rows.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Expression, Load
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of, reductions_of
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.merge_axes import extent_of

ROWS = 32
"""Rows in a block."""
FEWEST_BLOCKS = 4
"""With fewer blocks, there is too little for the threads to share."""
FARTHEST = 16 << 10
"""The greatest distance of rows in bytes: 32 longer ones do not stay in the cache. (512 rows of 32
KiB, 2048 places in each, one thread: 2.7 ms row by row, 8.5 columns first; of 4 KB, 1000 places:
0.31, 0.22.)
"""


def has_common_places(
    value: Expression, outer: tuple[Symbol, ...], inner: Symbol, dependence: Dependence
) -> bool:
    """Whether data gives the places along a row's axis of some elements, and these places are the
    same for all rows along the last of the outer axes. There must be enough blocks of rows, and
    rows must not be far apart."""
    if not outer or reductions_of(value):
        return False
    *others, rows = map(extent_of, outer)
    blocks = dims.product(others) * dims.ceildiv(rows, ROWS)
    if isinstance(blocks, int) and blocks < FEWEST_BLOCKS:
        return False
    looks_up = False
    for load in loads_of(value):
        for offset in load.indices:
            for place in index_expressions(offset):
                if inner in dependence.of(place):
                    if outer[-1] in dependence.of(place) or _are_far_apart(load, outer[-1]):
                        return False
                    looks_up = True
    return looks_up


def _are_far_apart(load: Load, row: Symbol) -> bool:
    stride = dims.coefficient_of(load.indices[0], row)
    return isinstance(stride, int) and abs(stride) * load.buffer.dtype.bytes > FARTHEST
