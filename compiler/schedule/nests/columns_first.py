"""Computes blocks of rows column by column, where data gives the places along the row, and these
are the same in every row.

    out[n*i + j] = x[m*i + place[j]]      becomes
    parallel block:  vector j in 0..n:  for i in 32 rows:  out[n*i + j] = x[m*i + place[j]]

So the places of a vector, and whether they are neighbours, are computed once for 32 rows. Where
these are few blocks, as 3 channels of an image are one, the columns are cut into blocks, too.
"""

from __future__ import annotations

import math

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression, Load
from bessemer.compiler.ir.walk_expr import all_nodes, index_expressions, loads_of, reductions_of
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.merge_axes import extent_of

ROWS = 32
"""Rows in a block."""
FEWEST_BLOCKS = 4
"""With fewer blocks, there is too little for the threads to share."""
COLUMNS = 1024
"""Columns in a block, where there are too few blocks of rows."""
COMPUTED = 8
"""Places of this many operations are computed, as those of a sampled image are; with fewer they
are only looked up. (3 rows of 512 x 512 looked up on one thread: 437 us row by row, 516 columns
first; sampled linearly: 1990, 1524.)
"""
FARTHEST = 16 << 10
"""The greatest distance of rows in bytes: 32 longer ones do not stay in the cache. (512 rows of 32
KiB, 2048 places in each, one thread: 2.7 ms row by row, 8.5 columns first; of 4 KB, 1000 places:
0.31, 0.22.)
"""


def columns_of_a_block(
    value: Expression, outer: tuple[Symbol, ...], inner: Symbol, dependence: Dependence
) -> Size | None:
    """How many columns a block has; None if rows are written one by one. Data must give the places
    along a row's axis of some elements, and these places must be the same for all rows along the
    last of the outer axes. There must be enough blocks. Rows whose places are only looked up must
    not be far apart."""
    if not outer or reductions_of(value):
        return None
    loads = [(load, place) for load in loads_of(value) for place in _places(load)]
    moving = [(load, place) for load, place in loads if inner in dependence.of(place)]
    if not moving or any(outer[-1] in dependence.of(place) for _, place in moving):
        return None
    *others, rows = map(extent_of, outer)
    columns = extent_of(inner)
    blocks = dims.product(others) * dims.ceildiv(rows, ROWS)
    if all(len(all_nodes(place)) < COMPUTED for _, place in moving):
        is_far = any(_are_far_apart(load, outer[-1]) for load, _ in moving)
        return None if is_far or _is_below(blocks, FEWEST_BLOCKS) else columns
    if (blocks if isinstance(blocks, int) else math.gcd(*blocks.terms.values())) >= FEWEST_BLOCKS:
        return columns
    return None if _is_below(columns, FEWEST_BLOCKS * COLUMNS) else COLUMNS


def _places(load: Load) -> list[Expression]:
    """The expressions that give the places of a load."""
    return [place for offset in load.indices for place in index_expressions(offset)]


def _is_below(size: Size, bound: int) -> bool:
    """Whether a size is known, and below a bound."""
    return isinstance(size, int) and size < bound


def _are_far_apart(load: Load, row: Symbol) -> bool:
    stride = dims.coefficient_of(load.indices[0], row)
    return isinstance(stride, int) and abs(stride) * load.buffer.dtype.bytes > FARTHEST
